"""The device that the job computes on, with its precision, attention kernel and batch shape."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from job.core.drivers import driver_version, too_old
from job.core.errors import MachineError
from job.model.passes import PassCost

# Measured on CPUs (job/LOG.md), which compile matrix kernels for each width, but not in float32.
# Estimated for GPUs: launching the kernels of a pass takes 3 to 5 ms, in which an A10G computes
# some 500 tokens.
PASS_COSTS = {
    "cpu": PassCost(128, 16, 2_048),
    "cpu float32": PassCost(128, 8, 4_096),
    "cuda": PassCost(512, 8),
}
# Without padding (measured on CPUs only, job/LOG.md): as few passes as possible, since each one
# computes a gradient of all words' embeddings.
PACKED_COSTS = {"cpu": PassCost(2**40, 1, 4_096, packed=True)}
# Constants of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# The driver's list of all GPUs, visible in every container, and the devices that we may open.
NVIDIA_GPUS, DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")


@dataclass(frozen=True)
class Machine:
    """A device and its precision; `reason` explains the choice of the precision."""

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
        # On CPUs, the backward pass of fused attention takes half of a training step (job/LOG.md).
        return "eager" if self.device == "cpu" else "sdpa"

    @property
    def pass_cost(self) -> PassCost | None:
        """What decides how a batch is divided into passes; None where it is unknown."""
        return PASS_COSTS.get(f"{self.device} {self.precision}", PASS_COSTS.get(self.device))

    @property
    def packed_cost(self) -> PassCost | None:
        """The same for models that take texts without padding; None where those are no faster."""
        return PACKED_COSTS.get(self.device)

    def free_memory(self) -> int:
        """Return the free bytes on the device; MPS shares the host's memory."""
        import psutil
        import torch

        if self.device == "cuda":
            # Memory that torch has reserved but not allocated is free, too.
            unallocated = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return int(torch.cuda.mem_get_info()[0]) + unallocated
        return int(psutil.virtual_memory().available)

    def peak_memory(self) -> dict[str, int | None]:
        """Return this process's peak memory in bytes, on the host and on a GPU."""
        import resource

        import torch

        # `ru_maxrss` is in KiB on Linux, in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        device = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {"host_bytes": host, "device_bytes": device}


def choose_machine(device: str, precision: str) -> Machine:
    """Resolve `auto` for device and precision; raise `MachineError` if the device is missing."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available["cpu"] = True
    if device == "cuda" and not available["cuda"]:
        _refuse_unusable_gpus()
    if device == "auto":
        device = next(name for name, usable in available.items() if usable)
        if device == "cpu":
            _refuse_unusable_gpus()
    if not available.get(device, False):
        names = ", ".join(name for name, usable in available.items() if usable)
        msg = f"The device `{device}` is not usable on this machine (usable: {names}). "
        raise MachineError(msg + "Use `--device auto` or `--device cpu`.")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    _keep_freed_memory()
    if precision != "auto":
        return Machine(device, precision, "set in the spec")
    return Machine(device, *native_precision(device))


@contextmanager
def fixed_order(device: str) -> Iterator[None]:
    """Within this block, a GPU repeats a step bit by bit: no kernel adds in the order of arrival.

    The backward passes of fused attention and of embeddings otherwise do. CPUs never do.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(mode=before)


@contextmanager
def full_float32() -> Iterator[None]:
    """Within this block, GPUs multiply float32 matrices without rounding to TF32's 11 bits."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _refuse_unusable_gpus() -> None:
    """Raise `MachineError` if torch cannot use a GPU of this machine.

    Otherwise the job would run on the CPU for hours, unnoticed.
    """
    import torch

    gpus = [path.name for path in NVIDIA_GPUS.glob("*")]
    # An empty variable hides all GPUs on purpose.
    if not gpus or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    if torch.version.cuda is None:
        why = "this torch supports only CPUs; install a torch for CUDA"
    elif not any(DEVICES.glob("nvidia[0-9]*")):
        why = "the container has no access to them; start it with `--gpus all`"
    elif (driver := driver_version()) and (needed := too_old(driver, torch.version.cuda)):
        why = (
            f"its driver is {driver}, but CUDA {torch.version.cuda} needs {needed} or newer; "
            "update the driver, install a torch for an older CUDA, or build the image with "
            "`CUDA_COMPAT`"
        )
    else:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            why = "CUDA finds none of them"
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0].rstrip(".")
    msg = f"torch cannot use the {len(gpus)} NVIDIA GPU(s) of this machine: {why}. "
    raise MachineError(msg + "To compute on the CPU anyway, add `--device cpu`.")


def native_precision(device: str) -> tuple[str, str]:
    """Return the fastest precision that a device computes in natively, and the reason."""
    import torch

    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU supports it"
        return "float16", "the GPU supports it, but not bfloat16"
    if device == "cpu":
        units = torch.cpu.get_capabilities()
        found = [name for name in ("amx_bf16", "avx512_bf16") if units.get(name)]
        if found:
            return "bfloat16", f"the CPU has {' and '.join(found)}"
    return "float32", f"no faster precision is known for this {device}"


def _keep_freed_memory() -> None:
    """Make glibc reuse freed memory.

    By default, glibc returns the memory of each large tensor to the system and requests it again,
    which took a fifth of a whole run's CPU time (job/LOG.md). With a GPU, the host has large
    tensors too: texts' tokens, and the vectors of a corpus.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries do not have this function, or the problem.
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
