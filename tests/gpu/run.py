"""Check a GPU, or measure it, from the folder of this file; nothing is installed or downloaded.

python run.py test | bench [--device cuda|cpu] [--rows N] [options of pytest]
"""

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
NEEDED = (
    *("torch", "transformers", "sentence_transformers", "pyarrow", "pandas", "scipy", "datasets"),
    *("accelerate", "bm25s", "datasketch", "peft", "psutil", "pydantic", "pytest", "structlog"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["test", "bench"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, help="pairs to read; by default, all")
    options, others = parser.parse_known_args()
    os.environ |= {
        "EMBEDTUNE_KIT": str(KIT),
        "EMBEDTUNE_KIT_DEVICE": options.device,
        "EMBEDTUNE_KIT_ROWS": str(options.rows or ""),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Behind the machine's own packages, which win.
    sys.path += [str(KIT / "site-packages"), str(KIT / f"site-packages-{version}")]
    sys.path[:0] = [str(KIT), str(KIT / "tests/benchmarks"), str(KIT / "tests/gpu")]
    from job.runtime.libraries import set_library_variables

    set_library_variables()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(f"Python {version} of this machine lacks: {', '.join(missing)}.")
    describe(options.device)
    if options.what == "bench":
        from bench import measure

        measure(options.device, options.rows)
        return
    import pytest

    settings = KIT / "tests/gpu/pytest.ini"
    sys.exit(pytest.main(["-c", str(settings), "-m", "gpu", str(settings.parent), *others]))


def describe(device):
    """Print the driver and the versions first: they explain most failures."""
    import torch

    from job.core.drivers import driver_version

    print(f"driver {driver_version() or 'none'}, CUDA of torch {torch.version.cuda or 'none'}")
    if device == "cuda" and torch.cuda.is_available():
        print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)
    names = ("torch", "transformers", "sentence_transformers", "accelerate", "datasets", "pyarrow")
    print(*(f"{name} {importlib.import_module(name).__version__}" for name in names), sep=", ")


if __name__ == "__main__":
    main()
