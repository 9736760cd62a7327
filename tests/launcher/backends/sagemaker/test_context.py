"""What a launch finds out about its sources in S3 before it sends the request."""

import boto3
import pytest
from remote import emptied, served_s3

from job.core.errors import DataError
from launcher.backends.sagemaker.context import _is_file


@pytest.fixture(scope="module")
def server():
    with served_s3("box") as server:
        yield server


@pytest.fixture
def s3(server):
    with emptied(server):
        for key in (
            "pairs",
            "pairs.jsonl",
            "pairs.jsonl.gz",
            "v1.0/a.jsonl",
            "both",
            "both/a.jsonl",
        ):
            server.put("box", key, b"{}")
        yield server


@pytest.fixture(scope="module")
def is_file(server):
    session = boto3.Session(region_name="us-east-1")
    return lambda name: _is_file(session, f"s3://box/{name}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("pairs", True), ("pairs.jsonl", True), ("v1.0", False), ("v1.0/", False), ("", False)),
        # As in the job, a key wins over a folder of that name, but a slash means the folder.
        *(("both", True), ("both/", False)),
    ],
)
def test_s3_knows_whether_a_name_is_a_file(s3, is_file, name, expected):
    """Not the name: a file may have no suffix, and a folder may have one."""
    assert is_file(name) is expected


@pytest.mark.parametrize("name", ["pair", "v1", "v1.0/a"])
def test_the_beginning_of_a_name_is_neither_file_nor_folder(s3, is_file, name):
    with pytest.raises(DataError, match=f"There are no objects at `s3://box/{name}`"):
        is_file(name)


def test_a_source_that_the_caller_may_not_look_at_may_still_be_there(s3, is_file):
    """The job's role may have permissions that the caller lacks."""
    s3.fail("AccessDenied", 403, method="HEAD", match="/box/pairs.jsonl")
    assert is_file("pairs.jsonl") is None
