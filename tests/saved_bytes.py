"""Count the bytes that a forward pass keeps for the backward pass, and those that it takes without
one; nothing is computed."""

import weakref
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def cuda_autocast(precision):
    """Autocast like on CUDA: unlike a CPU's, it computes layer norms and softmax in float32."""
    layer_norm, softmax = functional.layer_norm, functional.softmax
    with ExitStack() as stack:
        stack.enter_context(
            torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32")
        )
        stack.enter_context(
            patch.object(functional, "layer_norm", lambda x, *rest: layer_norm(x.float(), *rest))
        )
        stack.enter_context(
            patch.object(
                functional, "softmax", lambda x, *rest, **named: softmax(x.float(), *rest, **named)
            )
        )
        yield


def saved_bytes(build, texts, precision, *, checkpointing=False):
    """Return the bytes saved in a forward pass of texts, (rows, tokens), by storage.

    `build` makes the transformer; its tensors are fake, so they have shapes but no memory.
    """
    kept = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                # The tensor stays alive, so that no other storage gets its address.
                kept[storage._cdata] = (storage.nbytes(), tensor)
            return tensor

        ids, mask = (torch.ones(texts, dtype=torch.long) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with cuda_autocast(precision):
                found = model(input_ids=ids, attention_mask=mask).last_hidden_state
            (found.float() * mask[..., None]).sum(dim=1).mean()
    return sum(size for size, _ in kept.values())


class Peak(TorchDispatchMode):
    """Measures the bytes of all tensors that exist at the same time."""

    def __init__(self):
        super().__init__()
        self.bytes = 0
        self._now = 0
        self._tensors = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._add(storage._cdata, storage.nbytes())
                # Views keep their storage.
                weakref.finalize(tensor, self._remove, storage._cdata, storage.nbytes())
        self.bytes = max(self.bytes, self._now)
        return found

    def _add(self, key, size):
        self._now += size if not self._tensors[key] else 0
        self._tensors[key] += 1

    def _remove(self, key, size):
        self._tensors[key] -= 1
        self._now -= size if not self._tensors[key] else 0


def peak_bytes(build, texts, precision):
    """Return the most bytes in use while texts, (rows, tokens), are embedded without gradients."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = build().eval()
        ids, mask = (torch.ones(texts, dtype=torch.long) for _ in range(2))
        with cuda_autocast(precision), Peak() as peak:
            model(input_ids=ids, attention_mask=mask)
    return peak.bytes
