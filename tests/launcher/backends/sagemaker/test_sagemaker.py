"""Jobs on SageMaker, from a shell: launched, followed, lost and found, stopped, taken up again."""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from moto.backends import get_backend
from remote import in_client, wait_until
from sagemaker_server import ACCOUNT, REGION, Call

from job.core.errors import (
    BackendError,
    DataError,
    OutOfMemory,
    SpecError,
    Stopped,
    StorageError,
    TimeLimit,
)
from launcher.backends.sagemaker.ending import OUT_OF_MEMORY, TIMEOUTS

HOURLY = 1.515
TOKEN = "hf_PlantedToken"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0f"
# Programs that stand in for the job, and how they are brought.
STOPPABLE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(10)); "
    "print('ready', flush=True); time.sleep(600)"
)
FAILING = "import sys; print({line!r}, file=open('output/failure', 'w')); sys.exit({code})"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
# Goes on from its checkpoint, if it finds one.
RESUMING = (
    "import os, signal, sys, time; step = 'checkpoints/step'; "
    "sys.exit(print('from', open(step).read())) if os.path.exists(step) else print('anew'); "
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(open(step, 'w').write('7') and 10)); "
    "print('ready', flush=True); time.sleep(600)"
)


def program(code):
    return ("--env", f"PROGRAM={code}")


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """Another folder, in which nothing was ever launched."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@dataclass
class First:
    """The first launch: where, what it said, and the stack's bucket; and one that was cut short."""

    folder: Path
    done: Any
    bucket: str
    cut: Any


@pytest.fixture(scope="module")
def first(account, tmp_path_factory):
    """Deploy the stack, push an image, and launch with nothing else named; follow to the end.

    Beside it a spot job does the same work, and its machine is taken away in mid-training.
    """
    folder = tmp_path_factory.mktemp("first")
    cut = account.start_launch(folder, "spot", "--spot")
    deployed = account.run(folder, "infra", "deploy", "--yes")
    assert deployed.code == 0, deployed.err
    account.server.add_image("embedtune", "1")
    launch = ("launch", "--backend", "sagemaker", "--name", "first", *account.tiny)
    launcher = account.start(folder, *launch)
    wait_until(lambda: is_training(account, "spot"))
    account.server.interrupt("spot")
    done = account.finish(launcher)
    assert done.code == 0, done.err
    bucket = re.search(r"s3://([\w-]+)/runs/first", done.err)[1]
    return First(folder, done, bucket, account.finish(cut))


def read_json(account, bucket, key):
    return json.loads(account.server.s3.get(bucket, key))


def scores(report):
    return report["scores"], report["comparison"], report["verdict"]


def is_training(account, name):
    """Say whether a real job's training has begun: its log lies in the workspace of its host."""
    folders = account.server.jobs[name].workspaces if name in account.server.jobs else []
    log = folders[-1] / "output" / "data" / "logs" / "job.log" if folders else None
    return log is not None and log.is_file() and "train: step=" in log.read_text("utf-8")


def test_a_stack_then_a_launch_brings_the_report_home(account, first):
    """Staged, run, followed to the end; the table and what it cost on the terminal."""
    done, server = first.done, account.server
    assert "Improved." in done.out
    assert "$1.515 an hour" in done.out
    billed = server.jobs["first"].describe()["BillableTimeInSeconds"]
    assert f"Cost: ${HOURLY * billed / 3600:.4f}, {billed} s billed" in done.err
    keys = server.s3.keys(first.bucket)
    assert "runs/first/manifest.json" in keys
    staged = {key.split("/")[2] for key in keys if key.startswith("inputs/first/")}
    assert staged == {"data", "model", "spec"}
    # They served the run, which is over.
    assert not [key for key in keys if key.startswith("checkpoints/")]


def test_every_line_is_shown_once_and_in_order(account, first):
    """The job's own log is all there, to its last line, which came after the job's end."""
    own = account.server.s3.get(first.bucket, "runs/first/logs/job.log").decode().splitlines()
    shown = [line for line in first.done.err.splitlines() if re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert shown == own
    states = re.findall(r"(?m)^-- (\w+)", first.done.err)
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]


