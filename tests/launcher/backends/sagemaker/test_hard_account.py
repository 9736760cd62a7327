"""What a real account does to jobs: similar names, waits for capacity, lost machines, cut reasons.

The tests of `doubles/sagemaker_*` name the documentation of each behavior.
"""

import pytest
from click.testing import CliRunner
from remote import forget_client, wait_until

from job.core.errors import DataError, Stopped, StorageError, TimeLimit
from launcher.cli import main

pytestmark = pytest.mark.exhaustive

CAPACITY = "Insufficient capacity error from EC2 while launching instances, retrying!"
MESSAGES = ("Launching requested ML instances", CAPACITY, "Launched instance was unhealthy")
# Programs that replace the job. This one resumes, and at its end deletes its checkpoints.
NAMED = """
import os, shutil, signal, sys, time
name, files = os.environ['EMBEDTUNE_RUN'], os.listdir('checkpoints')
if files:
    print(name, files, open('checkpoints/step').read())
    sys.exit(shutil.rmtree('checkpoints'))
end = lambda *_: sys.exit(open('checkpoints/step', 'w').write(name) and 10)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
time.sleep(600)
"""
# Loses its machine after its checkpoint.
LOST = """
import os, time
if os.path.exists('checkpoints/step'):
    print('from', open('checkpoints/step').read())
else:
    open('checkpoints/step', 'w').write('7')
    time.sleep(600)
"""
LISTING = """
import os
for folder, _, names in sorted(os.walk('input/data')):
    for name in sorted(names):
        print(os.path.join(folder, name))
"""
FAILING = """
import sys
from pathlib import Path
from job.__main__ import exit_code
from job.core.errors import DataError
from job.storage.workspace import Workspace
def work():
    raise DataError('x' * 1500)
sys.exit(exit_code(work, Workspace(Path())))
"""
# Waits for its end as a signalled spot job does.
SPOT = """
import signal, time
from job.runtime.signals import wait_for_kill
signal.signal(signal.SIGTERM, lambda *_: wait_for_kill())
print('ready', flush=True)
time.sleep(600)
"""
# Its results are complete, but it cannot publish them.
UNPUBLISHED = """
from pathlib import Path
for name in ('model/a', 'output/data/report.md', 'output/data/manifest.json'):
    Path(name).write_text('{"report.md": {}, "model/a": {}}')
Path('output/failure').write_text('S3 does not answer.')
raise SystemExit(7)
"""


@pytest.fixture
def embedtune(account, tmp_path, monkeypatch):
    """Return a function that runs a command in this process, which spares it the imports.

    It returns the exit code and the lines of the output.
    """
    for name, value in account.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for module in ("backend", "logs"):
        monkeypatch.setattr(f"launcher.backends.sagemaker.{module}.PAUSE_SECONDS", 0.2)
    forget_client()

    def run(*arguments):
        done = CliRunner().invoke(main, [str(part) for part in arguments])
        return done.exit_code, [line.strip() for line in done.output.splitlines()]

    yield run
    forget_client()


@pytest.fixture
def launch(account, embedtune):
    """Return a function that launches a program as a job; by default it follows the job."""

    def run(name, code, *options, stack=False):
        places = () if stack else account.places
        given = ("--backend", "sagemaker", "--name", name, *account.tiny, *places)
        return embedtune("launch", *given, "--env", f"PROGRAM={code}", *options)

    return run


def messages(lines, status="Starting"):
    """Return the shown messages of a status, in order."""
    return [line.partition(": ")[2] for line in lines if line.startswith(f"-- {status}")]


def test_runs_with_similar_names_keep_their_checkpoints(account, embedtune, launch):
    """Both run at once, are stopped, and resume; the first to finish deletes only its own.

    In the stack's bucket the checkpoints of all runs are side by side.
    """
    names = ("a1", "a10")
    assert embedtune("infra", "deploy", "--yes")[0] == 0
    account.server.add_image("embedtune", "1")
    for name in names:
        code, lines = launch(name, NAMED, "--detach", stack=True)
        assert code == 0, lines
    for name in names:
        account.wait_for(name, "ready")
    assert [embedtune("stop", name)[0] for name in names] == [0, 0]
    for name in names:
        assert launch(name, NAMED, "--detach", stack=True)[0] == 0
        account.server.wait(f"{name}-2")
        assert account.lines(f"{name}-2") == [f"{name} ['step'] {name}"]
        assert account.server.jobs[f"{name}-2"].exit_codes == [0]


