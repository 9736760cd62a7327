"""`embedtune ls` lists what this machine knows, even if AWS does not answer."""

import json

import pytest
from click.testing import CliRunner

from job.core.errors import StorageError
from launcher.aws import sessions
from launcher.cli import main

JOB = {"backend": "sagemaker", "region": "eu-west-1", "profile": None, "job": "x", "started": "-"}


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A folder of runs, on a machine without credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    # The command sets these; afterwards they are as before.
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "any")
    monkeypatch.delenv("AWS_PROFILE")
    return tmp_path / "runs"


def add_run(output, name, uri="runs", launch=None, exit_code=None):
    """Add what a launch leaves on this machine: its spec, its record, and its receipt."""
    run = output / name
    spec = run / ".work" / "input" / "data" / "spec"
    spec.mkdir(parents=True)
    (spec / "job.json").write_text(json.dumps({"output": {"uri": uri}}))
    if launch:
        (run / ".work" / "launch.json").write_text(json.dumps(launch))
    if exit_code is not None:
        (run / "receipt.json").write_text(json.dumps({"exit_code": exit_code}))
    return run


def listed(*arguments, code=0):
    """Return the states by name, and the lines of stderr."""
    done = CliRunner(env={"COLUMNS": "300"}).invoke(main, ["ls", *arguments])
    assert done.exit_code == code, done.output
    rows = (line.split() for line in done.stdout.splitlines()[1:])
    return {row[0]: row[1] for row in rows}, done.stderr.splitlines()


def test_without_credentials_the_runs_of_this_machine_are_listed(output):
    """A receipt still says how a run ended; each source is named once."""
    (add_run(output, "local") / "manifest.json").write_text("{}")
    add_run(output, "stored", "s3://box/runs", JOB, exit_code=0)
    add_run(output, "failed", "s3://box/runs", JOB, exit_code=4)
    add_run(output, "stopped", "s3://box/runs", JOB, exit_code=11)
    for name in ("launched", "another"):
        add_run(output, name, "s3://box/runs", JOB)
    states, lines = listed()
    assert states == {
        "local": "finished",
        "stored": "finished",
        "failed": "failed",
        "stopped": "unfinished",
        "launched": "unknown",
        "another": "unknown",
    }
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        "No answer from s3",
        "No answer from sagemaker, eu-west-1",
    ]
    assert "No answer from s3://box: `s3://box/runs/" in " ".join(lines)
    assert all("no AWS credentials" in line for line in lines)


def test_a_bucket_is_asked_with_the_profile_of_each_launch(output):
    """One profile may read what another may not."""
    add_run(output, "mine", "s3://box/runs", JOB)
    add_run(output, "theirs", "s3://box/runs", JOB | {"profile": "theirs"})
    _, lines = listed()
    assert sorted(line.partition(": ")[0] for line in lines) == [
        "No answer from s3://box",
        "No answer from s3://box, theirs",
        "No answer from sagemaker, eu-west-1",
        "No answer from sagemaker, eu-west-1, theirs",
    ]


def test_an_output_that_does_not_answer_is_an_error_if_nothing_is_known(output):
    _, lines = listed("--output", "s3://box/runs", code=7)
    assert lines[0].startswith("Error: No answer from s3://box: `s3://box/runs` cannot be read: no")
    add_run(output, "launched", "s3://box/runs", JOB)
    assert listed("--output", "s3://box/runs")[0] == {"launched": "unknown"}


def test_a_run_whose_results_are_missing_does_not_hide_others_of_its_account(output, monkeypatch):
    """An isolated job has ended, and SageMaker has stored nothing complete of it."""

    class Job:
        status = ""

        def __init__(self, run):
            self.name = run.name

        def refresh(self):
            if self.name == "isolated":
                msg = "SageMaker has stored no complete results."
                raise StorageError(msg)
            return True

    monkeypatch.setattr("launcher.backends.sagemaker.backend.Job", Job)
    for name in ("isolated", "another"):
        add_run(output, name, "runs", JOB)
    states, lines = listed()
    assert states == {"isolated": "unknown", "another": "running"}
    assert lines == ["No answer from runs/isolated: SageMaker has stored no complete results."]


def test_a_missing_profile_of_the_environment_is_named_where_a_run_is_not_found(
    output, monkeypatch
):
    """The run may be on SageMaker, which nobody has asked."""
    monkeypatch.setenv("AWS_PROFILE", "nope")
    done = CliRunner().invoke(main, ["status", "x"])
    reason, missing = done.stderr.splitlines()
    assert reason.startswith("SageMaker's jobs cannot be listed: The config profile (nope) could")
    assert missing.startswith("Error: There is no run `x`")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert CliRunner().invoke(main, ["status", "x"]).stderr.startswith("Error: There is no run `x`")


@pytest.mark.parametrize("command", ["status", "logs", "stop", "report", "fetch", "ls"])
def test_each_command_takes_a_profile_and_a_region(output, monkeypatch, command):
    """The profile wins over that of the launch, for the job and for its results."""
    chosen = []
    monkeypatch.setattr(
        sessions, "shared_session", lambda *given: chosen.append(given) or no_session()
    )
    add_run(output, "launched", "s3://box/runs", JOB | {"profile": "theirs"})
    name = [] if command == "ls" else ["launched"]
    options = ["--profile", "mine", "--region", "us-west-2"]
    done = CliRunner().invoke(main, [command, *name, *options])
    assert not isinstance(done.exception, KeyError), done.exc_info
    # The job is in the region of its launch.
    assert set(chosen) == {("mine", "eu-west-1")}


def no_session():
    from botocore.exceptions import ProfileNotFound

    raise ProfileNotFound(profile="mine")