def test_a_run_is_found_by_its_name_from_any_folder(account, first, elsewhere):
    """Nothing but the name; what is read is kept, so that the next command asks nobody."""
    report = account.run(elsewhere, "report", "first")
    assert (report.code, report.out) == (0, first.done.out)
    status = account.run(elsewhere, "status", "first")
    billed = account.server.jobs["first"].describe()["BillableTimeInSeconds"]
    facts = {line[:9].strip(): line[9:].strip() for line in status.out.splitlines()}
    assert facts.pop("launched")
    assert facts == {
        "name": "first",
        "state": "finished",
        "job": "sagemaker first",
        "exit code": "0, done",
        "seconds": str(billed),
        "usd": str(round(HOURLY * billed / 3600, 4)),
        "results": f"s3://{first.bucket}/runs/first",
    }
    listed = account.run(elsewhere, "ls", "--output", f"s3://{first.bucket}/runs")
    assert re.search(r"│ first +│ finished │", listed.out), listed.err


def test_an_interrupted_spot_job_goes_on_from_its_checkpoint(account, first):
    """Its machine is taken away in mid-training; its scores are those of a job that was not."""
    assert first.cut.code == 0, first.cut.err
    assert account.server.jobs["spot"].exit_codes == [10, 0]
    report = read_json(account, "box", "runs/spot/report/report.json")
    assert report["training"]["resumed_from_step"] > 0
    whole = read_json(account, first.bucket, "runs/first/report/report.json")
    assert whole["training"]["resumed_from_step"] == 0
    assert scores(report) == scores(whole)
    states = re.findall(r"(?m)^-- (\w+)", first.cut.err)
    assert states[states.index("Interrupted") :][:4] == [
        *("Interrupted", "Restarting", "Downloading", "Training"),
    ]
    # One host took the other's place.
    assert "algo-1" not in first.cut.err


def test_a_stopped_run_is_taken_up_as_another_job(account, here):
    """By its name alone: what to do is in its own spec, how far it came in its checkpoint."""
    started = account.launch(here, "again", "--detach", *program(RESUMING))
    assert started.code == 0, started.err
    follow = "To follow it: embedtune logs again --output s3://box/runs --follow"
    assert started.last_line == follow
    account.wait_for("again", "ready")
    stopped = account.run(here, "stop", "again")
    assert (stopped.code, stopped.err) == (0, "The run again is unfinished.\n")
    launch = ("launch", "--backend", "sagemaker", "--name", "again", "--detach")
    taken_up = account.run(here, *launch, *account.places, *program(RESUMING))
    assert taken_up.code == 0, taken_up.err
    assert "Training job again-2 in us-east-1" in taken_up.err
    account.server.wait("again-2")
    assert (account.lines("again"), account.lines("again-2")) == (["anew", "ready"], ["from 7"])
    # Another run may be called as that second job is.
    assert account.run(here, "status", "again-2").code == StorageError.exit_code
    other = account.launch(here, "again-2", "--detach", *program("pass"))
    assert "Training job again-2-2 in us-east-1" in other.err


def test_a_dry_run_prints_the_request_and_asks_nobody(account, here):
    """Role, image, output and data are given: no call, no credentials, one JSON document."""
    account.server.calls.clear()
    done = account.run(
        here,
        *("launch", "--backend", "sagemaker", "--name", "dry", "--dry-run", *account.places),
        *("--data", "s3://box/pairs.jsonl", "--model", "builtin:minilm"),
        *("--max-runtime", "90m", "--tag", "team=search"),
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
    )
    assert (done.code, done.err) == (0, "")
    assert account.server.calls == []
    found = json.loads(done.out)
    assert found["spec"]["data"]["source"] == "s3://box/pairs.jsonl"
    request = found["request"].pop("create_training_job")
    assert found["request"] == {"backend": "sagemaker", "region": REGION, "staging": {}}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}
    assert {"Key": "team", "Value": "search"} in request["Tags"]
    assert not list(here.iterdir())


@pytest.fixture(scope="module")
def launchers(account, tmp_path_factory):
    """Launch three jobs that work until they are stopped; each is followed by its launcher."""
    folder = tmp_path_factory.mktemp("launchers")
    options = {"killed": (), "long": (), "brief": ("--stop-on-interrupt",)}
    started = {
        name: account.start_launch(folder, name, *given, *program(STOPPABLE))
        for name, given in options.items()
    }
    for name in started:
        account.wait_for(name, "ready")
    return folder, started


