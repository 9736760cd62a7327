"""The Makefile's tiers leave out the tests that run only by their marker."""

from pathlib import Path

from tiers import APART

ROOT = Path(__file__).parents[1]


def test_the_makefile_leaves_out_the_tests_that_run_apart():
    assert f"APART := {' or '.join(APART)}\n" in (ROOT / "Makefile").read_text("utf-8")
