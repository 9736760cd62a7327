"""The SageMaker server of the tests: boto3 finds in it what it would find at AWS, and jobs run."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from remote import files_of
from sagemaker_container import Docker, Process
from sagemaker_server import Call, SageMaker
from sagemaker_transfer import Mirror

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/trainer"
IMAGE = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/embedtune:1"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
# The image's entrypoint: a program that the test brings as the channel `program`.
PROGRAM = [sys.executable, "-c", "import runpy; runpy.run_path('input/data/program/run.py')"]
SESSION = boto3.Session("test", "test", region_name="us-east-1")
# What a spot job, or any job that waits to be stopped, is made of.
WAIT = "import time; print('ready', flush=True); time.sleep(600)"
HEED = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); "
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


@pytest.fixture
def server():
    with SageMaker(PROGRAM, grace_seconds=0.5, log_delay_seconds=0.1) as server:
        furnish(server)
        yield server


@pytest.fixture
def client_of(server):
    """Make clients that find the server without a word in the environment."""
    made = []

    def make(service):
        config = Config(retries={"total_max_attempts": 1})
        made.append(SESSION.client(service, endpoint_url=server.s3.endpoint, config=config))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(client_of):
    return client_of("sagemaker")


@pytest.fixture
def submit(server, client):
    """Create a job that runs a Python program; fields of the request can be changed."""

    def create(program="", name="first", **changes):
        server.s3.put("box", f"programs/{name}/run.py", program.encode())
        request = a_request(name) | changes
        request["InputDataConfig"] = [
            a_channel("program", f"s3://box/programs/{name}/"),
            *changes.get("InputDataConfig", []),
        ]
        return client.create_training_job(**request)["TrainingJobArn"]

    return create


@pytest.fixture
def run(server, submit):
    """Run a program as a job to its end, and describe it."""

    def to_the_end(program="", name="first", **changes):
        submit(program, name, **changes)
        return server.wait(name)

    return to_the_end


def furnish(server):
    """Make what `a_request` names."""
    server.s3.bucket("box")
    assert server.add_role("trainer") == ROLE
    assert server.add_image("embedtune", "1") == IMAGE


def a_request(name="first"):
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://box/runs/", "CompressionType": "NONE"},
        "ResourceConfig": {
            "InstanceType": "ml.g5.2xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def a_channel(name, uri, **fields):
    source = {"S3DataType": "S3Prefix", "S3Uri": uri}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}} | fields


def spot(**limits):
    given = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60} | limits
    return {"EnableManagedSpotTraining": True, "StoppingCondition": given}


def refusal(call, *arguments, **fields):
    """Return code and text of the error that a call is answered with."""
    with pytest.raises(ClientError) as raised:
        call(*arguments, **fields)
    return raised.value.response["Error"]["Code"], raised.value.response["Error"]["Message"]


def lines_of(logs, name):
    """Read what a job's containers said, each host's on its own."""
    found = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/")
    return [read_stream(logs, stream["logStreamName"]) for stream in found["logStreams"]]


def read_stream(logs, stream):
    fields = {"logGroupName": LOG_GROUP, "logStreamName": stream}
    answer = logs.get_log_events(**fields, startFromHead=True)
    return [event["message"] for event in answer["events"]]


def stages(description):
    return [entry["Status"] for entry in description["SecondaryStatusTransitions"]]


def wait_until(condition, seconds=120):
    """Wait for what happens soon; return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def wait_for_object(server, key):
    wait_until(lambda: key in server.s3.keys("box"))


LOOK = """
import json, os
from pathlib import Path
files = {str(p): p.read_text() for p in sorted(Path("input").rglob("*")) if p.suffix != ".py"
         and p.is_file()}
Path("output/data/seen.json").write_text(json.dumps(
    {"files": files, "environment": dict(os.environ), "folder": os.getcwd()}))
"""


def test_a_job_finds_its_tree_and_its_environment(server, run, monkeypatch):
    """Files as SageMaker writes them, and of this process's environment nothing but basics."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HF_TOKEN", "mine")
    server.s3.put("box", "pairs/a.jsonl", b"{}")
    description = run(
        LOOK,
        HyperParameters={"training.epochs": "3"},
        Environment={"EMBEDTUNE_DEVICE": "cpu"},
        CheckpointConfig={"S3Uri": "s3://box/checkpoints/first"},
        InputDataConfig=[a_channel("data", "s3://box/pairs/", InputMode="FastFile")],
    )
    seen = json.loads(server.s3.get("box", "runs/first/output/data/seen.json"))
    files = {name: json.loads(text) for name, text in seen["files"].items()}
    channel = {"S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    assert files == {
        "input/config/hyperparameters.json": {"training.epochs": "3"},
        "input/config/inputdataconfig.json": {
            "program": {"TrainingInputMode": "File"} | channel,
            "data": {"TrainingInputMode": "FastFile"} | channel,
        },
        "input/config/checkpointconfig.json": {
            "S3Uri": "s3://box/checkpoints/first",
            "LocalPath": "/opt/ml/checkpoints",
        },
        "input/config/resourceconfig.json": {
            "current_host": "algo-1",
            "current_instance_type": "ml.g5.2xlarge",
            "current_group_name": "homogeneousCluster",
            "hosts": ["algo-1"],
            "instance_groups": [
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": "ml.g5.2xlarge",
                    "hosts": ["algo-1"],
                }
            ],
            "network_interface_name": "eth0",
        },
        "input/data/data/a.jsonl": {},
    }
    basics = {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR"}
    told = {k: v for k, v in seen["environment"].items() if k not in basics}
    home = told.pop("HOME")
    assert told == {
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "TRAINING_JOB_NAME": "first",
        "TRAINING_JOB_ARN": description["TrainingJobArn"],
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": server.s3.endpoint,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.s3.endpoint}/credentials/first",
        "EMBEDTUNE_DEVICE": "cpu",
    }
    # Neither ours, nor there any more.
    assert home not in (os.environ["HOME"], seen["folder"])
    assert not any(Path(path).exists() for path in (home, seen["folder"]))


def test_a_description_says_what_was_asked_for_and_what_happened(client, run):
    """All of the request but the tags, and the job's stages one after the other."""
    asked = {
        "HyperParameters": {"a": "1"},
        "Environment": {"B": "2"},
        "Tags": [{"Key": "run", "Value": "first"}],
        "RetryStrategy": {"MaximumRetryAttempts": 2},
    }
    begun = time.time()
    run("open('model/weights', 'w').write('1')", **asked)
    found = client.describe_training_job(TrainingJobName="first")
    transitions = found.pop("SecondaryStatusTransitions")
    times = {name: found.pop(name).timestamp() for name in list(found) if name.endswith("Time")}
    del found["ResponseMetadata"], asked["Tags"]
    assert found == a_request() | asked | {
        "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/first",
        "InputDataConfig": [a_channel("program", "s3://box/programs/first/")],
        "TrainingJobStatus": "Completed",
        "SecondaryStatus": "Completed",
        "TrainingTimeInSeconds": 1,
        "BillableTimeInSeconds": 1,
        "ModelArtifacts": {"S3ModelArtifacts": "s3://box/runs/first/output/model/"},
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": False,
        "EnableManagedSpotTraining": False,
    }
    assert [entry["Status"] for entry in transitions] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    assert all(entry["StatusMessage"] for entry in transitions)
    ends = [entry["EndTime"] for entry in transitions]
    assert [entry["StartTime"] for entry in transitions[1:]] == ends[:-1]
    order = ["CreationTime", "TrainingStartTime", "TrainingEndTime", "LastModifiedTime"]
    assert sorted(times) == sorted(order)
    moments = [begun - 0.01, *(times[name] for name in order)]
    assert moments == sorted(moments)


