"""What is wrong with served vectors, in words: compared with those of the proven model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from job.model.encode import embed_texts
from job.model.encoder import Model
from job.model.parts import ROLES, Role
from job.serving.endpoints import Endpoint, FloatArray, Refused

BATCH = 32
# Minimum cosine of a served and a stored vector, and that for half precision.
COSINE, HALF_COSINE = 0.999, 0.99
HALVES = ("float16", "bfloat16")
# How far the length of a vector may be from 1.
LENGTH_TOLERANCE = 1e-2
PLURAL: dict[Role, str] = {"query": "queries", "document": "documents"}
POOLINGS = {
    "cls": "the first token",
    "mean": "the mean of all tokens",
    "max": "the maximum of all tokens",
    "lasttoken": "the last token",
}


@dataclass(frozen=True)
class Finding:
    """A sentence; `is_wrong` if the endpoint does not serve the proven vectors."""

    sentence: str
    is_wrong: bool = True


@dataclass(frozen=True)
class Served:
    """An endpoint beside the model that it should serve; `at_least` is the minimum cosine."""

    endpoint: Endpoint
    model: Model
    at_least: float = COSINE

    def vectors(self, texts: Sequence[str], role: Role) -> FloatArray:
        """Return the endpoint's vectors of texts with the prompt of their role."""
        return self.endpoint.embed(*self._prompted(texts, role))

    def ask(self, texts: Sequence[str], role: Role, dimensions: int | None = None) -> FloatArray:
        """Do as `vectors`, but raise `Refused` where the endpoint refuses texts or dimensions."""
        return self.endpoint.ask(*self._prompted(texts, role), dimensions)

    def _prompted(self, texts: Sequence[str], role: Role) -> tuple[Sequence[str], str | None]:
        """Return the texts to send, and the name of the prompt that the server puts before them."""
        prompt = self.model.prompt(role)
        # A prompt without text need not be named, and some servers know no names at all.
        name = role if prompt and self.endpoint.names_prompts else None
        if not name:
            texts = [prompt + text for text in texts]
        return texts, name

    def stored(self, texts: Sequence[str], role: Role) -> FloatArray:
        """Return the proven model's vectors, of length 1."""
        found: FloatArray = embed_texts(self.model, list(texts), role, BATCH).cpu().numpy()
        return found


def cosines(served: FloatArray, stored: FloatArray) -> FloatArray:
    """Return the cosine of each row over the components that both have; 0 for no numbers."""
    width = min(served.shape[1], stored.shape[1])
    first, second = served[:, :width], stored[:, :width]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        found = (first * second).sum(axis=1) / lengths
    numbers: FloatArray = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    return numbers


def inspect_vectors(
    served: Served, texts: dict[Role, list[str]], found: dict[Role, FloatArray]
) -> list[Finding]:
    """Explain how the served vectors of the texts (`found`) differ from the stored ones."""
    stored = {role: served.stored(texts[role], role) for role in ROLES}
    everything = np.concatenate(list(found.values()))
    is_number = np.isfinite(everything).all(axis=1)
    if not is_number.all():
        lost = f"{(~is_number).sum()} of {len(is_number)} vectors hold values that are no numbers"
        return [Finding(f"{lost}, as when float16 overflows: serve in float32 or bfloat16")]
    findings = list(_inspect_shape(everything, served.model.width))
    wrong = {r for r in ROLES if cosines(found[r], stored[r]).min() < served.at_least}
    if not wrong:
        return findings
    return findings + _explain(served, texts, found, stored, wrong)


def _inspect_shape(vectors: FloatArray, width: int) -> Iterator[Finding]:
    if vectors.shape[1] != width:
        yield Finding(f"vectors have {vectors.shape[1]} numbers, those of the model {width}")
    if not _are_normalized(vectors):
        yield Finding(f"vectors are not normalized ({_lengths(vectors)}): {ADVICE}", is_wrong=False)


ADVICE = "normalize them, or search by cosine and not by dot product"


def _are_normalized(vectors: FloatArray) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    return bool((abs(lengths - 1) <= LENGTH_TOLERANCE).all())


def _lengths(vectors: FloatArray) -> str:
    lengths = np.linalg.norm(vectors, axis=1)
    return f"lengths {lengths.min():.3g} to {lengths.max():.3g}"


