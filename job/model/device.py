"""What the job computes on: the device, its arithmetic, the kernels and shapes that suit it."""

import ctypes
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from job.core.errors import MachineError

# Measured on CPUs (job/LOG.md). For a GPU derived, not measured: so many take it many milliseconds,
# beside which starting a pass is little.
TOKENS_AT_ONCE = {"cpu": 2_048, "cuda": 16_384}
# glibc's mallopt: see malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# The driver's list of its GPUs, which containers see too; and those that were handed to us.
NVIDIA_GPUS, DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")


@dataclass(frozen=True)
class Machine:
    """What the job computes on; `reason` says why this arithmetic was chosen."""

    device: str
    precision: str
    reason: str

    def autocast(self) -> "AbstractContextManager[object]":
        import torch

        enabled = self.precision != "float32"
        dtype = getattr(torch, self.precision) if enabled else None
        return torch.autocast(self.device, dtype, enabled=enabled)

    @property
    def training_attention(self) -> str:
        # The CPU's fused attention is slow backwards: half of a training step (job/LOG.md).
        return "eager" if self.device == "cpu" else "sdpa"

    @property
    def tokens_at_once(self) -> int | None:
        """Padded tokens of one forward pass in training: more are no faster, and padded more."""
        return TOKENS_AT_ONCE.get(self.device)

    def free_memory(self) -> int:
        """Return the bytes that are free on the device; MPS shares the machine's memory."""
        import psutil
        import torch

        if self.device == "cuda":
            # What torch holds without using it is free as well.
            idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return int(torch.cuda.mem_get_info()[0]) + idle
        return int(psutil.virtual_memory().available)

    def peak_memory(self) -> dict[str, int | None]:
        """Return the most bytes that this process has held, on the host and on a GPU."""
        import resource

        import torch

        # Linux counts KiB, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        device = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {"host_bytes": host, "device_bytes": device}


def choose_machine(device: str, precision: str) -> Machine:
    """Resolve `auto` device and precision, with the reason; refuse a device that is not there."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available["cpu"] = True
    if device == "auto":
        device = next(name for name, there in available.items() if there)
        if device == "cpu":
            _refuse_unusable_gpus()
    if not available.get(device, False):
        names = ", ".join(name for name, there in available.items() if there)
        msg = f"The device `{device}` is not usable here (found: {names}). Use `--device cpu`?"
        raise MachineError(msg)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    if device == "cpu":
        _keep_freed_memory()
    if precision != "auto":
        return Machine(device, precision, "as the spec says")
    return Machine(device, *_native_precision(device))


def _refuse_unusable_gpus() -> None:
    """Fail where there is a GPU that torch cannot use: the CPU would take hours, unnoticed."""
    import torch

    gpus = [path.name for path in NVIDIA_GPUS.glob("*")]
    # Torch's own variable: whoever empties it wants no GPU.
    if not gpus or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    if torch.version.cuda is None:
        why = "torch was built for CPUs; install one for CUDA"
    elif not any(DEVICES.glob("nvidia[0-9]*")):
        why = "none was handed in; start the container with `--gpus all`"
    else:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            why = "CUDA counts none of them"
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0].rstrip(".")
    msg = f"This machine has {len(gpus)} NVIDIA GPU(s) that cannot be used here: {why}. "
    raise MachineError(msg + "To compute on the CPU all the same: `--device cpu`.")


def _native_precision(device: str) -> tuple[str, str]:
    import torch

    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU computes in it"
        return "float16", "the GPU computes in it, and not in bfloat16"
    if device == "cpu":
        units = torch.cpu.get_capabilities()
        found = [name for name in ("amx_bf16", "avx512_bf16") if units.get(name)]
        if found:
            return "bfloat16", f"the CPU has {' and '.join(found)}"
    return "float32", f"no faster arithmetic is known of this {device}"


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step.

    By default it returns each large tensor to the system and asks for it again: a fifth of a whole
    run's processor time went into that (job/LOG.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries have none, and need none.
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