@pytest.mark.parametrize(
    ("uri", "files"),
    [
        ("s3://box/pairs/", ["a.jsonl", "deep/b.jsonl"]),
        # A prefix is no folder: what lies beside it comes as well.
        ("s3://box/pairs", ["a.jsonl", "deep/b.jsonl", "pairs-2/c.jsonl"]),
        ("s3://box/pairs/a.jsonl", ["a.jsonl"]),
        ("s3://box/pai", ["pairs/a.jsonl", "pairs/deep/b.jsonl", "pairs-2/c.jsonl"]),
    ],
)
def test_a_channel_holds_all_objects_whose_keys_begin_so(server, run, uri, files):
    for key in ("pairs/a.jsonl", "pairs/deep/b.jsonl", "pairs-2/c.jsonl", "pairs/"):
        server.s3.put("box", key, b"{}")
    run(LOOK, InputDataConfig=[a_channel("data", uri)])
    seen = json.loads(server.s3.get("box", "runs/first/output/data/seen.json"))["files"]
    found = [name.removeprefix("input/data/data/") for name in seen if "/data/data/" in name]
    assert found == files


@pytest.mark.parametrize("uri", ["s3://box/nothing/", "s3://no-such-bucket/pairs/"])
def test_missing_data_fails_the_job_before_it_runs(server, client_of, run, uri):
    """The reason is AWS's; there is no exit code and no log."""
    description = run(InputDataConfig=[a_channel("data", uri)])
    assert description["TrainingJobStatus"] == "Failed"
    assert re.match(
        f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" given in '
        f'input data source\\. .* role "{ROLE}" has "s3:ListBucket" permissions',
        description["FailureReason"],
    )
    assert stages(description) == ["Starting", "Downloading", "Failed"]
    assert server.jobs["first"].exit_codes == []
    assert client_of("logs").describe_log_groups()["logGroups"] == []


def test_each_line_is_logged_once_and_in_order(client_of, run):
    """Both streams, empty lines and what is no UTF-8 too, and the last one without an end."""
    run(
        "import sys, time\n"
        "for i in range(2000):\n"
        "    print(i, file=(sys.stdout, sys.stderr)[i % 2], flush=True)\n"
        "    if i % 500 == 0: time.sleep(0.2)\n"
        "sys.stdout.buffer.write(b'\\n\\xff\\nend')\n"
    )
    logs = client_of("logs")
    (stream,) = lines_of(logs, "first")
    assert stream == [*map(str, range(2000)), " ", "\ufffd", "end"]
    (found,) = logs.describe_log_streams(logGroupName=LOG_GROUP)["logStreams"]
    assert re.fullmatch(r"first/algo-1-\d{10}", found["logStreamName"])


def test_the_last_lines_come_after_the_end(server, client, client_of, submit):
    """Whoever stops to read when the job is `Completed` misses them, as on AWS."""
    server.settings.log_delay_seconds, logs = 2, client_of("logs")
    submit("import time; print('first', flush=True); time.sleep(1); print('last')")
    ended = ("Completed", "Failed")
    describe = client.describe_training_job
    wait_until(lambda: describe(TrainingJobName="first")["TrainingJobStatus"] in ended)
    assert lines_of(logs, "first") == [["first"]]
    server.wait("first")
    assert lines_of(logs, "first") == [["first", "last"]]


def test_results_are_uploaded_as_files(server, run):
    """With `CompressionType` NONE."""
    run("open('model/weights', 'w').write('1'); open('output/data/report', 'w').write('2')")
    assert server.s3.get("box", "runs/first/output/model/weights") == b"1"
    assert server.s3.get("box", "runs/first/output/data/report") == b"2"


