"""The seven commands of infra/README.md, "The first hour in a real account", in that account.

    EMBEDTUNE_AWS_FIRST_HOUR=1 pytest -s -m aws tests/aws/test_first_hour.py

It costs some $0.30, at most $1.50, and takes up to an hour; AWS_PROFILE and AWS_REGION choose
account and region. It creates the stack `first-hour`, which must not exist, and deletes it at the
end with all its data, also if a command before has failed.
"""

import os
import subprocess
import sys
import time

import pytest
from first_hour import COMMANDS, renamed

pytestmark = pytest.mark.aws


@pytest.fixture(scope="session", autouse=True)
def nobodys_account():
    """Override the fixture that hides the account: these tests use a real one."""


@pytest.fixture
def embedtune(tmp_path):
    """Return a function that runs a command; `pytest -s` shows its stderr as it is written."""
    if "EMBEDTUNE_AWS_FIRST_HOUR" not in os.environ:
        pytest.skip("costs up to $1.50: set EMBEDTUNE_AWS_FIRST_HOUR=1 (see infra/README.md)")

    def run(arguments, folder=tmp_path, stderr=None):
        program = [sys.executable, "-P", "-m", "launcher.cli"]
        streams = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
        return subprocess.run([*program, *arguments], cwd=folder, check=False, **streams)

    return run


def test_the_seven_commands_work_in_this_account(embedtune, tmp_path, pytestconfig):
    deploy, build, doctor, on_cpu, on_gpu, report, delete = renamed(
        COMMANDS, time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    )
    status = embedtune(["infra", "status", "--stack", "first-hour"], stderr=subprocess.PIPE)
    # Any other error could hide a stack, which the last command would delete with its data.
    assert "There is no stack `first-hour`" in status.stderr, status.stderr or "it exists"
    try:
        assert embedtune(deploy).returncode == 0
        built = embedtune(build, pytestconfig.rootpath)
        assert built.returncode == 0
        assert "/first-hour@sha256:" in built.stdout
        assert embedtune(doctor).returncode == 0
        for command in (on_cpu, on_gpu):
            assert embedtune(command).returncode == 0
        (tmp_path / "elsewhere").mkdir()
        assert embedtune(report, tmp_path / "elsewhere").returncode == 0
    finally:
        deleted = embedtune(delete)
    assert deleted.returncode == 0
