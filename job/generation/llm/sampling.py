"""Sample tokens so that each request of a batch depends on its own seed only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from job.generation.llm.protocol import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of an exponential draw, which can be rounded to 0: any token would win with its noise. It cuts off
# one in 17 million draws, as the resolution of a GPU's uniform numbers does.
SMALLEST = 2.0**-24


class SeededSampling:
    """Adds noise to the scores of a batch, so that their maximum is a sample at its temperature.

    The largest sum of a log-probability and Gumbel noise is an exact sample (the Gumbel-max trick).
    The library's own sampling draws for the whole batch from one generator: what a request got
    would depend on the requests beside it, and differ after an interruption.
    """

    def __init__(self, settings: Sequence[Settings], device: "torch.device") -> None:
        import torch

        given = torch.tensor([[each.temperature] for each in settings], device=device)
        self._is_greedy = given == 0
        self._temperatures = torch.where(self._is_greedy, 1.0, given)
        self._generators = [torch.Generator(device).manual_seed(each.seed) for each in settings]

    def __call__(self, _: "Tensor", scores: "Tensor") -> "Tensor":
        """Return scores of the same shape: (n_requests, n_tokens)."""
        import torch

        # In half precision, the noise of thousands of tokens would have ties.
        exponential = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(exponential, self._generators, strict=True):
            row.exponential_(generator=generator)
        noise = -exponential.clamp_(min=SMALLEST).log_()
        return torch.where(self._is_greedy, scores.float(), scores / self._temperatures + noise)