def test_results_are_uploaded_as_archives(server, run):
    """Unless the request says otherwise; an empty folder leaves none."""
    output = {"S3OutputPath": "s3://box/runs"}
    program = "import os; os.mkdir('model/part'); open('model/part/a', 'w').write('1')"
    description = run(program, OutputDataConfig=output)
    (key,) = server.s3.keys("box", "runs/")
    assert description["ModelArtifacts"] == {"S3ModelArtifacts": f"s3://box/{key}"}
    assert key == "runs/first/output/model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(server.s3.get("box", key))) as archive:
        assert archive.extractfile("part/a").read() == b"1"


@pytest.mark.parametrize(
    ("program", "reason", "code"),
    [
        ("raise SystemExit(3)", "AlgorithmError: , exit code: 3", 3),
        (
            "open('output/failure', 'w').write('x' * 2000 + '\\n'); raise SystemExit(4)",
            f"AlgorithmError: {'x' * 1024}, exit code: 4",
            4,
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "AlgorithmError: , exit code: 137",
            137,
        ),
    ],
)
def test_a_failure_has_its_reason_and_its_code(server, run, program, reason, code):
    description = run(program)
    assert description["TrainingJobStatus"] == "Failed"
    assert description["FailureReason"] == reason
    assert server.jobs["first"].exit_codes == [code]


def test_a_failure_leaves_data_and_no_model(server, run):
    description = run(
        "for name in ('model/a', 'output/data/b'): open(name, 'w').write('1')\nraise SystemExit(1)"
    )
    assert server.s3.keys("box", "runs/") == ["runs/first/output/data/b"]
    assert "ModelArtifacts" not in description


def test_a_stopped_job_ends_its_step_and_keeps_its_model(server, client, submit):
    """`Stopping` at once, SIGTERM, and what it then leaves is uploaded; twice is as once."""
    program = (
        "import signal, sys\n"
        "def stop(*_):\n    open('model/a', 'w').write('1'); sys.exit(10)\n"
        f"signal.signal(signal.SIGTERM, stop)\nopen('checkpoints/on', 'w'); {WAIT}"
    )
    submit(program, CheckpointConfig={"S3Uri": "s3://box/checkpoints"})
    wait_for_object(server, "checkpoints/on")
    for _ in range(2):
        client.stop_training_job(TrainingJobName="first")
        status = client.describe_training_job(TrainingJobName="first")["TrainingJobStatus"]
        assert status in ("Stopping", "Stopped")
    description = server.wait("first")
    assert stages(description) == [
        *("Starting", "Downloading", "Training", "Stopping", "Uploading", "Stopped"),
    ]
    assert description["TrainingJobStatus"] == "Stopped"
    assert server.jobs["first"].exit_codes == [10]
    assert server.s3.keys("box", "runs/") == ["runs/first/output/model/a"]
    error = refusal(client.stop_training_job, TrainingJobName="first")
    rejected = "The request was rejected because the training job is in status Stopped."
    assert error == ("ValidationException", rejected)


def test_a_job_can_be_stopped_before_it_has_a_host(server, client, submit):
    """It is never billed."""
    server.settings.starting_seconds = 30
    submit(WAIT)
    client.stop_training_job(TrainingJobName="first")
    description = server.wait("first", timeout=60)
    assert stages(description) == ["Starting", "Stopping", "Stopped"]
    assert description.keys().isdisjoint({"TrainingStartTime", "BillableTimeInSeconds"})


def test_who_ignores_sigterm_is_killed_after_the_grace(server, client, submit):
    """With all processes that it started."""
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; "
    program = f"{IGNORE}{child}time.sleep(600)']); open('checkpoints/on', 'w'); {WAIT}"
    submit(program, CheckpointConfig={"S3Uri": "s3://box/checkpoints"})
    wait_for_object(server, "checkpoints/on")
    client.stop_training_job(TrainingJobName="first")
    begun = time.monotonic()
    assert server.wait("first", timeout=60)["TrainingJobStatus"] == "Stopped"
    assert time.monotonic() - begun > 0.5
    assert server.jobs["first"].exit_codes == [137]


@pytest.mark.parametrize("program", [WAIT, IGNORE + WAIT, HEED.format(code=0) + WAIT])
def test_the_time_limit_stops_a_job(run, program):
    """However it takes it."""
    description = run(program, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert description["TrainingJobStatus"] == "Stopped"
    assert description["SecondaryStatus"] == "MaxRuntimeExceeded"
    assert stages(description)[-3:] == ["Stopping", "Uploading", "MaxRuntimeExceeded"]
    assert "FailureReason" not in description
    assert description["BillableTimeInSeconds"] >= 2


def test_checkpoints_are_restored_and_what_goes_locally_goes_in_s3(server, submit, client):
    """What somebody else adds to the prefix stays."""
    program = (
        "import os, time\n"
        "assert open('checkpoints/deep/old').read() == '1'\n"
        "os.remove('checkpoints/deep/old')\n"
        "open('checkpoints/new', 'w').write('2')\n" + WAIT
    )
    server.s3.put("box", "checkpoints/first/deep/old", b"1")
    server.s3.put("box", "checkpoints/first-2/other", b"1")
    submit(program, CheckpointConfig={"S3Uri": "s3://box/checkpoints/first"})
    wait_for_object(server, "checkpoints/first/new")
    server.s3.put("box", "checkpoints/first/theirs", b"3")
    wait_until(lambda: "checkpoints/first/deep/old" not in server.s3.keys("box"))
    client.stop_training_job(TrainingJobName="first")
    server.wait("first")
    assert server.s3.keys("box", "checkpoints/") == [
        *("checkpoints/first-2/other", "checkpoints/first/new", "checkpoints/first/theirs"),
    ]


COUNT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10))
count = Path("checkpoints/count")
for step in range(int(count.read_text()) if count.exists() else 0, 8):
    print("step", step, flush=True)
    time.sleep(0.3)
    count.write_text(str(step + 1))