def test_a_killed_launcher_loses_nothing(account, launchers, elsewhere):
    """From another shell and another folder: status, log, stop, and why there is no report."""
    folder, started = launchers
    started["killed"].kill()
    started["killed"].communicate()
    assert re.search("state +running", account.run(elsewhere, "status", "killed").out)
    follower = account.start(elsewhere, "logs", "killed", "--follow")
    stopped = account.run(folder, "stop", "killed")
    assert (stopped.code, stopped.err) == (0, "The run killed is unfinished.\n")
    followed = account.finish(follower)
    assert followed.code == Stopped.exit_code
    assert followed.out.splitlines().count("ready") == 1
    assert followed.last_line == "Error: The job was stopped."
    assert account.run(elsewhere, "logs", "killed").out == "ready\n"
    late = account.run(elsewhere, "logs", "killed", "--follow")
    assert (late.code, late.out) == (Stopped.exit_code, "ready\n")
    report = account.run(elsewhere, "report", "killed")
    where = "s3://box/runs/killed"
    assert report.err == f"Error: The run `killed` is unfinished and has no report in `{where}`.\n"


def test_ctrl_c_stops_the_job_where_it_is_told_to(account, launchers):
    """It is followed to its end; what was shown before is not shown again."""
    _, started = launchers
    started["brief"].send_signal(signal.SIGINT)
    done = account.finish(started["brief"])
    assert done.code == Stopped.exit_code
    states = re.findall(r"(?m)^-- (\w+)", done.err)
    assert states == list(dict.fromkeys(states))
    assert states[-1] == "Stopped"
    assert done.err.splitlines().count("ready") == 1
    assert "Error: The job was stopped." in done.err
    assert done.last_line.startswith("To resume: embedtune launch --name brief --output s3://box")


def test_ctrl_c_detaches_and_expired_credentials_only_interrupt(account, launchers, elsewhere):
    """The job goes on; its name is not launched twice; following is taken up again."""
    folder, started = launchers
    for other in ("killed", "brief"):
        # They would be struck as well by what strikes a follower below.
        started[other].kill()
        started[other].communicate()
    started["long"].send_signal(signal.SIGINT)
    done = account.finish(started["long"])
    assert (done.code, done.out) == (0, "")
    for command in ("embedtune logs long --follow", "embedtune stop long"):
        assert command in done.last_line
    assert account.server.jobs["long"].ended is None
    refusals = [
        account.start_launch(place, "long", *program(STOPPABLE)) for place in (folder, elsewhere)
    ]
    for refused in map(account.finish, refusals):
        assert refused.code == BackendError.exit_code
        assert "`long` is under way as long: `embedtune logs long --follow`" in refused.last_line
    follower = account.start(elsewhere, "logs", "long", "--follow")
    assert follower.stdout.readline().startswith("-- Starting")
    expired = "The security token included in the request is expired"
    account.server.refuse("DescribeTrainingJob", "ExpiredTokenException", expired)
    lost = account.finish(follower)
    assert lost.code == BackendError.exit_code
    for part in ("credentials have expired", "not affected", "`embedtune logs long --follow`"):
        assert part in lost.last_line
    follower = account.start(folder, "logs", "long", "--follow")
    assert follower.stdout.readline().startswith("-- Starting")
    account.run(elsewhere, "stop", "long")
    assert account.finish(follower).code == Stopped.exit_code
    assert "long-2" not in account.server.jobs


@pytest.fixture(scope="module")
def endings(account, tmp_path_factory):
    """Launch one job for each way to end, all at once."""
    folder = tmp_path_factory.mktemp("endings")
    account.server.settings.without_capacity.add("ml.g6.2xlarge")
    cases = {
        "model": program(FAILING.format(line="There is no model `x`.", code=5)),
        "memory": program(KILLED),
        "time": (*program(STOPPABLE), "--max-runtime", "1s"),
        "capacity": (*program("pass"), "--instance-type", "ml.g6.2xlarge"),
        "second": (
            *program("print('all')"),
            *("--instance-type", "ml.g6.2xlarge", "--instance-type", "ml.g5.xlarge"),
        ),
    }
    started = {
        name: account.start_launch(folder, f"ends-{name}", *options)
        for name, options in cases.items()
    }
    return folder, {name: account.finish(process) for name, process in started.items()}


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("model", 5, "There is no model `x`."),
        ("memory", OutOfMemory.exit_code, OUT_OF_MEMORY),
        ("time", TimeLimit.exit_code, TIMEOUTS["MaxRuntimeExceeded"]),
        ("capacity", BackendError.exit_code, "No such machine is free"),
    ],
)
def test_a_jobs_own_code_comes_through_with_its_reason(account, endings, name, code, line):
    """On the terminal, in the exit code, and for whoever asks later."""
    folder, done = endings
    assert done[name].code == code
    (error,) = [each for each in done[name].err.splitlines() if each.startswith("Error")]
    assert error.startswith(f"Error: {line}")
    status = account.run(folder, "status", f"ends-{name}").out
    assert f"exit code  {code}, " in status