def _explain(
    served: Served,
    texts: dict[Role, list[str]],
    found: dict[Role, FloatArray],
    stored: dict[Role, FloatArray],
    wrong: set[Role],
) -> list[Finding]:
    """Find the mistakes that give these vectors, by making them with the proven model."""
    by_sentence: dict[str, list[str]] = {}
    for role in (role for role in ROLES if role in wrong):
        sentence = next(
            (
                mistake
                for mistake, vectors in _mistakes(served, texts[role], role)
                if vectors.shape == found[role].shape
                and cosines(found[role], vectors).min() >= served.at_least
            ),
            None,
        )
        if sentence is None and _same_numbers(found[role], stored[role]):
            sentence = "has the right numbers in another order in the vectors of {}"
        if sentence is None:
            lowest = cosines(found[role], stored[role]).min()
            sentence = f"serves another model, or changes the texts of {{}} (cosine {lowest:.3f})"
        by_sentence.setdefault(sentence, []).append(PLURAL[role])
    return [
        Finding(f"the endpoint {sentence.format(' and '.join(roles))}")
        for sentence, roles in by_sentence.items()
    ]


def _same_numbers(served: FloatArray, stored: FloatArray) -> bool:
    if served.shape != stored.shape:
        return False
    return bool(cosines(np.sort(served, axis=1), np.sort(stored, axis=1)).min() > 0.9999)


def _mistakes(served: Served, texts: list[str], role: Role) -> Iterator[tuple[str, FloatArray]]:
    """Yield each usual mistake, and the vectors that a server would give that makes it."""
    model, prompt = served.model, served.model.prompt(role)
    if prompt:
        bare = served.model.with_prompts(type(model.prompts)())
        alone = Served(served.endpoint, bare)
        yield "puts no prompt before {}", alone.stored(texts, role)
        yield "puts the prompt before {} twice", served.stored([prompt + t for t in texts], role)
    other = next(other for other in ROLES if other != role)
    if model.prompt(other) != prompt:
        yield f"puts the prompt of {PLURAL[other]} before {{}}", served.stored(texts, other)
    for pooling, name in POOLINGS.items():
        with _pooled(model, pooling) as before:
            if before not in (None, pooling):
                expected = POOLINGS.get(str(before), str(before))
                sentence = f"pools by {name} instead of {expected} in {{}}"
                yield sentence, served.stored(texts, role)
    with _without_dense(model) as was_there:
        if was_there:
            yield "skips the dense layers in {}", served.stored(texts, role)


@contextmanager
def _pooled(model: Model, pooling: str) -> Iterator[str | None]:
    """Pool in another way within the block; yield the way before, or None if that is not one."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [m for m in model.encoder.children() if isinstance(m, Pooling)]
    if len(modules) != 1 or not isinstance(modules[0].pooling_mode, str):
        yield None
        return
    before = modules[0].pooling_mode
    modules[0].pooling_mode = pooling
    try:
        yield before
    finally:
        modules[0].pooling_mode = before


@contextmanager
def _without_dense(model: Model) -> Iterator[bool]:
    """Skip dense layers within the block; yield whether there are any."""
    from sentence_transformers.base.modules import Dense

    modules = [m for m in model.encoder.children() if isinstance(m, Dense)]
    with ExitStack() as stack:
        for module in modules:
            stack.callback(_set_forward, module, module.forward)
            _set_forward(module, lambda features, **_: features)
        yield bool(modules)


def _set_forward(module: object, forward: Callable[..., object]) -> None:
    module.forward = forward  # type: ignore[attr-defined]


def inspect_dimensions(served: Served, texts: list[str], dimensions: int) -> list[Finding]:
    """Ask the endpoint for fewer dimensions, as the report recommends."""
    by_hand = f"keep the first {dimensions} numbers of each vector and normalize them"
    try:
        found = served.ask(texts, "query", dimensions)
    except Refused as refusal:
        why = str(refusal).rstrip(".")
        return [Finding(f"the endpoint refuses `dimensions` ({why}): {by_hand}", is_wrong=False)]
    if found.shape[1] != dimensions:
        return [Finding(f"the endpoint ignores `dimensions`: {by_hand}", is_wrong=False)]
    stored = served.stored(texts, "query")
    whole = cosines(served.vectors(texts, "query"), stored).min()
    # A mistake that the whole vectors have too is explained there.
    if cosines(found, stored).min() < served.at_least <= whole:
        return [Finding(f"asked for {dimensions} dimensions, the endpoint returns other ones")]
    if not _are_normalized(found):
        how = f"cuts vectors to {dimensions} numbers without normalizing them ({_lengths(found)})"
        return [Finding(f"the endpoint {how}: {ADVICE}", is_wrong=False)]
    return []


def inspect_long_text(served: Served, text: str, limit: int) -> list[Finding]:
    """Compare a document of more tokens than the model reads (`limit`)."""
    try:
        found = served.ask([text], "document")
    except Refused as refusal:
        why = str(refusal).rstrip(".")
        sentence = f"the endpoint refuses texts of more than {limit} tokens ({why}): cut them first"
        return [Finding(sentence, is_wrong=False)]
    lowest = cosines(found, served.stored([text], "document")).min()
    if lowest < served.at_least:
        where = f"elsewhere than after {limit} tokens (cosine {lowest:.3f})"
        return [Finding(f"the endpoint cuts long texts {where}")]
    return []