"""


def test_an_interrupted_spot_job_goes_on_elsewhere(server, client_of, submit):
    """On a new host with the checkpoints, once each step; only time on hosts is billed."""
    server.settings.keep_workspaces = True
    submit(COUNT, **spot(), CheckpointConfig={"S3Uri": "s3://box/checkpoints"})
    wait_for_object(server, "checkpoints/count")
    server.settings.starting_seconds = 1.5
    server.interrupt("first")
    description = server.wait("first")
    assert stages(description) == [
        *("Starting", "Downloading", "Training", "Interrupted", "Restarting"),
        *("Downloading", "Training", "Uploading", "Completed"),
    ]
    assert server.jobs["first"].exit_codes == [10, 0]
    assert server.s3.get("box", "checkpoints/count") == b"8"
    before, after = lines_of(client_of("logs"), "first")
    steps = [f"step {i}" for i in range(8)]
    assert (before[0], after[-1]) == (steps[0], steps[-1])
    assert sorted({*before, *after}) == steps
    # At most the step in which it was interrupted was made again.
    assert len(before + after) in (8, 9)
    old, new = server.jobs["first"].workspaces
    assert (old / "checkpoints" / "count").is_file()
    assert (new / "checkpoints" / "count").read_text() == "8"
    paused = description["TrainingTimeInSeconds"] - description["BillableTimeInSeconds"]
    assert paused in (1, 2)


def test_other_jobs_fail_when_their_host_is_lost(server, submit):
    submit(WAIT + "\n")
    wait_until(lambda: server.jobs["first"].secondary == "Training")
    server.interrupt("first")
    description = server.wait("first")
    assert description["TrainingJobStatus"] == "Failed"
    internal = "InternalServerError: We encountered an internal error. Please try again."
    assert description["FailureReason"] == internal


def test_a_retry_strategy_outlives_a_lost_host(server, submit):
    checkpoints = {"S3Uri": "s3://box/checkpoints"}
    submit(COUNT, RetryStrategy={"MaximumRetryAttempts": 1}, CheckpointConfig=checkpoints)
    wait_for_object(server, "checkpoints/count")
    server.interrupt("first")
    assert server.wait("first")["TrainingJobStatus"] == "Completed"


def test_a_spot_job_waits_no_longer_than_it_may(server, run):
    server.settings.starting_seconds = 30
    description = run(**spot(MaxRuntimeInSeconds=1, MaxWaitTimeInSeconds=1))
    assert description["SecondaryStatus"] == "MaxWaitTimeExceeded"
    assert description["TrainingJobStatus"] == "Stopped"


def test_a_name_is_used_once_and_for_ever(run, submit):
    """Also when the job of that name has ended."""
    arn = run()["TrainingJobArn"]
    code, text = refusal(submit)
    assert code == "ResourceInUse"
    assert text.startswith("Training job names must be unique within an AWS account and region")
    assert arn in text


G5 = {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"TrainingJobName": "my_job"},
            r"1 validation error detected: Value 'my_job' at 'trainingJobName' .* pattern: \[a-zA",
        ),
        ({"TrainingJobName": "a" * 64}, "Member must have length less than or equal to 63"),
        (
            {"HyperParameters": {"a": "x" * 2501}},
            r"'hyperParameters' .* Map value must .*: \[Member must have length .* to 2500\]",
        ),
        ({"HyperParameters": {"a": "one\ntwo"}}, r"regular expression pattern: \.\*\]"),
        ({"HyperParameters": {str(i): "" for i in range(101)}}, "less than or equal to 100"),
        ({"Environment": {"A": "x" * 513}}, "less than or equal to 512"),
        ({"Environment": {"A-B": "x"}}, r"Map keys must satisfy constraint"),
        (
            {"ResourceConfig": G5 | {"InstanceType": "ml.g5.3xlarge"}},
            r"'resourceConfig.instanceType' .* Member must satisfy enum value set: \[ml\.",
        ),
        ({"ResourceConfig": G5 | {"KeepAlivePeriodInSeconds": 21601}}, "value less than or equal"),
        ({"OutputDataConfig": {"S3OutputPath": "/local"}}, "'outputDataConfig.s3OutputPath'"),
        ({"Tags": [{"Key": "a#b", "Value": ""}]}, "'tags.1.member.key'"),
        (
            {"EnableManagedSpotTraining": True},
            "MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntime",
        ),
        (spot(MaxRuntimeInSeconds=61), "Invalid MaxWaitTimeInSeconds"),
        (spot() | {"ResourceConfig": G5 | {"KeepAlivePeriodInSeconds": 60}}, "KeepAlive"),
        (
            spot()
            | {"ResourceConfig": {"InstancePreferences": [{"InstanceType": "ml.g5.xlarge"}]}},
            "InstancePreferences",
        ),
        ({"ResourceConfig": G5 | {"VolumeKmsKeyId": "key"}}, "VolumeKmsKeyId .* ml.g5.2xlarge"),
        ({"ResourceConfig": {"InstanceCount": 1}}, "Specify exactly one of InstanceType"),
        ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "TrainingImage"),
        ({"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, "Could not assume role arn:.*nobody"),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/runs"}},
            "The bucket no-such-bucket of OutputDataConfig.S3OutputPath does not exist",
        ),
    ],
)
def test_a_faulty_request_is_refused(server, client, changes, text):
    """By the limits in botocore's own model, and by AWS's other rules; nothing is created."""
    code, found = refusal(client.create_training_job, **(a_request() | changes))
    assert code == "ValidationException"
    assert re.search(text, found), found
    assert server.jobs == {}


def test_what_the_server_cannot_do_is_refused(client):
    """Rather than done differently."""
    algorithm = a_request()["AlgorithmSpecification"]
    source = {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": "s3://box/manifest"}}
    cases = [
        {"AlgorithmSpecification": algorithm | {"ContainerEntrypoint": ["sh"]}},
        {"AlgorithmSpecification": algorithm | {"ContainerArguments": ["sh"]}},
        {"InputDataConfig": [{"ChannelName": "data", "DataSource": source}]},
        {"CheckpointConfig": {"S3Uri": "s3://box/", "LocalPath": "/tmp/checkpoints"}},
    ]
    for changes in cases:
        code, text = refusal(client.create_training_job, **(a_request() | changes))
        assert (code, text.startswith("The test server ")) == ("ValidationException", True)


def test_what_is_missing_is_refused(server):
    """As AWS says it, to a client that does not look itself."""
    config = Config(parameter_validation=False)
    careless = SESSION.client("sagemaker", endpoint_url=server.s3.endpoint, config=config)
    with closing(careless):
        code, text = refusal(careless.create_training_job, TrainingJobName="first")
    assert code == "ValidationException"
    assert text.startswith("2 validation errors detected: ")
    assert "Value null at 'roleArn' failed to satisfy constraint: Member must not be null" in text


def test_a_role_must_trust_sagemaker(server, client):
    role = server.add_role("other", trusts="lambda.amazonaws.com")
    code, text = refusal(client.create_training_job, **(a_request() | {"RoleArn": role}))
    assert code == "ValidationException"
    assert "allows principal 'sagemaker.amazonaws.com' to assume the role" in text


def test_an_image_of_this_account_must_exist(server, client, submit):
    """By tag or digest; others' images are not looked for, nor any when the test says so."""
    registry = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
    cases = {
        f"{registry}/nothing:1": "Cannot find repository: nothing in registry ID: ",
        f"{registry}/embedtune:2": f"Requested image {registry}/embedtune:2 not found.",
        f"{registry}/embedtune": f"Requested image {registry}/embedtune not found.",
        f"{registry}/embedtune@sha256:{'0' * 64}": "Requested image ",
    }
    for image, text in cases.items():
        algorithm = {"TrainingImage": image, "TrainingInputMode": "File"}
        request = a_request() | {"AlgorithmSpecification": algorithm}
        code, found = refusal(client.create_training_job, **request)
        assert (code, found.startswith(text)) == ("ValidationException", True)
    theirs = {"TrainingImage": "registry.example/a:1", "TrainingInputMode": "File"}
    submit(AlgorithmSpecification=theirs)
    server.checks_images = False
    submit(name="second", AlgorithmSpecification=algorithm)