def test_the_machine_that_was_taken_is_the_one_that_is_paid(endings):
    """Of several types the first that was free; lines that come after the end are not lost."""
    folder, done = endings
    receipt = json.loads((folder / "runs" / "ends-second" / "receipt.json").read_text("utf-8"))
    assert receipt["exit_code"] == 0
    assert receipt["usd"] == round(1.408 * receipt["billable_seconds"] / 3600, 4)
    said = done["second"].err.splitlines()
    assert said[said.index("-- Completed: Training job completed") + 1] == "all"


@pytest.mark.exhaustive
def test_what_would_fail_is_told_before_anything_is_staged(account, here):
    """One line each, by its code; no job, nothing uploaded, nothing left here."""
    server = account.server
    server.quota["ml.g4dn.xlarge"] = 0
    server.s3.bucket("far", "eu-west-1")
    server.s3.put("far", "pairs.jsonl", b"{}\n")
    cases = {
        "none": (("--data", "s3://box/none.jsonl"), DataError, "nothing at `s3://box/none.jsonl`"),
        "no-bucket": (("--data", "s3://no-box/a.csv"), DataError, "nothing at `s3://no-box/a.csv`"),
        "far-data": (("--data", "s3://far/pairs.jsonl"), BackendError, "`--region eu-west-1`"),
        "far-output": (("--output", "s3://far/runs"), BackendError, "bucket: the bucket `far`"),
        "quota": (("--instance-type", "ml.g4dn.xlarge"), BackendError, "quota: 0 for ml.g4dn"),
        "dear": (("--instance-type", "ml.g5.48xlarge"), BackendError, "`--max-cost 10`"),
        "spot": (("--spot", "--keep-alive", "10m"), SpecError, "`--keep-alive`"),
    }
    jobs, keys = list(server.jobs), server.s3.keys("box")
    started = {
        name: account.start_launch(here, f"not-{name}", *options)
        for name, (options, _, _) in cases.items()
    }
    for name, (_, error, line) in cases.items():
        done = account.finish(started[name])
        assert done.code == error.exit_code, done.err
        assert line in done.last_line
        assert "Traceback" not in done.err
    assert (list(server.jobs), server.s3.keys("box")) == (jobs, keys)
    assert not list(here.iterdir())


@pytest.mark.exhaustive
def test_a_job_that_aws_refuses_leaves_no_note_and_one_that_it_made_does(account, here):
    """Whatever the SDK fails in after the job was made, the job is found again."""
    server, detached = account.server, ("--detach", *program(STOPPABLE))
    server.refuse("CreateTrainingJob", "ResourceLimitExceeded", "The limit is 0 Instances.")
    refused = account.launch(here, "refused", *detached)
    assert refused.code == BackendError.exit_code
    assert "The limit is 0 Instances (ResourceLimitExceeded)" in refused.last_line
    assert not (here / "runs" / "refused" / ".work" / "launch.json").exists()
    server.refuse("DescribeTrainingJob", "ValidationException", "Something passing.")
    made = account.launch(here, "made", *detached)
    assert made.code == 0, made.err
    server.refuse("DescribeTrainingJob", "AccessDeniedException", "Not authorized.", times=2)
    unknown = account.launch(here, "unknown", *detached)
    assert unknown.code == BackendError.exit_code
    assert "`embedtune status unknown`" in unknown.last_line
    for name in ("made", "unknown"):
        assert re.search("state +running", account.run(here, "status", name).out)
        server.jobs[name].stop("Stopped")


def test_a_name_is_that_of_one_run_wherever_its_results_are(account, first, here):
    """Checkpoints go by the name, and so does whoever looks for the run."""
    refused = account.launch(here, "first")
    assert refused.code == SpecError.exit_code
    assert f"has its results in `s3://{first.bucket}/runs/first`" in refused.last_line


@dataclass
class FromHub:
    """Two launches at once that need a private model of a Hub, which knows one token."""

    hub: Hub
    folder: Path
    isolated: Any
    # Whose job reads its token from a secret, and has a single pair to learn from.
    secret: Any


