"""Repeat a training step in smaller mini-batches if memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

from job.runtime.oom import retry_on_oom
from job.training.loss import RankingLoss

# One batch of long texts is no reason to embed all later ones twice; so many are.
MAX_RETRIES = 3


class Retries:
    """Computes steps; `mini_batch_size` is lowered once `MAX_RETRIES` batches did not fit."""

    def __init__(self, loss: RankingLoss, mini_batch_size: int) -> None:
        self.mini_batch_size = mini_batch_size
        self._loss = loss
        # The rows with which each batch that did not fit was computed.
        self._reduced: list[int] = []

    def run(self, model: torch.nn.Module, step: Callable[[], Tensor]) -> Tensor:
        """Return the loss of a step; a repeated one draws the same dropout."""
        cpu, gpus = torch.get_rng_state(), torch.cuda.get_rng_state_all()
        usual, used = self._loss.max_rows, self.mini_batch_size

        def attempt(rows: int) -> Tensor:
            nonlocal used
            if rows < self.mini_batch_size:
                torch.set_rng_state(cpu)
                torch.cuda.set_rng_state_all(gpus)
                model.zero_grad()
                self._loss.embed_at_once(rows)
                used = rows
            return step()

        loss = retry_on_oom(self.mini_batch_size, attempt, "train")
        if used < self.mini_batch_size:
            self._reduced.append(used)
            if len(self._reduced) == MAX_RETRIES:
                usual = self.mini_batch_size = min(self._reduced)
                self._reduced.clear()
            self._loss.embed_at_once(usual)
        return loss
