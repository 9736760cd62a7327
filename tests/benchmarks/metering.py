"""What a benchmark counts: seconds by phase, texts and padded tokens, memory."""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIB = 2**20


@dataclass
class Meter:
    """Counts what passes through any encoder while it watches.

    `encoded` counts texts that were embedded to be compared, `trained` those with a gradient.
    """

    seconds: Counter[str] = field(default_factory=Counter)
    encoded: int = 0
    trained: int = 0
    padded_tokens: int = 0
    # Texts of each forward pass with a gradient.
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
    """Return the largest memory this process ever held: the GPU's where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
