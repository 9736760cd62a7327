"""Ugly files from a user's view: commands run as processes."""

import os
import subprocess
import sys

import pytest
from conftest import make_pairs
from fuzz import ruler
from fuzz.ugly_files import CASES, MIXED, as_lines, odd_rows
from tiny_job import JOB

LAUNCHER = [sys.executable, "-P", "-m", "launcher.cli"]


def call(folder, *arguments):
    return subprocess.run(
        [*LAUNCHER, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"EMBEDTUNE_DEVICE": "cpu"},
        check=False,
        capture_output=True,
        timeout=ruler.HANG_SECONDS,
    )


def errors(done):
    return [line for line in done.stderr.decode().splitlines() if line.startswith("Error: ")]


@pytest.mark.parametrize("name", ["a device", "every kind of value", "a name that is no Unicode"])
def test_a_check_as_a_process_has_the_same_result(name, tmp_path, monkeypatch):
    """Exit code, stdout and stderr equal those of a check in this process."""
    monkeypatch.chdir(tmp_path)
    path = CASES[name].make(tmp_path)
    done = call(tmp_path, "check", path, *ruler.LENIENT)
    ending = ruler.check(path)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (
        ending.code,
        ending.output,
        ending.error,
    )


def test_a_run_on_odd_texts_uses_them_byte_for_byte(tmp_path, tiny_encoder):
    """Each row of the file is in a split and the corpus, or in `rejected.jsonl`."""
    rows = [*make_pairs(300), *odd_rows(), *MIXED]
    (tmp_path / "odd.jsonl").write_text(as_lines(rows, ensure_ascii=True), "utf-8")
    job = JOB.format(pairs="odd.jsonl", encoder=tiny_encoder, epochs=1)
    (tmp_path / "job.yaml").write_text(job, "utf-8")
    done = call(tmp_path, "launch", "job.yaml", "--name", "odd")
    assert (done.returncode, errors(done)) == (0, [])
    assert not ruler.CONTROL.search(done.stdout.decode())
    ending = ruler.check(tmp_path / "odd.jsonl")
    assert ruler.find_fault(tmp_path / "odd.jsonl", ending, tmp_path / "out") is None
    for name in ("train", "validation", "test", "corpus", "rejected"):
        found = ruler.read_written(tmp_path / "runs" / "odd" / "data", name)
        expected = ruler.read_written(tmp_path / "out", name)
        for row in expected:
            row.pop("file", None)
        for row in found:
            row.pop("file", None)
        assert found == expected
