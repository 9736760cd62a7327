"""Jobs on SageMaker, from a shell: launch, follow, find, stop and resume them."""

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
from launcher.backends.sagemaker.job_outcome import OUT_OF_MEMORY, TIMEOUTS

HOURLY = 1.515
TOKEN = "hf_PlantedToken"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0f"
# Programs that replace the job; the variable PROGRAM passes them.
STOPPABLE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(10)); "
    "print('ready', flush=True); time.sleep(600)"
)
FAILING = "import sys; print({line!r}, file=open('output/failure', 'w')); sys.exit({code})"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
# Resumes from its checkpoint, if there is one.
RESUMING = (
    "import os, signal, sys, time; step = 'checkpoints/step'; "
    "sys.exit(print('from', open(step).read())) if os.path.exists(step) else print('new'); "
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
    """Another folder, from which nothing was launched."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@dataclass
class First:
    """The first launch: its folder, output and bucket; and the output of an interrupted launch."""

    folder: Path
    done: Any
    bucket: str
    cut: Any


@pytest.fixture(scope="module")
def first(account, tmp_path_factory):
    """Deploy the stack, push an image, launch without further options, and follow to the end.

    At the same time a spot job does the same work; its machine is interrupted during training.
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
    account.wait_for("spot", "for the end of this machine")
    account.server.reclaim("spot")
    done = account.finish(launcher)
    assert done.code == 0, done.err
    bucket = re.search(r"s3://([\w-]+)/runs/first", done.err)[1]
    return First(folder, done, bucket, account.finish(cut))


def read_json(account, bucket, key):
    return json.loads(account.server.s3.get(bucket, key))


def scores(report):
    return report["scores"], report["comparison"], report["verdict"]


def is_training(account, name):
    """Whether a real job has started training, by the log in its host's workspace."""
    folders = account.server.jobs[name].workspaces if name in account.server.jobs else []
    log = folders[-1] / "output" / "data" / "logs" / "job.log" if folders else None
    return log is not None and log.is_file() and "train: step=" in log.read_text("utf-8")


def test_a_launch_with_a_stack_prints_the_report_and_the_cost(account, first):
    """Inputs are staged; results are in the stack's bucket."""
    done, server = first.done, account.server
    assert "Improved." in done.out
    assert "$1.515 an hour" in done.out
    billed = server.jobs["first"].describe()["BillableTimeInSeconds"]
    assert f"Cost: ${HOURLY * billed / 3600:.4f}, {billed} s billed" in done.err
    keys = server.s3.keys(first.bucket)
    assert "runs/first/manifest.json" in keys
    staged = {key.split("/")[2] for key in keys if key.startswith("inputs/first/")}
    assert staged == {"data", "model", "spec"}
    # Nothing is stored twice.
    assert server.jobs["first"].uploaded == []
    # Checkpoints are deleted at the end of the run.
    assert not [key for key in keys if key.startswith("checkpoints/")]


def test_every_log_line_is_shown_once_and_in_order(account, first):
    """The complete log is shown, although its last lines arrive after the job's end."""
    own = account.server.s3.get(first.bucket, "runs/first/logs/job.log").decode().splitlines()
    shown = [line for line in first.done.err.splitlines() if re.match(r"\d{4}-\d\d-\d\dT", line)]
    # Its results are published after the log has been closed.
    assert shown[: len(own)] == own
    assert len(shown) == len(set(shown))
    states = re.findall(r"(?m)^-- (\w+)", first.done.err)
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]


def test_a_run_is_found_by_its_name_from_any_folder(account, first, elsewhere):
    """The name is enough; the results are fetched once."""
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
        "usd": f"{round(HOURLY * billed / 3600, 4)} (price of us-east-1, by a table of 2026-11-23)",
        "results": f"s3://{first.bucket}/runs/first",
    }
    listed = account.run(elsewhere, "ls", "--output", f"s3://{first.bucket}/runs")
    assert re.search(r"(?m)^first +finished ", listed.out), listed.err


