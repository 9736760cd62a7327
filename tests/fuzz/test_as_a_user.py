"""The same from outside: the commands as processes, on what is ugliest."""

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
def test_a_check_as_a_process_ends_as_in_a_test(name, tmp_path, monkeypatch):
    """The code and the words of the function behind it, through launcher and job."""
    monkeypatch.chdir(tmp_path)
    place = CASES[name].make(tmp_path)
    done = call(tmp_path, "check", place, *ruler.LENIENT)
    ending = ruler.check(place)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (
        ending.code,
        ending.told,
        ending.error,
    )


def test_a_run_on_odd_texts_uses_them_byte_for_byte(tmp_path, tiny_encoder):
    """Whatever stands in the file is learnt from and searched, or in `rejected.jsonl`."""
    rows = [*make_pairs(300), *odd_rows(), *MIXED]
    (tmp_path / "odd.jsonl").write_text(as_lines(rows, ensure_ascii=True), "utf-8")
    job = JOB.format(pairs="odd.jsonl", encoder=tiny_encoder, epochs=1)
    (tmp_path / "job.yaml").write_text(job, "utf-8")
    done = call(tmp_path, "launch", "job.yaml", "--name", "odd")
    assert (done.returncode, errors(done)) == (0, [])
    assert not ruler.CONTROL.search(done.stdout.decode())
    ending = ruler.check(tmp_path / "odd.jsonl")
    assert ruler.verdict(tmp_path / "odd.jsonl", ending, tmp_path / "out") is None
    for name in ("train", "validation", "test", "corpus", "rejected"):
        found = ruler.written(tmp_path / "runs" / "odd" / "data", name)
        expected = ruler.written(tmp_path / "out", name)
        for row in expected:
            row.pop("file", None)
        for row in found:
            row.pop("file", None)
        assert found == expected