def test_an_image_is_found_by_its_digest(client_of, submit):
    images = client_of("ecr").list_images(repositoryName="embedtune")["imageIds"]
    repository = IMAGE.removesuffix(":1")
    image = f"{repository}@{images[0]['imageDigest']}"
    submit(AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"})


def test_a_quota_of_nothing_is_refused(server, submit):
    """In AWS's words, for on-demand instances and not for spot ones."""
    server.quota["ml.g5.2xlarge"] = 0
    code, text = refusal(submit)
    assert code == "ResourceLimitExceeded"
    assert text.startswith(
        "The account-level service limit 'ml.g5.2xlarge for training job usage' is 0 Instances, "
        "with current utilization of 0 Instances and a request delta of 1 Instances."
    )
    submit(name="second", **spot())


def test_a_quota_counts_the_jobs_that_run(server, run, submit):
    server.quota["ml.g5.2xlarge for spot training job usage"] = 1
    run(name="done", **spot())
    submit(WAIT, **spot())
    _, text = refusal(submit, name="second", **spot())
    assert "'ml.g5.2xlarge for spot training job usage' is 1 Instances, with current " in text
    assert "utilization of 1 Instances and a request delta of 1 Instances" in text


def test_a_warm_pool_has_a_quota_of_its_own(server, submit):
    server.quota["ml.g5.2xlarge for training warm pool usage"] = 0
    resources = G5 | {"KeepAlivePeriodInSeconds": 60}
    assert "training warm pool usage' is 0" in refusal(submit, ResourceConfig=resources)[1]
    submit()


def test_quotas_can_be_read(server, client_of):
    server.quota["ml.p4d.24xlarge"] = 0
    pages = client_of("service-quotas").get_paginator("list_service_quotas")
    found = [q for page in pages.paginate(ServiceCode="sagemaker") for q in page["Quotas"]]
    values = {quota["QuotaName"]: quota["Value"] for quota in found}
    assert values["ml.p4d.24xlarge for training job usage"] == 0
    assert values["ml.g5.2xlarge for spot training job usage"] > 0
    assert len({quota["QuotaCode"] for quota in found}) == len(found)


def test_prices_are_denied(client_of):
    """Rather than answered by a crash of moto, which clients repeat."""
    code, text = refusal(client_of("pricing").get_products, ServiceCode="AmazonSageMaker")
    assert code == "AccessDeniedException"
    assert text.endswith("is not authorized to perform: pricing:GetProducts")


def test_no_capacity_fails_a_job(server, run):
    server.settings.without_capacity.add("ml.g5.2xlarge")
    description = run()
    assert description["TrainingJobStatus"] == "Failed"
    assert description["FailureReason"].startswith("CapacityError: Unable to provision requested")


def test_the_first_preferred_instance_that_is_to_be_had_is_taken(server, run):
    server.settings.without_capacity.add("ml.g5.2xlarge")
    types = ["ml.g5.2xlarge", "ml.g6.2xlarge", "ml.g4dn.xlarge"]
    preferences = [{"InstanceType": name, "InstanceCount": 1} for name in types]
    resources = {"VolumeSizeInGB": 50, "InstancePreferences": preferences}
    description = run(LOOK, ResourceConfig=resources)
    chosen = {"SelectedInstanceType": "ml.g6.2xlarge", "SelectedInstanceCount": 1}
    assert description["ResourceConfig"] == resources | chosen
    seen = json.loads(server.s3.get("box", "runs/first/output/data/seen.json"))["files"]
    told = json.loads(seen["input/config/resourceconfig.json"])
    assert told["current_instance_type"] == "ml.g6.2xlarge"


REACH = """
import sys, urllib.request, boto3
from botocore.exceptions import NoCredentialsError
server = sys.modules["os"].environ["SERVER"]
try:
    print("http", urllib.request.urlopen(server + "/credentials/first").status)
except OSError as error:
    print("http", type(error).__name__)
try:
    print("s3", boto3.client("s3", endpoint_url=server).get_object(Bucket="box", Key="a")["Body"]
          .read())
except NoCredentialsError as error:
    print("s3", type(error).__name__)
"""


@pytest.mark.parametrize(
    ("isolated", "lines"),
    [(False, ["http 200", "s3 b'1'"]), (True, ["http URLError", "s3 NoCredentialsError"])],
)
def test_isolation_leaves_neither_network_nor_credentials(
    server, client_of, run, monkeypatch, isolated, lines
):
    """A job without it has both, whatever this process has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    server.s3.put("box", "a", b"1")
    environment = {"SERVER": server.s3.endpoint}
    description = run(REACH, EnableNetworkIsolation=isolated, Environment=environment)
    assert lines_of(client_of("logs"), "first") == [lines]
    assert description["EnableNetworkIsolation"] is isolated


def test_an_isolated_job_is_told_no_address(server, run):
    run(LOOK, EnableNetworkIsolation=True)
    seen = json.loads(server.s3.get("box", "runs/first/output/data/seen.json"))
    assert server.s3.endpoint not in json.dumps(seen["environment"])


def test_calls_tell_what_launchers_asked_for(server, client, client_of, run, tmp_path):
    """Any service's; what jobs do under their role, and hosts for them, stands elsewhere."""
    assert server.calls == []
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    environment = server.environment(tmp_path)
    shell = [sys.executable, "-c", code]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ACCOUNT
    client.list_training_jobs()
    client_of("s3").put_object(Bucket="box", Key="a", Body=b"1")
    expected = [
        Call("sts", "GetCallerIdentity"),
        Call("sagemaker", "ListTrainingJobs"),
        Call("s3", "PUT /box/a"),
    ]
    assert server.calls == expected
    run("import boto3; boto3.client('s3').head_object(Bucket='box', Key='a')")
    assert server.calls == [*expected, Call("sagemaker", "CreateTrainingJob")]
    assert server.job_calls == [Call("s3", "HEAD /box/a")]


def test_requests_are_kept_as_they_were_sent(server, client, submit):
    """Byte for byte, to be compared with what another client sends."""
    sent = []
    client.meta.events.register("before-send", lambda request, **_: sent.append(request.body))
    submit(HyperParameters={"a": "ä"})
    assert server.jobs["first"].body == sent[0]
    assert server.jobs["first"].request["HyperParameters"] == {"a": "ä"}


def test_jobs_are_listed(server, client, submit):
    """By name, by status, in an order and in pages."""
    for name in ("b-one", "a-two", "b-three"):
        submit(name=name)
        server.wait(name)

    def names(**wanted):
        pages = client.get_paginator("list_training_jobs").paginate(**wanted)
        return [job["TrainingJobName"] for p in pages for job in p["TrainingJobSummaries"]]

    assert names() == ["b-one", "a-two", "b-three"]
    assert names(SortOrder="Descending", PaginationConfig={"PageSize": 2}) == names()[::-1]
    assert names(SortBy="Name") == ["a-two", "b-one", "b-three"]
    assert names(NameContains="b-") == ["b-one", "b-three"]
    assert names(StatusEquals="Failed") == []
    (first, *_), token = (client.list_training_jobs(MaxResults=2)[key] for key in (
        "TrainingJobSummaries", "NextToken"))  # fmt: skip
    assert (first["TrainingJobStatus"], token) == ("Completed", "2")
    assert names(CreationTimeAfter=first["CreationTime"], NameContains="two") == ["a-two"]


def test_jobs_have_tags(client, submit):
    arn = submit(Tags=[{"Key": "run", "Value": "first"}])
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "search"}])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [
        {"Key": "run", "Value": "first"},
        {"Key": "team", "Value": "search"},
    ]


