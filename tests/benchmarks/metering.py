"""Count the seconds by phase, texts, padded tokens and memory of a benchmark."""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIB = 2**20


@dataclass
class Meter:
    """Count the texts and tokens that any encoder processes inside `watching()`.

    `encoded` counts texts embedded without a gradient, `trained` those with one.
    """

    seconds: Counter[str] = field(default_factory=Counter)
    encoded: int = 0
    trained: int = 0
    padded_tokens: int = 0
    # The number of texts of each forward pass with a gradient.
    passes: list[int] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    @contextmanager
    def watching(self) -> Iterator["Meter"]:
        from torch.nn.modules.module import register_module_forward_pre_hook

        handle = register_module_forward_pre_hook(self._count)
        try:
            yield self
        finally:
            handle.remove()

    def _count(self, module, inputs):
        import torch
        from sentence_transformers.sentence_transformer.modules import Transformer

        if not isinstance(module, Transformer):
            return
        texts, width = inputs[0]["input_ids"].shape
        self.padded_tokens += texts * width
        if torch.is_grad_enabled():
            self.trained += texts
            self.passes.append(texts)
        else:
            self.encoded += texts


def peak_mib() -> float:
    """Return the peak memory of this process: that of the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
