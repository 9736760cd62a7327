"""The Matryoshka dimensions to train and score. Needs no torch."""

from dataclasses import dataclass

from job.spec.schema import EvaluationSpec

DEFAULT_DIMENSIONS = (2048, 1024, 512, 256, 128, 64)


@dataclass(frozen=True)
class Dimensions:
    """Dimensions to score, large to small; `main` selects checkpoints, `full` decides."""

    all: tuple[int, ...]
    main: int

    @property
    def full(self) -> int:
        return self.all[0]


def dimensions_of(spec: EvaluationSpec, width: int) -> Dimensions:
    """Return the dimensions of the spec, or defaults below the model's width."""
    requested = spec.dimensions or (width, *(d for d in DEFAULT_DIMENSIONS if d < width))
    ordered = tuple(sorted(requested, reverse=True))
    return Dimensions(ordered, next((d for d in ordered if d <= spec.main_dimension), ordered[-1]))