def test_a_job_that_is_not_there_is_not_found(client):
    for call in (client.describe_training_job, client.stop_training_job):
        missing = ("ValidationException", "Requested resource not found.")
        assert refusal(call, TrainingJobName="first") == missing


def test_credentials_can_expire(server, client, client_of, submit):
    """An operation fails as often as the test says, in each of AWS's formats."""
    submit()
    expired = "The security token included in the request is expired"
    server.refuse("DescribeTrainingJob", "ExpiredTokenException", expired, times=2)
    server.refuse("GetCallerIdentity", "ExpiredToken", expired)
    for _ in range(2):
        error = refusal(client.describe_training_job, TrainingJobName="first")
        assert error == ("ExpiredTokenException", expired)
    assert client.describe_training_job(TrainingJobName="first")["TrainingJobName"] == "first"
    sts = client_of("sts")
    assert refusal(sts.get_caller_identity) == ("ExpiredToken", expired)
    assert sts.get_caller_identity()["Account"] == ACCOUNT


def test_a_stack_can_be_deployed(client_of, submit):
    """What moto has no resource for is skipped; its role is one that jobs can have."""
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": ["sagemaker.amazonaws.com"]},
        "Action": "sts:AssumeRole",
    }
    role = {"RoleName": "theirs", "AssumeRolePolicyDocument": {"Statement": [trust]}}
    resources = {
        "Role": {"Type": "AWS::IAM::Role", "Properties": role},
        "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "stack-box"}},
        "Registry": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": "theirs"}},
        "Budget": {"Type": "AWS::Budgets::Budget", "Properties": {}},
    }
    cloudformation, template = client_of("cloudformation"), json.dumps({"Resources": resources})
    cloudformation.create_stack(StackName="stack", TemplateBody=template)
    (stack,) = cloudformation.describe_stacks(StackName="stack")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    repositories = client_of("ecr").describe_repositories()["repositories"]
    assert [found["repositoryName"] for found in repositories] == ["embedtune", "theirs"]
    submit(
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/theirs",
        OutputDataConfig={"S3OutputPath": "s3://stack-box/runs"},
    )


