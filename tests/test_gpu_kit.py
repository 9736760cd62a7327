"""`tests/gpu/kit` packs what a GPU needs; packing it takes a minute and downloads packages."""

import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).parent / "gpu" / "kit"


def test_the_kit_finds_the_modules_that_it_packs(tmp_path):
    """Outside pytest, which has more folders of tests in its path."""
    command = [sys.executable, str(KIT), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "OUTPUT" in shown.stdout.upper()
