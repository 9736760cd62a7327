"""The image's entrypoint uses NVIDIA's forward-compatibility package only with older drivers."""

import subprocess
from pathlib import Path

import pytest

from job.core.drivers import driver_version, too_old

ENTRYPOINT = Path(__file__).parents[1] / "container" / "entrypoint.sh"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sun May 12 19:39:15 UTC 2024\n"
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (builder@host)\n"
)
GCC = "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine with this driver and this package, and start the entrypoint on it."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH: $*"\n', "utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    text = ENTRYPOINT.read_text("utf-8")
    for path in ("/opt/cuda-compat", "/proc/driver/nvidia/version", "/opt/ml"):
        assert path in text
        text = text.replace(path, f"{tmp_path}{path}")
    (tmp_path / "opt" / "ml").mkdir(parents=True)

    def start(driver, package, line=PROPRIETARY):
        if driver:
            version = tmp_path / "proc/driver/nvidia/version"
            version.parent.mkdir(parents=True)
            version.write_text(line.format(driver) + GCC, "utf-8")
        if package:
            (tmp_path / "opt/cuda-compat").mkdir()
            (tmp_path / "opt/cuda-compat/libcuda.so.1").symlink_to(f"libcuda.so.{package}")
        done = subprocess.run(
            ["sh", "-c", text, "entrypoint", "train"], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.replace(f"{tmp_path}", "")

    return start


@pytest.mark.parametrize("line", [PROPRIETARY, OPEN])
@pytest.mark.parametrize(
    ("driver", "package", "is_used"),
    [
        ("535.183.01", "580.65.06", True),
        ("580.65.05", "580.65.06", True),
        # Compared as numbers: 580.126 is newer than 580.65.
        ("580.126.09", "580.65.06", False),
        ("580.65.06", "580.65.06", False),
        ("590.44.01", "580.65.06", False),
        ("535.183.01", None, False),
        (None, "580.65.06", False),
    ],
)
def test_only_an_older_driver_uses_the_package(
    machine, monkeypatch, driver, package, is_used, line
):
    """Libraries that the caller set stay behind it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/given")
    path = "/opt/cuda-compat:/given" if is_used else "/given"
    assert machine(driver, package, line) == f"{path}: -P -m job train\n"


@pytest.mark.parametrize("line", [PROPRIETARY, OPEN])
def test_the_driver_is_read_from_the_kernel_module(tmp_path, monkeypatch, line):
    """It is the first line; the second has the compiler's version. Without the file: none."""
    file = tmp_path / "version"
    monkeypatch.setattr("job.core.drivers.VERSION_FILE", file)
    assert driver_version() is None
    file.write_text(line.format("535.183.01") + GCC, "utf-8")
    assert driver_version() == "535.183.01"


@pytest.mark.parametrize(
    ("driver", "cuda", "needed"),
    [
        ("535.183.01", "13.0", "580.65.06"),
        ("580.65.06", "13.2", None),
        ("580.126.09", "13.0", None),
        ("535.183.01", "12.8", None),
        ("470.256.02", "12.6", "525.60.13"),
        ("470.256.02", "99.0", None),
    ],
)
def test_a_driver_is_too_old_for_a_version_of_cuda(driver, cuda, needed):
    assert too_old(driver, cuda) == needed
