"""Count the values that the host reads from tensors; on a GPU, each makes it wait."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")


class Reads(TorchDispatchMode):
    """Counts operations whose result the host needs, or whose shape depends on values."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self._is_counting = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = tree_leaves(args[1:]) if name in ("index", "index_put_") else ()
        is_masked = any(isinstance(m, torch.Tensor) and m.dtype == torch.bool for m in masks)
        if self._is_counting and (name in READING or is_masked):
            self.count += 1
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        # On a CPU it is no operation; on a GPU it waits like the others.
        to_list = torch.Tensor.tolist

        def counted(tensor):
            self.count += self._is_counting
            return to_list(tensor)

        self._patch = patch.object(torch.Tensor, "tolist", counted)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.stop()
        return super().__exit__(*error)

    @contextmanager
    def paused(self):
        """Do not count within this block, which works on the host's own tensors."""
        self._is_counting = False
        try:
            yield
        finally:
            self._is_counting = True