def test_an_interrupted_spot_job_resumes_from_its_checkpoint(account, first):
    """Its scores equal those of an uninterrupted job."""
    assert first.cut.code == 0, first.cut.err
    # It was killed, as AWS does, after its checkpoint; by itself it would have failed.
    assert account.server.jobs["spot"].exit_codes == [137, 0]
    report = read_json(account, "box", "runs/spot/report/report.json")
    assert report["training"]["resumed_from_step"] > 0
    whole = read_json(account, first.bucket, "runs/first/report/report.json")
    assert whole["training"]["resumed_from_step"] == 0
    assert scores(report) == scores(whole)
    states = re.findall(r"(?m)^-- (\w+)", first.cut.err)
    assert states[states.index("Interrupted") :][:4] == [
        *("Interrupted", "Restarting", "Downloading", "Training"),
    ]
    # The host was replaced, so it is still the only one.
    assert "algo-1" not in first.cut.err


@pytest.mark.exhaustive
def test_a_stopped_run_resumes_as_another_job(account, here):
    """The name is enough: the spec and the checkpoint are stored with the run."""
    started = account.launch(here, "again", "--detach", *program(RESUMING))
    assert started.code == 0, started.err
    follow = "To follow it: embedtune logs again --output s3://box/runs --follow"
    assert started.last_line == follow
    account.wait_for("again", "ready")
    stopped = account.run(here, "stop", "again")
    assert (stopped.code, stopped.err) == (0, "The run again is unfinished.\n")
    launch = ("launch", "--backend", "sagemaker", "--name", "again", "--detach")
    resumed = account.run(here, *launch, *account.places, *program(RESUMING))
    assert resumed.code == 0, resumed.err
    assert "Training job again-2 in us-east-1" in resumed.err
    account.server.wait("again-2")
    assert (account.lines("again"), account.lines("again-2")) == (["new", "ready"], ["from 7"])
    # Another run may have the same name as that second job.
    assert account.run(here, "status", "again-2").code == StorageError.exit_code
    other = account.launch(here, "again-2", "--detach", *program("pass"))
    assert "Training job again-2-2 in us-east-1" in other.err


def test_a_dry_run_with_all_options_prints_the_request_without_calling_aws(account, here):
    """With role, image, output and data it needs no credentials; it prints one JSON document."""
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
    assert found["request"] == {
        "backend": "sagemaker",
        "region": REGION,
        "staging": {},
        "manifests": {
            "s3://box/runs/dry/input/data.manifest": '[{"prefix": "s3://box/"}, "pairs.jsonl"]'
        },
    }
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 5400}
    assert {"Key": "team", "Value": "search"} in request["Tags"]
    assert not list(here.iterdir())


@pytest.fixture(scope="module")
def launchers(account, tmp_path_factory):
    """Launch three jobs that run until they are stopped; each launcher follows its job."""
    folder = tmp_path_factory.mktemp("launchers")
    options = {"killed": (), "long": (), "brief": ("--stop-on-interrupt",)}
    started = {
        name: account.start_launch(folder, name, *given, *program(STOPPABLE))
        for name, given in options.items()
    }
    for name in started:
        account.wait_for(name, "ready")
    return folder, started


def test_a_job_outlives_its_killed_launcher(account, launchers, elsewhere):
    """Another shell in another folder shows status and log, stops it, and explains the report."""
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


def test_ctrl_c_stops_the_job_with_stop_on_interrupt(account, launchers):
    """The launcher follows the job to its end and repeats no line."""
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
    """The job keeps running; its name cannot be launched twice; its log can be followed again."""
    folder, started = launchers
    for other in ("killed", "brief"):
        # The refusal below would hit these launchers as well.
        started[other].kill()
        started[other].communicate()
    started["long"].send_signal(signal.SIGINT)
    done = account.finish(started["long"])
    assert (done.code, done.out) == (0, "")
    for command in ("embedtune logs long --follow", "embedtune stop long"):
        assert command in done.last_line
    assert account.server.jobs["long"].ended is None
    refusals = [
        account.start_launch(each, "long", *program(STOPPABLE)) for each in (folder, elsewhere)
    ]
    for refused in map(account.finish, refusals):
        assert refused.code == BackendError.exit_code
        assert "`long` is in progress as long: `embedtune logs long --follow`" in refused.last_line
    follower = account.start(elsewhere, "logs", "long", "--follow")
    assert follower.stdout.readline().startswith("-- Starting")
    expired = "The security token included in the request is expired"
    account.server.refuse("DescribeTrainingJob", "ExpiredTokenException", expired)
    lost = account.finish(follower)
    assert lost.code == BackendError.exit_code
    for part in ("credentials have expired", "keeps running", "`embedtune logs long --follow`"):
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
        ("capacity", BackendError.exit_code, "No such instance is available"),
    ],
)
def test_a_jobs_exit_code_and_reason_are_passed_on(account, endings, name, code, line):
    """On the terminal, as the exit code, and later in `embedtune status`."""
    folder, done = endings
    assert done[name].code == code
    (error,) = [each for each in done[name].err.splitlines() if each.startswith("Error")]
    assert error.startswith(f"Error: {line}")
    status = account.run(folder, "status", f"ends-{name}").out
    assert f"exit code  {code}, " in status


