"""Large matrices are unnamed files, and a full disk is an error of one line."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from job.core.errors import MachineError
from job.storage import mapped_arrays
from job.storage.mapped_arrays import empty_matrix


@pytest.mark.parametrize("mapped_from", [1, 10**9])
def test_a_mapped_matrix_behaves_like_one_in_memory(monkeypatch, mapped_from):
    """In writing, reading and slicing, with the requested shape and type."""
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", mapped_from)

    matrix = empty_matrix(5, 3)
    matrix.copy_(torch.arange(15.0).view(5, 3))

    assert matrix.dtype == torch.float32
    assert matrix[torch.tensor([4, 0])].tolist() == [[12, 13, 14], [0, 1, 2]]
    assert matrix[1:3, :2].tolist() == [[3, 4], [6, 7]]
    assert empty_matrix(0, 3).shape == (0, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what is mapped")
def test_the_file_has_no_name_and_is_deleted_with_the_matrix(monkeypatch, tmp_path):
    """So no file is left, however a run ends."""
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    maps = Path("/proc/self/maps")
    matrix = empty_matrix(5, 3)
    assert maps.read_text("utf-8").count(str(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    del matrix
    assert str(tmp_path) not in maps.read_text("utf-8")


def test_a_full_disk_is_an_error_before_anything_is_written():
    """Writing to a mapped file on a full disk would kill the process."""
    folder = tempfile.gettempdir()
    rows = 2 * shutil.disk_usage(folder).free // 4_000
    with pytest.raises(MachineError) as caught:
        empty_matrix(rows, 1_000)
    expected = (f"{rows * 4_000 / 1e9:.1f} GB of disk", f"`{folder}`", "`TMPDIR`")
    assert all(part in str(caught.value) for part in expected)