@pytest.fixture(scope="module")
def from_hub(account, tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("hub")
    (folder / "few.jsonl").write_text('{"question": "What is it?", "context": "A number"}\n')
    with Hub(TOKEN) as hub:
        hub.add("model", "me/tiny", tiny_encoder, private=True)
        found = hub.environment(folder / "cache", HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN)
        here = {name: found[name] for name in found if name.startswith(("HF_", "no_proxy"))}
        there = [pair for pair in here.items() if pair[0] not in ("HF_HOME", "HF_TOKEN")]
        options = [part for pair in there for part in ("--env", "=".join(pair))]
        options += ["--data", "few.jsonl", "--hf-token-secret", keep_secret(TOKEN)]
        launchers = [
            account.start_launch(folder, "alone", "--model", "me/tiny", "--isolate", **here),
            account.start_launch(folder, "secret", "--model", "me/tiny", *options),
        ]
        yield FromHub(hub, folder, *map(account.finish, launchers))


def keep_secret(text):
    secrets = get_backend("secretsmanager")[ACCOUNT][REGION]
    nothing = dict.fromkeys(("secret_binary", "description", "kms_key_id"))
    made = secrets.create_secret(
        "hub", text, **nothing, tags=[], client_request_token=None, replica_regions=[],
        force_overwrite=False,
    )  # fmt: skip
    return json.loads(made)["ARN"]


def test_an_isolated_job_gets_the_hubs_model_and_its_results_come_home(account, from_hub):
    """It has no network: the launcher stages, and brings the results where every run has them."""
    assert from_hub.isolated.code == 0, from_hub.isolated.err
    assert "Improved." in from_hub.isolated.out
    job = account.server.jobs["alone"]
    assert job.request["Environment"]["HF_HUB_OFFLINE"] == "1"
    assert job.is_isolated
    # The one that is not cut off asks for its secret, and does not come to storing anything else.
    mine = [call for call in account.server.job_calls if "/runs/alone" in call.operation]
    assert mine == []
    staged = account.server.s3.keys("box", "runs/alone/input/model/")
    assert "runs/alone/input/model/model.safetensors" in staged
    fetched = account.run(from_hub.folder, "fetch", "alone", "--model")
    assert fetched.code == 0, fetched.err
    assert (from_hub.folder / "runs" / "alone" / "model" / "model.safetensors").is_file()


def test_a_secret_reaches_the_job_and_nothing_else(account, from_hub):
    """The job reads a private model by it; it is in no request, description, log or file."""
    done = from_hub.secret
    # It has the model, and says that of the pairs there are too few.
    assert done.code == DataError.exit_code, done.err
    assert Call("secretsmanager", "GetSecretValue") in account.server.job_calls
    job = account.server.jobs["secret"]
    assert job.exit_codes == [DataError.exit_code]
    assert "model=me/tiny" in "".join(account.lines("secret"))
    spoken = [done.out, done.err, job.body.decode(), str(job.describe()), *account.lines("secret")]
    assert not [text for text in spoken if TOKEN in text]
    written = [path.read_bytes() for path in from_hub.folder.rglob("*") if path.is_file()]
    s3 = account.server.s3
    written += [s3.get("box", key) for key in s3.keys("box", "runs/")]
    assert not [data for data in written if TOKEN.encode() in data]


def stage_folder(folder, run):
    from pathlib import Path

    from job.spec.schema import ModelSpec
    from job.storage.stores import S3Store
    from launcher.plan.staging import upload

    upload(S3Store("s3://box/staged/data"), folder, ModelSpec(), Path(run))


def test_a_staged_folder_is_exactly_what_lies_here(account, here):
    """What was staged before goes; a folder that holds the run's own is left out of itself."""
    (here / "deep").mkdir()
    for name in ("a.jsonl", "deep/b.jsonl", "c.jsonl"):
        (here / name).write_text("{}\n")
    (here / "runs" / "first").mkdir(parents=True)
    (here / "runs" / "first" / "data.jsonl").write_text("{}\n")
    arguments = (str(here), str(here / "runs" / "first"))
    in_client(account.environment, stage_folder, *arguments)
    s3 = account.server.s3
    files = ["a.jsonl", "c.jsonl", "deep/b.jsonl"]
    assert s3.keys("box", "staged/") == [f"staged/data/{name}" for name in files]
    (here / "c.jsonl").unlink()
    (here / "a.jsonl").write_text("new\n")
    in_client(account.environment, stage_folder, *arguments)
    assert s3.keys("box", "staged/") == ["staged/data/a.jsonl", "staged/data/deep/b.jsonl"]
    assert s3.get("box", "staged/data/a.jsonl") == b"new\n"