def test_a_file_in_s3_is_a_channel_without_its_siblings(account, launch):
    """Also a file without a suffix; FastFile streams folders, files are copied."""
    for key in ("pairs.jsonl", "pairs.jsonl.gz", "corpus", "corpus-old/a.jsonl", "test/a.jsonl",
                "test-old/b.jsonl"):  # fmt: skip
        account.server.s3.put("box", f"data/{key}", b"{}")
    options = ["--data", "s3://box/data/pairs.jsonl", "--input-mode", "FastFile", "--detach"]
    for name in ("corpus", "test"):
        options += ["--set", f"data.{name}=s3://box/data/{name}"]
    code, lines = launch("files", LISTING, *options)
    assert code == 0, lines
    account.server.wait("files")
    found = [line for line in account.lines("files") if "/model/" not in line]
    assert [line.removeprefix("input/data/") for line in found] == [
        *("corpus/corpus", "data/pairs.jsonl", "spec/job.json", "test/a.jsonl"),
    ]
    request = account.server.jobs["files"].request
    modes = {each["ChannelName"]: each["InputMode"] for each in request["InputDataConfig"]}
    assert modes == {
        "corpus": "File",
        "data": "File",
        "model": "FastFile",
        "spec": "File",
        "test": "FastFile",
    }


def test_a_wait_for_capacity_is_shown_message_by_message(account, launch):
    # The SDK's own description after the creation shows the first message.
    account.server.settings.waiting["waits"] = ("Starting the training job", *MESSAGES)
    _, lines = launch("waits", "print('all')")
    assert messages(lines)[-3:] == [*MESSAGES], lines
    assert lines.index("all") > lines.index(f"-- Starting: {MESSAGES[2]}")


def test_a_job_whose_machine_is_lost_continues_on_another(account, embedtune, launch):
    """SageMaker's internal error does not end the run."""
    assert launch("lost", LOST, "--detach")[0] == 0
    wait_until(lambda: account.server.s3.keys("box", "runs/lost/checkpoints/step"))
    account.server.lose("lost")
    found = account.server.wait("lost")["SecondaryStatusTransitions"]
    assert [change["Status"] for change in found].count("Starting") == 2
    assert account.server.jobs["lost"].exit_codes == [137, 0]
    assert account.lines("lost") == ["from 7"]
    _, status = embedtune("status", "lost")
    assert any(line.startswith("exit code  0, ") for line in status)


def test_a_long_failure_keeps_its_exit_code(embedtune, launch):
    code, lines = launch("fails", FAILING)
    assert code == DataError.exit_code
    assert any(line.startswith("Error: xxx") for line in lines)
    _, status = embedtune("status", "fails")
    assert any(line.startswith(f"exit code  {code}, ") for line in status)


def test_what_a_job_could_not_publish_is_copied_from_sagemakers_output(account, launch):
    """There it would expire; after a failure the model is missing, and with it the manifest."""
    code, lines = launch("unpublished", UNPUBLISHED)
    assert code == StorageError.exit_code
    keys = account.server.s3.keys("box", "runs/unpublished/")
    assert "runs/unpublished/report.md" in keys
    assert "runs/unpublished/manifest.json" not in keys
    assert any("stored no complete results in `s3://" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [("stopped", [], Stopped), ("timed", ["--max-runtime", "1s"], TimeLimit)],
)
def test_the_wait_for_the_kill_changes_no_other_end(
    account, embedtune, launch, monkeypatch, name, options, error
):
    """A spot job that is stopped, or reaches its time limit, keeps the code of that."""
    monkeypatch.setattr(account.server.settings, "grace_seconds", 0.5)
    assert launch(name, SPOT, "--spot", "--detach", *options)[0] == 0
    account.wait_for(name, "ready")
    if not options:
        assert embedtune("stop", name)[0] == 0
    account.server.wait(name)
    assert account.server.jobs[name].exit_codes == [137]
    status = " ".join(" ".join(embedtune("status", name)[1]).split())
    assert f"exit code {error.exit_code}, " in status


def test_the_status_of_a_waiting_run_has_its_message(account, embedtune, launch):
    account.server.settings.waiting["slow"] = (CAPACITY,)
    account.server.settings.starting_seconds = 600
    assert launch("slow", "pass", "--detach")[0] == 0
    status = " ".join(embedtune("status", "slow")[1])
    assert f"status Starting: {CAPACITY} " in " ".join(status.split())
    assert embedtune("stop", "slow")[0] == 0
    account.server.settings.starting_seconds = 0
    ended = " ".join(" ".join(embedtune("status", "slow")[1]).split())
    assert f"exit code {Stopped.exit_code}, " in ended
    assert "Starting" not in ended