def test_a_job_can_read_a_secret(server, client_of, run):
    """Secrets Manager answers it, under its role."""
    client_of("secretsmanager").create_secret(Name="token", SecretString="do not tell")
    code = (
        "import boto3; client = boto3.client('secretsmanager', 'us-east-1'); "
        "open('output/data/seen', 'w').write(client.get_secret_value(SecretId='token')"
        "['SecretString'])"
    )
    run(code)
    assert server.s3.get("box", "runs/first/output/data/seen") == b"do not tell"
    assert server.job_calls == [Call("secretsmanager", "GetSecretValue")]


def test_a_closed_server_leaves_no_process_and_the_next_one_is_empty(tmp_path):
    """Jobs are killed, not waited for."""
    note = tmp_path / "pid"
    program = f"import os; open({str(note)!r}, 'w').write(str(os.getpid())); {IGNORE}{WAIT}"
    with SageMaker([sys.executable, "-c", program]) as first:
        furnish(first)
        with closing(SESSION.client("sagemaker", endpoint_url=first.s3.endpoint)) as client:
            client.create_training_job(**a_request())
        pid = wait_until(lambda: note.exists() and note.read_text())
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    with SageMaker() as second:
        second.add_role("trainer")
        with closing(SESSION.client("sagemaker", endpoint_url=second.s3.endpoint)) as client:
            assert client.list_training_jobs()["TrainingJobSummaries"] == []


MEMBER = """
import json, os, signal, sys, time
from pathlib import Path
config = json.loads(Path("input/config/resourceconfig.json").read_text())
me = config["current_host"]
"""
SHARE = """
Path("model", me).write_text(os.environ["EMBEDTUNE_RENDEZVOUS"])
Path("checkpoints", me).write_text(" ".join(sorted(os.listdir("checkpoints"))))
print("on", config["network_interface_name"], config["hosts"], config["instance_groups"])
"""


def several(count=2, **fields):
    return {"ResourceConfig": G5 | {"InstanceCount": count}} | fields


def test_each_of_several_hosts_has_a_tree_of_its_own(server, client_of, run):
    """They know each other and where to meet; what they leave is gathered, and kept, in one place.

    Real hosts meet by their names; subprocesses have none.
    """
    server.s3.put("box", "checkpoints/old", b"")
    place = {"CheckpointConfig": {"S3Uri": "s3://box/checkpoints"}}
    assert run(MEMBER + SHARE, **several(**place))["TrainingJobStatus"] == "Completed"
    job = server.jobs["first"]
    assert (job.exit_codes, job.host_codes) == ([0], [{"algo-1": 0, "algo-2": 0}])
    logs = client_of("logs")
    streams = logs.describe_log_streams(logGroupName=LOG_GROUP)["logStreams"]
    assert [s["logStreamName"][:13] for s in streams] == ["first/algo-1-", "first/algo-2-"]
    hosts = ["algo-1", "algo-2"]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g5.2xlarge"}
    said = f"on eth0 {hosts} {[group | {'hosts': hosts}]}"
    assert lines_of(logs, "first") == [[said], [said]]
    meeting = {server.s3.get("box", f"runs/first/output/model/{host}") for host in hosts}
    assert len(meeting) == 1
    assert meeting.pop().startswith(b"127.0.0.1:")
    # Each began with what was there already.
    assert {server.s3.get("box", f"checkpoints/{host}") for host in hosts} == {b"old"}


@pytest.mark.parametrize(
    ("program", "reason", "codes"),
    [
        (
            "Path('output/failure').write_text(me); sys.exit(4 if me == 'algo-2' else 0)",
            "AlgorithmError: algo-2, exit code: 4",
            {"algo-1": 0, "algo-2": 4},
        ),
        (
            "Path('output/failure').write_text(me); sys.exit(5)",
            "AlgorithmError: algo-1, exit code: 5",
            {"algo-1": 5, "algo-2": 5},
        ),
        (
            "Path('model/same').touch()",
            (
                "InternalServerError: the test server itself failed: "
                "FileExistsError('two hosts have left a file model/same')"
            ),
            {"algo-1": 0, "algo-2": 0},
        ),
    ],
)
def test_a_job_fails_with_any_of_its_hosts(server, run, program, reason, codes):
    assert run(MEMBER + program, **several())["FailureReason"] == reason
    assert server.jobs["first"].host_codes == [codes]


def test_a_job_of_several_hosts_is_stopped_and_interrupted_as_a_whole(server, client, submit):
    """All hear the signal, and all begin again, elsewhere."""
    wait = (
        "mark = Path('checkpoints', me); again = Path(f'{mark}-again'); "
        "(again if mark.exists() else mark).touch(); time.sleep(600)"
    )
    program = MEMBER + HEED.format(code=10) + wait
    submit(program, **several(3), **spot(), CheckpointConfig={"S3Uri": "s3://box/checkpoints"})
    job, hosts = server.jobs["first"], ("algo-1", "algo-2", "algo-3")
    for host in hosts:
        wait_for_object(server, f"checkpoints/{host}")
    server.interrupt("first")
    for host in hosts:
        wait_for_object(server, f"checkpoints/{host}-again")
    client.stop_training_job(TrainingJobName="first")
    assert server.wait("first")["SecondaryStatus"] == "Stopped"
    assert job.host_codes == [{"algo-1": 10, "algo-2": 10, "algo-3": 10}] * 2