def test_the_cost_is_that_of_the_chosen_instance_type(endings):
    """SageMaker chooses the first available type; log lines after the end are not lost."""
    folder, done = endings
    receipt = json.loads((folder / "runs" / "ends-second" / "receipt.json").read_text("utf-8"))
    assert receipt["exit_code"] == 0
    assert receipt["usd"] == round(1.408 * receipt["billable_seconds"] / 3600, 4)
    lines = done["second"].err.splitlines()
    assert lines[lines.index("-- Completed: Training job completed") + 1] == "all"


@pytest.mark.exhaustive
def test_a_launch_that_would_fail_is_refused_before_staging(account, here):
    """Each refusal is one line with its exit code; no job, no upload, no local file."""
    server = account.server
    server.quota["ml.g4dn.xlarge"] = 0
    server.s3.bucket("far", "eu-west-1")
    server.s3.put("far", "pairs.jsonl", b"{}\n")
    cases = {
        "none": (
            ("--data", "s3://box/none.jsonl"),
            DataError,
            "no objects at `s3://box/none.jsonl`",
        ),
        "no-bucket": (("--data", "s3://no-box/a.csv"), DataError, "no objects at `s3://no-box/a"),
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
def test_only_a_created_job_leaves_a_launch_record(account, here):
    """If the SDK fails after creating the job, the job is still found."""
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


def test_a_name_cannot_be_used_with_another_output(account, first, here):
    """Checkpoints are stored by name, and runs are found by name."""
    refused = account.launch(here, "first")
    assert refused.code == SpecError.exit_code
    assert f"has its results in `s3://{first.bucket}/runs/first`" in refused.last_line


@dataclass
class FromHub:
    """Two concurrent launches that need a private model of a Hub with one valid token."""

    hub: Hub
    folder: Path
    isolated: Any
    # The launch whose job reads the token from a secret, and fails with a single pair.
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


def test_an_isolated_job_gets_the_hubs_model_and_its_results_are_published(account, from_hub):
    """Without network in the job, the launcher stages the model and copies the results."""
    assert from_hub.isolated.code == 0, from_hub.isolated.err
    assert "Improved." in from_hub.isolated.out
    job = account.server.jobs["alone"]
    assert job.request["Environment"]["HF_HUB_OFFLINE"] == "1"
    assert job.is_isolated
    # Calls to S3 name the run in their path; the isolated job makes none.
    mine = [call for call in account.server.job_calls if "/runs/alone" in call.operation]
    assert mine == []
    staged = account.server.s3.keys("box", "runs/alone/input/model/")
    assert "runs/alone/input/model/model.safetensors" in staged
    fetched = account.run(from_hub.folder, "fetch", "alone", "--model")
    assert fetched.code == 0, fetched.err
    assert (from_hub.folder / "runs" / "alone" / "model" / "model.safetensors").is_file()


def test_a_secret_reaches_the_job_and_nothing_else(account, from_hub):
    """The job reads a private model with it; no request, description, log or file contains it."""
    done = from_hub.secret
    # The job has loaded the model and then reports too few pairs.
    assert done.code == DataError.exit_code, done.err
    assert Call("secretsmanager", "GetSecretValue") in account.server.job_calls
    job = account.server.jobs["secret"]
    assert job.exit_codes == [DataError.exit_code]
    assert "model=me/tiny" in "".join(account.lines("secret"))
    texts = [done.out, done.err, job.body.decode(), str(job.describe()), *account.lines("secret")]
    assert not [text for text in texts if TOKEN in text]
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


def test_a_staged_folder_equals_the_local_one(account, here):
    """Stale objects are deleted; the run's own folder inside it is not staged."""
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
