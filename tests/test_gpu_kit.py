"""`tests/gpu/kit` packs what a GPU needs; packing it takes a minute and downloads packages."""

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from conftest import read_jsonl

KIT = Path(__file__).parent / "gpu" / "kit"


def test_the_kit_finds_the_modules_that_it_packs(tmp_path):
    """Outside pytest, which has more folders of tests in its path."""
    command = [sys.executable, str(KIT), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "OUTPUT" in shown.stdout.upper()


@pytest.mark.slow
def test_without_pairs_of_your_own_it_packs_those_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    loader = SourceFileLoader("kit", str(KIT))
    kit = module_from_spec(spec_from_loader("kit", loader))
    loader.exec_module(kit)
    kit.write_pairs(None, tmp_path)
    rows = read_jsonl(tmp_path / "pairs.jsonl")
    assert len(rows) > 5_000
    assert rows[0].keys() == {"question", "context"}