def test_the_host_count_is_that_of_the_type_that_was_to_be_had(server, run):
    server.settings.without_capacity.add("ml.g5.2xlarge")
    wanted = [
        {"InstanceType": kind, "InstanceCount": count}
        for kind, count in (("ml.g5.2xlarge", 2), ("ml.g6.2xlarge", 3))
    ]
    resources = {"InstancePreferences": wanted, "VolumeSizeInGB": 50}
    found = run(ResourceConfig=resources)["ResourceConfig"]
    assert (found["SelectedInstanceType"], found["SelectedInstanceCount"]) == ("ml.g6.2xlarge", 3)
    assert len(server.jobs["first"].workspaces) == 3


DOCKER = """\
#!{python}
import os, signal, sys, time
with open({log!r}, "a") as log: print(*sys.argv[1:], file=log, flush=True)
if sys.argv[1] == "run":
    open({pid!r}, "w").write(str(os.getpid()))
    time.sleep(600)
os.kill(int(open({pid!r}).read()), signal.Signals[sys.argv[3]])
"""


def test_a_job_can_be_a_container(server, client, submit, tmp_path, monkeypatch):
    """What Docker is told, by a stand-in for its client: an engine is not everywhere."""
    log, pid = tmp_path / "log", tmp_path / "pid"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(python=sys.executable, log=str(log), pid=str(pid)))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    server.settings.executor = Docker("embedtune")
    submit(Environment={"A": "b c"}, EnableNetworkIsolation=True)
    wait_until(lambda: pid.exists() and pid.read_text())
    client.stop_training_job(TrainingJobName="first")
    server.wait("first")
    (root,) = server.jobs["first"].workspaces
    name = f"embedtune-sagemaker-{root.parent.name}-first-1"
    arn = server.jobs["first"].arn
    started = (
        f"run --rm --name {name} --volume {root}:/opt/ml --network none "
        f"--env OMP_NUM_THREADS=1 --env TRAINING_JOB_NAME=first --env TRAINING_JOB_ARN={arn} "
        "--env AWS_REGION=us-east-1 --env AWS_EC2_METADATA_DISABLED=true --env A=b c "
        "embedtune train"
    )
    ended = [f"kill --signal {number} {name}" for number in ("SIGTERM", "SIGKILL")]
    assert log.read_text().splitlines() == [started, *ended]
    assert server.jobs["first"].exit_codes == [128 + signal.SIGTERM]


SDK = """
import boto3
from sagemaker.core.resources import TrainingJob
job = TrainingJob.create(
    training_job_name="first",
    role_arn={role!r},
    algorithm_specification={{"training_image": {image!r}, "training_input_mode": "File"}},
    output_data_config={{"s3_output_path": "s3://box/runs", "compression_type": "NONE"}},
    resource_config={{"instance_type": "ml.g5.2xlarge", "instance_count": 1,
                      "volume_size_in_gb": 50}},
    stopping_condition={{"max_runtime_in_seconds": 3600}},
    session=boto3.Session(), region="us-east-1")
job.wait(poll=1)
print(job.training_job_status, [step.status for step in job.secondary_status_transitions][-1])
"""


@pytest.mark.skipif(not find_spec("sagemaker"), reason="the SDK is an extra")
def test_the_sdk_creates_jobs_and_reads_them(server, tmp_path):
    """All of a description fits its shapes, which did not come from us."""
    server.settings.executor = Process([sys.executable, "-c", "open('model/a', 'w').write('1')"])
    done = subprocess.run(
        [sys.executable, "-P", "-c", SDK.format(role=ROLE, image=IMAGE)],
        env=server.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["Completed Completed"]), (
        done.stderr
    )
    assert server.calls[0] == Call("sagemaker", "CreateTrainingJob")


def test_a_folder_that_vanishes_while_it_is_copied_does_no_harm(server, tmp_path):
    """A job removes its old checkpoints whenever it likes."""
    ended = threading.Event()

    def keep_changing():
        while not ended.is_set():
            (tmp_path / "checkpoint-1" / "inner").mkdir(parents=True)
            shutil.rmtree(tmp_path / "checkpoint-1")

    (tmp_path / "stays").write_text("1", "utf-8")
    job = threading.Thread(target=keep_changing)
    job.start()
    try:
        mirror = Mirror(server.s3, tmp_path, "s3://box/checkpoints")
        for _ in range(2_000):
            mirror.push()
    finally:
        ended.set()
        job.join()
    assert server.s3.get("box", "checkpoints/stays") == b"1"


def test_the_real_job_runs(tiny_encoder, pairs_file, tiny_settings):
    """Model, data and spec come as channels, under isolation; report and model go home."""
    from job.spec_document import build_spec

    spec = build_spec({}, {"data.source": "channel"} | tiny_settings)
    with SageMaker() as server:
        furnish(server)
        server.s3.put("box", "in/spec/job.json", spec.to_json().encode())
        server.s3.put("box", "in/data/pairs.jsonl", pairs_file.read_bytes())
        for name, data in files_of(tiny_encoder).items():
            server.s3.put("box", f"in/model/{name}", data)
        channels = [a_channel(name, f"s3://box/in/{name}/") for name in ("spec", "data", "model")]
        request = a_request() | {"InputDataConfig": channels, "EnableNetworkIsolation": True}
        with closing(SESSION.client("sagemaker", endpoint_url=server.s3.endpoint)) as client:
            client.create_training_job(**request)
        description = server.wait("first", timeout=120)
        assert description.get("FailureReason") is None
        report = json.loads(server.s3.get("box", "runs/first/output/data/report/report.json"))
        assert report["job_name"] == "first"
        assert report["data"]["splits"].keys() >= {"train", "validation", "test"}
        assert "runs/first/output/model/model.safetensors" in server.s3.keys("box")
        assert server.job_calls == []
