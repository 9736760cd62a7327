"""Check what a job in a local process needs: packages and, for speed, a GPU."""

from importlib.util import find_spec

from launcher.containers.checks import gpu_driver
from launcher.plan.checks import CheckResult, Missing, run_check

# Packages that the job imports and the launcher does not.
PACKAGES = (
    "torch", "sentence_transformers", "datasets", "accelerate", "bm25s", "datasketch", "peft",
    "psutil", "pyarrow", "scipy", "tensorboard",
)  # fmt: skip


def check_process() -> list[CheckResult]:
    """Run the checks for a job in a local process."""
    return [run_check("packages", _packages), run_check("GPU", gpu_driver)]


def _packages() -> str:
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if absent:
        found = f"not installed: {', '.join(absent)}"
        raise Missing(found, "`pip install 'embedtune[train]'`")
    return f"{', '.join(PACKAGES[:3])} and {len(PACKAGES) - 3} more are installed"
