"""The NVIDIA driver of a machine, and the one that CUDA needs. Needs no torch."""

import re
from pathlib import Path

# The oldest driver for each major version of CUDA, by NVIDIA's "CUDA Compatibility" guide: any
# minor version runs on it.
MIN_DRIVERS = {12: "525.60.13", 13: "580.65.06"}
# CUDA of the image's torch (container/locks/torch.txt), and the driver that it needs.
IMAGE_CUDA = "13.0"
IMAGE_DRIVER = MIN_DRIVERS[13]
# Written by the kernel module; visible in every container.
VERSION_FILE = Path("/proc/driver/nvidia/version")


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver; None without one."""
    try:
        text = VERSION_FILE.read_text("utf-8", "replace")
    except OSError:
        return None
    return read_version(text)


def read_version(text: str) -> str | None:
    """Return the driver's version in what the kernel module writes."""
    found = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None


def too_old(driver: str, cuda: str) -> str | None:
    """Return the driver that this CUDA version needs if `driver` is older, else None."""
    needed = MIN_DRIVERS.get(int(cuda.partition(".")[0]))
    return needed if needed and _numbers(driver) < _numbers(needed) else None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
