"""Large matrices are files that nobody sees, and a full disk is told in one line."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from job import mapped
from job.errors import MachineError
from job.mapped import empty_matrix

# In a process of its own: another test may have left memory that is filled again.
GROWTH = """
import sys
from pathlib import Path
import torch
from job import mapped

def own():
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0])

mapped.MAPPED_FROM = int(sys.argv[1])
before = own()
matrix = mapped.empty_matrix(10_000, 1_000)
matrix.fill_(1.0)
print(own() - before, float(matrix[-1, -1]))
"""


def growth(mapped_from):
    """Return how far filling 40 MB lets the memory grow that is nobody else's, in bytes."""
    command = [sys.executable, "-P", "-c", GROWTH, str(mapped_from)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    grown, last = map(float, done.stdout.split())
    assert last == 1.0
    return grown


@pytest.mark.parametrize("mapped_from", [1, 10**9])
def test_a_large_matrix_is_as_good_as_a_small_one(monkeypatch, mapped_from):
    """Written, read and sliced alike; its shape and type are what was asked for."""
    monkeypatch.setattr(mapped, "MAPPED_FROM", mapped_from)

    matrix = empty_matrix(5, 3)
    matrix.copy_(torch.arange(15.0).view(5, 3))

    assert matrix.dtype == torch.float32
    assert matrix[torch.tensor([4, 0])].tolist() == [[12, 13, 14], [0, 1, 2]]
    assert matrix[1:3, :2].tolist() == [[3, 4], [6, 7]]
    assert empty_matrix(0, 3).shape == (0, 3)


def test_a_large_matrix_takes_no_memory_of_its_own():
    """In a file the system may put them aside, elsewhere it may not."""
    assert growth(mapped_from=1) < 5e6
    assert growth(mapped_from=10**9) > 35e6


def test_its_file_has_no_name_and_goes_with_it(monkeypatch, tmp_path):
    """Whatever ends a run, nothing stays behind."""
    monkeypatch.setattr(mapped, "MAPPED_FROM", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    maps = Path("/proc/self/maps")
    matrix = empty_matrix(5, 3)
    assert maps.read_text("utf-8").count(str(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    del matrix
    assert str(tmp_path) not in maps.read_text("utf-8")


def test_a_full_disk_is_told_before_anything_is_written():
    """A mapped file that finds no room while it is written would kill the process."""
    folder = tempfile.gettempdir()
    rows = 2 * shutil.disk_usage(folder).free // 4_000
    with pytest.raises(MachineError) as caught:
        empty_matrix(rows, 1_000)
    told = (f"{rows * 4_000 / 1e9:.1f} GB of disk", f"`{folder}`", "`TMPDIR`")
    assert all(part in str(caught.value) for part in told)
