"""The tests' SageMaker server: it behaves like AWS for boto3, and really runs jobs.

The launcher's tests cover the rest: real jobs on one host or several, the choice of the instance
type, exit codes of any host, stopping, describing, and late log lines.
"""

import io
import json
import os
import re
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from remote import wait_until
from sagemaker_rules import INDEXES
from sagemaker_server import SageMaker
from sagemaker_transfer import Mirror

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/trainer"
REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
IMAGE = f"{REGISTRY}/embedtune:1"
G5 = {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50}
KEPT = {"CheckpointConfig": {"S3Uri": "s3://box/checkpoints"}}
# Replaces the image's entrypoint: runs the program in the channel `program`.
PROGRAM = [sys.executable, "-c", "import runpy; runpy.run_path('input/data/program/run.py')"]
SESSION = boto3.Session("test", "test", region_name="us-east-1")
# Parts of programs that wait to be stopped.
WAIT = "import time; open('checkpoints/on', 'w'); time.sleep(600)"
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
CHILD = (
    "import subprocess, sys; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
)


@pytest.fixture
def server():
    with SageMaker(PROGRAM, grace_seconds=0.5, log_delay_seconds=0.1) as server:
        furnish(server)
        yield server


@pytest.fixture
def client(server):
    """A client with the server's endpoint; no variables are set."""
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    with closing(
        SESSION.client("sagemaker", endpoint_url=server.s3.endpoint, config=config)
    ) as client:
        yield client


@pytest.fixture
def submit(server, client):
    """Return a function that creates a job with a Python program and changed request fields."""

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
    """Return a function that runs a program as a job and returns the job's description."""

    def to_the_end(program="", name="first", **changes):
        submit(program, name, **changes)
        return server.wait(name)

    return to_the_end


def furnish(server):
    """Create the bucket, role and image that `a_request` names."""
    server.s3.bucket("box")
    assert server.add_role("trainer") == ROLE
    assert server.add_image("embedtune", "1") == IMAGE


def a_request(name="first"):
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://box/runs/", "CompressionType": "NONE"},
        "ResourceConfig": G5,
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def a_channel(name, uri, kind="S3Prefix", **fields):
    source = {"S3DataType": kind, "S3Uri": uri}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}} | fields


def several(count=2, **fields):
    return {"ResourceConfig": G5 | {"InstanceCount": count}} | fields


def spot(**limits):
    given = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60} | limits
    return {"EnableManagedSpotTraining": True, "StoppingCondition": given}


def refusal(call, *arguments, **fields):
    """Return code and message of a call's error."""
    with pytest.raises(ClientError) as raised:
        call(*arguments, **fields)
    return raised.value.response["Error"]["Code"], raised.value.response["Error"]["Message"]


def stages(description):
    return [entry["Status"] for entry in description["SecondaryStatusTransitions"]]


def wait_for_object(server, key="checkpoints/on"):
    wait_until(lambda: key in server.s3.keys("box"))


LOOK = """
import json, os
from pathlib import Path
files = {str(p): p.read_text() for p in sorted(Path("input").rglob("*")) if p.suffix != ".py"
         and p.is_file()}
Path("output/data/seen.json").write_text(json.dumps(
    {"files": files, "environment": dict(os.environ), "folder": os.getcwd()}))
"""


def seen(server):
    """Return what a job with the program `LOOK` has recorded."""
    return json.loads(server.s3.get("box", "runs/first/output/data/seen.json"))


@pytest.mark.parametrize("isolated", [False, True])
def test_a_job_gets_sagemakers_files_and_environment(server, run, monkeypatch, isolated):
    """Of this process's environment the job gets only basic variables.

    An isolated job gets no endpoint and no credentials, and proxies to a closed port.
    """
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HF_TOKEN", "mine")
    server.s3.put("box", "pairs/a.jsonl", b"{}")
    description = run(
        LOOK,
        HyperParameters={"training.epochs": "3"},
        Environment={"EMBEDTUNE_DEVICE": "cpu"},
        CheckpointConfig={"S3Uri": "s3://box/checkpoints/first"},
        InputDataConfig=[a_channel("data", "s3://box/pairs/", InputMode="FastFile")],
        EnableNetworkIsolation=isolated,
    )
    found = seen(server)
    channel = {"S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g5.2xlarge"}
    assert {name: json.loads(text) for name, text in found["files"].items()} == {
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
            "instance_groups": [group | {"hosts": ["algo-1"]}],
            "network_interface_name": "eth0",
        },
        "input/data/data/a.jsonl": {},
    }
    basics = {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR"}
    # Those of `recorded_calls.py`.
    basics |= {"PYTHONPATH", "RECORDED_AWS_CALLS", "PYTEST_CURRENT_TEST"}
    variables = {k: v for k, v in found["environment"].items() if k not in basics}
    home = variables.pop("HOME")
    reachable = {
        "AWS_ENDPOINT_URL": server.s3.endpoint,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.s3.endpoint}/credentials/first",
    }
    proxies = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    proxies |= {name.upper(): value for name, value in proxies.items()}
    assert variables == (proxies if isolated else reachable) | {
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "TRAINING_JOB_NAME": "first",
        "TRAINING_JOB_ARN": description["TrainingJobArn"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "EMBEDTUNE_DEVICE": "cpu",
    }
    # The home is not ours, and both folders are deleted.
    assert home not in (os.environ["HOME"], found["folder"])
    assert not any(Path(path).exists() for path in (home, found["folder"]))


@pytest.mark.parametrize(
    ("uri", "files"),
    [
        ("s3://box/pairs/", ["a.jsonl", "deep/b.jsonl"]),
        # A prefix is not a folder: longer names match as well.
        ("s3://box/pairs", ["a.jsonl", "deep/b.jsonl", "pairs-2/c.jsonl"]),
        ("s3://box/pairs/a.jsonl", ["a.jsonl"]),
        ("s3://box/pai", ["pairs/a.jsonl", "pairs/deep/b.jsonl", "pairs-2/c.jsonl"]),
    ],
)
def test_a_channel_contains_all_objects_with_the_prefix(server, run, uri, files):
    for key in ("pairs/a.jsonl", "pairs/deep/b.jsonl", "pairs-2/c.jsonl", "pairs/"):
        server.s3.put("box", key, b"{}")
    run(LOOK, InputDataConfig=[a_channel("data", uri)])
    data = "input/data/data/"
    found = [name.removeprefix(data) for name in seen(server)["files"] if name.startswith(data)]
    assert found == files


def test_a_prefix_of_one_file_also_matches_its_siblings(server, run):
    """A manifest names the file alone.

    Source: "S3DataSource" in the API reference.
    """
    for key in ("pairs.jsonl", "pairs.jsonl.gz", "deep/pairs.jsonl"):
        server.s3.put("box", key, b"{}")
    manifest = [{"prefix": "s3://box/"}, "pairs.jsonl", "deep/pairs.jsonl"]
    server.s3.put("box", "lists/data.manifest", json.dumps(manifest).encode())
    given = a_channel("listed", "s3://box/lists/data.manifest", "ManifestFile")
    run(LOOK, InputDataConfig=[a_channel("data", "s3://box/pairs.jsonl"), given])
    files = [name for name in seen(server)["files"] if name.startswith("input/data/")]
    assert [name.removeprefix("input/data/") for name in files] == [
        *("data/pairs.jsonl", "data/pairs.jsonl.gz"),
        *("listed/deep/pairs.jsonl", "listed/pairs.jsonl"),
    ]


@pytest.mark.parametrize("names", [None, ["pairs"]])
def test_a_manifest_whose_objects_are_missing_fails_the_job(server, run, names):
    """Its names are whole keys, not prefixes."""
    server.s3.put("box", "pairs.jsonl", b"{}")
    if names:
        manifest = json.dumps([{"prefix": "s3://box/"}, *names])
        server.s3.put("box", "data.manifest", manifest.encode())
    given = a_channel("data", "s3://box/data.manifest", "ManifestFile")
    reason = run(InputDataConfig=[given])["FailureReason"]
    assert reason.startswith("ClientError: Data download failed:No S3 objects found")


@pytest.mark.parametrize("uri", ["s3://box/nothing/", "s3://no-such-bucket/pairs/"])
def test_missing_data_fails_the_job_before_it_runs(server, run, uri):
    """Such a job has no exit code and no log."""
    description = run(InputDataConfig=[a_channel("data", uri)])
    assert stages(description) == ["Starting", "Downloading", "Failed"]
    reason = f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" '
    assert description["FailureReason"].startswith(reason)
    assert server.jobs["first"].exit_codes == []
    with closing(SESSION.client("logs", endpoint_url=server.s3.endpoint)) as logs:
        assert logs.describe_log_groups()["logGroups"] == []


def test_results_are_uploaded_as_archives_by_default(server, run):
    """An empty folder has no archive."""
    output = {"S3OutputPath": "s3://box/runs"}
    program = "import os; os.mkdir('model/part'); open('model/part/a', 'w').write('1')"
    description = run(program, OutputDataConfig=output)
    (key,) = server.s3.keys("box", "runs/")
    assert description["ModelArtifacts"] == {"S3ModelArtifacts": f"s3://box/{key}"}
    assert key == "runs/first/output/model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(server.s3.get("box", key))) as archive:
        assert archive.extractfile("part/a").read() == b"1"


def test_a_failure_leaves_data_but_no_model(server, run):
    description = run(
        "for name in ('model/a', 'output/data/b'): open(name, 'w')\n"
        "open('output/failure', 'w').write('It is broken.'); raise SystemExit(4)"
    )
    assert description["FailureReason"] == "AlgorithmError: It is broken., exit code: 4"
    assert server.s3.keys("box", "runs/") == ["runs/first/output/data/b"]
    assert server.jobs["first"].uploaded == ["s3://box/runs/first/output/data/b"]
    assert "ModelArtifacts" not in description


def test_a_long_failure_loses_its_exit_code(run):
    """The reason has at most 1,024 characters, with AWS's words before and after it.

    Source: "DescribeTrainingJob" in the API reference.
    """
    reason = run(
        "open('output/failure', 'w').write('x' * 1500); raise SystemExit(4)",
    )["FailureReason"]
    assert reason == f"AlgorithmError: {'x' * 1008}"
    assert len(reason) == 1024


def test_a_killed_container_is_reported_as_out_of_memory(run):
    """Such a reason begins with `ClientError`, not with `AlgorithmError`.

    Source: failure reasons that rse-grand-challenge and amazon-sagemaker-examples quote.
    """
    reason = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")["FailureReason"]
    assert reason == (
        "ClientError: Please use an instance type with more memory, or reduce the size of job data "
        "processed on an instance., exit code: 137"
    )


def test_both_result_folders_are_uploaded_although_the_job_may_have_stored_them(server, run):
    """Everything that is left in them; the upload is billed.

    Sources: "How Amazon SageMaker AI Processes Training Output" and "Mapping of training storage
    paths managed by Amazon SageMaker AI", in the developer guide.
    """
    program = "import os; os.mkdir('model/deep')\nfor n in {}: open(n, 'w')"
    for name, files in (("full", ["model/deep/a", "output/data/b"]), ("empty", [])):
        run(program.format(files), name=name)
        found = [uri.removeprefix(f"s3://box/runs/{name}/") for uri in server.jobs[name].uploaded]
        assert found == [f"output/{path.removeprefix('output/')}" for path in files]


def test_the_message_of_a_waiting_job_changes_within_one_status(server, client, submit):
    """Source: "SecondaryStatusTransition" in the API reference."""
    messages = (
        "Launching requested ML instances",
        "Insufficient capacity error from EC2 while launching instances, retrying!",
    )
    server.settings.waiting["first"] = messages
    submit()
    seen = []
    while (found := client.describe_training_job(TrainingJobName="first"))["TrainingJobStatus"] == (
        "InProgress"
    ):
        last = found["SecondaryStatusTransitions"][-1]
        if last["Status"] == "Starting" and last["StatusMessage"] not in seen:
            seen.append(last["StatusMessage"])
    assert seen[-2:] == [*messages]
    assert stages(found).count("Starting") == 1


def test_a_job_can_be_stopped_before_it_has_a_host(server, client, submit):
    """It is never billed."""
    server.settings.starting_seconds = 30
    submit(WAIT)
    client.stop_training_job(TrainingJobName="first")
    description = server.wait("first", timeout=60)
    assert stages(description) == ["Starting", "Stopping", "Stopped"]
    assert description.keys().isdisjoint({"TrainingStartTime", "BillableTimeInSeconds"})


@pytest.mark.parametrize(
    ("program", "code"), [(WAIT, 143), (f"{IGNORE}{CHILD}{WAIT}", 137)], ids=["obeys", "ignores"]
)
def test_the_time_limit_stops_a_job(server, run, program, code):
    """A job that ignores SIGTERM is killed with all its processes."""
    description = run(program, **KEPT, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert description["TrainingJobStatus"] == "Stopped"
    assert stages(description)[-3:] == ["Stopping", "Uploading", "MaxRuntimeExceeded"]
    assert "FailureReason" not in description
    assert description["BillableTimeInSeconds"] >= 2
    assert server.jobs["first"].exit_codes == [code]


def test_a_spot_job_ends_after_its_maximum_wait_time(server, run):
    server.settings.starting_seconds = 30
    description = run(**spot(MaxRuntimeInSeconds=1, MaxWaitTimeInSeconds=1))
    assert description["SecondaryStatus"] == "MaxWaitTimeExceeded"
    assert description["TrainingJobStatus"] == "Stopped"


def test_checkpoints_are_restored_and_local_deletions_reach_s3(server, submit, client):
    """Objects that others add to the prefix are kept.

    Source: "Use checkpoints in Amazon SageMaker AI", in the developer guide.
    """
    program = (
        "import os\n"
        "assert open('checkpoints/deep/old').read() == '1'\n"
        "os.remove('checkpoints/deep/old')\n" + WAIT
    )
    server.s3.put("box", "checkpoints/first/deep/old", b"1")
    server.s3.put("box", "checkpoints/first-2/other", b"1")
    submit(program, CheckpointConfig={"S3Uri": "s3://box/checkpoints/first/"})
    wait_for_object(server, "checkpoints/first/on")
    server.s3.put("box", "checkpoints/first/theirs", b"3")
    wait_until(lambda: "checkpoints/first/deep/old" not in server.s3.keys("box"))
    client.stop_training_job(TrainingJobName="first")
    server.wait("first")
    assert server.s3.keys("box", "checkpoints/") == [
        *("checkpoints/first-2/other", "checkpoints/first/on", "checkpoints/first/theirs"),
    ]


def test_a_checkpoint_uri_without_a_slash_also_matches_longer_names(server, run):
    """The job gets the checkpoints of another one, and deletes them with its own.

    Sources: "S3DataSource" in the API reference (a prefix matches all keys that begin so), and
    "Fixing issue with checkpoint_s3_uri usage (must end on "/")", syne-tune pull request 363.
    """
    for name in ("a1", "a10"):
        server.s3.put("box", f"checkpoints/{name}/step", name.encode())
    program = "import shutil; shutil.rmtree('checkpoints')"
    run(program, CheckpointConfig={"S3Uri": "s3://box/checkpoints/a1"})
    assert server.s3.keys("box", "checkpoints/") == []


def test_a_folder_may_be_deleted_during_the_upload(server, tmp_path, monkeypatch):
    """A job may delete old checkpoints at any time."""
    (tmp_path / "stays").write_text("1", "utf-8")
    (tmp_path / "goes").write_text("1", "utf-8")
    mirror, look = Mirror(server.s3, tmp_path, "s3://box/checkpoints"), Path.read_bytes

    def read(path):
        (tmp_path / "goes").unlink(missing_ok=True)
        return look(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    for _ in range(2):
        mirror.push()
    assert server.s3.keys("box", "checkpoints/") == ["checkpoints/stays"]


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_job_whose_host_is_lost_is_retried_only_as_requested(server, submit, attempts):
    """An internal error starts it again; the runtimes of all attempts count together.

    Sources: "RetryStrategy" and "StoppingCondition" in the API reference.
    """
    program = "import os, time; again = os.path.exists('checkpoints/on')\n"
    program += f"if not again: {WAIT}"
    retry = {"RetryStrategy": {"MaximumRetryAttempts": attempts}} if attempts else {}
    submit(program, **KEPT, **retry)
    wait_for_object(server)
    server.lose("first")
    description = server.wait("first")
    assert stages(description).count("Starting") == 1 + attempts
    if attempts:
        assert description["TrainingJobStatus"] == "Completed"
        assert server.jobs["first"].exit_codes == [137, 0]
    else:
        assert description["FailureReason"].startswith("InternalServerError: We encountered an")


def test_a_spot_job_that_ends_by_itself_is_not_interrupted(server, submit):
    """Its exit code counts, as that of any container; whether a signal comes is undocumented.

    Sources: "How Amazon SageMaker AI Signals Algorithm Success or Failure" in the developer guide,
    and "Saving checkpoints at interrupt", amazon-sagemaker-managed-spot-training issue 3.
    """
    end = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(10)); "
    submit(end + WAIT, **spot(), **KEPT)
    wait_for_object(server)
    server.interrupt("first")
    description = server.wait("first")
    assert description["FailureReason"] == "AlgorithmError: , exit code: 10"
    assert "Interrupted" not in stages(description)


def test_a_job_name_is_never_reused(run, submit):
    """Not even after the job has ended."""
    arn = run()["TrainingJobArn"]
    code, text = refusal(submit)
    assert (code, arn in text) == ("ResourceInUse", True)


def an_image(name):
    return {"AlgorithmSpecification": {"TrainingImage": name, "TrainingInputMode": "File"}}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"TrainingJobName": "my_job"},
            r"1 validation error detected: Value 'my_job' at 'trainingJobName' .* pattern: \[a-zA",
        ),
        ({"RoleArn": None}, "Value null at 'roleArn' .* Member must not be null"),
        (
            {"HyperParameters": {"a": "x" * 2501}},
            r"'hyperParameters' .* Map value must .*: \[Member must have length .* to 2500\]",
        ),
        (
            {"ResourceConfig": G5 | {"InstanceType": "ml.g5.3xlarge"}},
            r"'resourceConfig.instanceType' .* Member must satisfy enum value set: \[ml\.",
        ),
        ({"ResourceConfig": G5 | {"KeepAlivePeriodInSeconds": 21601}}, "value less than or equal"),
        ({"Tags": [{"Key": "a#b", "Value": ""}]}, "'tags.1.member.key'"),
        (
            {"EnableManagedSpotTraining": True},
            "MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntime",
        ),
        (spot() | {"ResourceConfig": G5 | {"KeepAlivePeriodInSeconds": 60}}, "KeepAlive"),
        ({"ResourceConfig": G5 | {"VolumeKmsKeyId": "key"}}, "VolumeKmsKeyId .* ml.g5.2xlarge"),
        ({"ResourceConfig": {"InstanceCount": 1}}, "Specify exactly one of InstanceType"),
        ({"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, "Could not assume role arn:.*nobody"),
        ({"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/other"}, "allows principal 'sagemaker"),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/runs"}},
            "The bucket no-such-bucket of OutputDataConfig.S3OutputPath does not exist",
        ),
        (an_image(f"{REGISTRY}/nothing:1"), "Cannot find repository: nothing in registry ID: "),
        (an_image(f"{REGISTRY}/embedtune"), f"Requested image {REGISTRY}/embedtune not found."),
        (an_image(f"{REGISTRY}/embedtune@sha256:{'0' * 64}"), "Requested image "),
        # The server refuses features that it does not support.
        (
            {
                "InputDataConfig": [
                    a_channel("d", "s3://box/a", "ManifestFile", InputMode="FastFile")
                ]
            },
            "FastFile supports the S3DataType S3Prefix only",
        ),
        ({"ResourceConfig": {"InstanceGroups": []}}, "The test server "),
        ({"CheckpointConfig": {"S3Uri": "s3://box/", "LocalPath": "/tmp/a"}}, "The test server "),
    ],
)
def test_a_faulty_request_is_refused(server, client, changes, text):
    """By the limits of botocore's service model, and by AWS's other rules; nothing is created."""
    server.add_role("other", trusts="lambda.amazonaws.com")
    request = {k: v for k, v in (a_request() | changes).items() if v is not None}
    code, found = refusal(client.create_training_job, **request)
    assert code == "ValidationException"
    assert re.search(text, found), found
    assert server.jobs == {}


def test_quotas_count_running_jobs(server, run, submit):
    """On-demand and spot instances have separate quotas, named as on AWS."""
    server.quota["ml.g5.2xlarge"] = 0
    code, text = refusal(submit)
    assert code == "ResourceLimitExceeded"
    assert text.startswith(
        "The account-level service limit 'ml.g5.2xlarge for training job usage' is 0 Instances, "
        "with current utilization of 0 Instances and a request delta of 1 Instances."
    )
    server.quota["ml.g5.2xlarge for spot training job usage"] = 1
    run(name="done", **spot())
    submit(WAIT, **spot(), **KEPT)
    _, text = refusal(submit, name="second", **spot())
    assert "'ml.g5.2xlarge for spot training job usage' is 1 Instances, with current " in text
    assert "utilization of 1 Instances and a request delta of 1 Instances" in text


@pytest.mark.parametrize("media_type", INDEXES)
def test_a_list_of_manifests_is_refused(server, submit, media_type):
    """AWS answers so for CreateModel (amazon-sagemaker-feedback, issue 180)."""
    image = server.add_image("indexed", media_type.split(".")[2], media_type)
    algorithm = {"TrainingImage": image, "TrainingInputMode": "File"}
    code, text = refusal(submit, AlgorithmSpecification=algorithm)
    assert (code, "Unsupported manifest media type" in text) == ("ValidationException", True)


def test_a_warm_pool_is_billed_until_it_is_ended(server, client, run):
    """SageMaker Developer Guide, "Use SageMaker AI managed warm pools"; API reference,
    "WarmPoolStatus". Without a quota the job runs, and no machine is kept, silently.
    """
    warm = {"ResourceConfig": G5 | {"KeepAlivePeriodInSeconds": 60}}
    run(name="warm", **warm)
    pool = client.describe_training_job(TrainingJobName="warm")["WarmPoolStatus"]
    assert pool["Status"] == "Available"
    update = {"TrainingJobName": "warm", "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}
    client.update_training_job(**update)
    ended = client.describe_training_job(TrainingJobName="warm")["WarmPoolStatus"]
    assert ended["Status"] == "Terminated"
    assert ended["ResourceRetainedBillableTimeInSeconds"] >= 1
    with pytest.raises(ClientError, match="no available warm pool"):
        client.update_training_job(**update)
    server.quota["ml.g5.2xlarge for training warm pool usage"] = 0
    run(name="cold", **warm)
    assert "WarmPoolStatus" not in client.describe_training_job(TrainingJobName="cold")


def test_jobs_are_listed(server, client, run):
    """By substrings of their names, by age and in pages; an unknown job is not found."""
    for name in ("b-one", "a-two", "b-three"):
        run(name=name)

    def names(**wanted):
        pages = client.get_paginator("list_training_jobs").paginate(**wanted)
        return [job["TrainingJobName"] for p in pages for job in p["TrainingJobSummaries"]]

    assert names() == ["b-one", "a-two", "b-three"]
    assert names(SortOrder="Descending", PaginationConfig={"PageSize": 2}) == names()[::-1]
    assert names(NameContains="b-") == ["b-one", "b-three"]
    assert refusal(client.list_training_jobs, StatusEquals="Failed")[0] == "ValidationException"
    missing = ("ValidationException", "Requested resource not found.")
    assert refusal(client.describe_training_job, TrainingJobName="c") == missing


def test_a_closed_server_leaves_no_process_and_the_next_one_is_empty(tmp_path):
    """Running jobs are killed: this one would sleep for ten minutes."""
    note = tmp_path / "pid"
    program = f"import os; open({str(note)!r}, 'w').write(str(os.getpid())); {IGNORE}"
    command = [sys.executable, "-c", f"{program}import time; time.sleep(600)"]
    with SageMaker(command) as first:
        furnish(first)
        with closing(SESSION.client("sagemaker", endpoint_url=first.s3.endpoint)) as client:
            client.create_training_job(**a_request())
        pid = wait_until(lambda: note.exists() and note.read_text())
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


def test_two_hosts_must_not_leave_a_file_of_the_same_name(server, run):
    """On AWS one of the files would probably be lost."""
    reason = run(f"{MEMBER}Path('model/same').touch()", **several())["FailureReason"]
    assert "two hosts have left a file model/same" in reason
    assert server.jobs["first"].host_codes == [{"algo-1": 0, "algo-2": 0}]


def test_a_job_of_several_hosts_is_stopped_and_interrupted_as_a_whole(server, client, submit):
    """All hosts get the signal, and all start again on other machines."""
    wait = (
        "mark = Path('checkpoints', me); again = Path(f'{mark}-again'); has_begun = mark.exists(); "
        "end = (lambda *_: sys.exit(10)) if has_begun else signal.SIG_IGN; "
        "signal.signal(signal.SIGTERM, end); "
        "(again if has_begun else mark).touch(); time.sleep(600)"
    )
    submit(MEMBER + wait, **several(), **spot(), **KEPT)
    job, hosts = server.jobs["first"], ("algo-1", "algo-2")
    for host in hosts:
        wait_for_object(server, f"checkpoints/{host}")
    server.interrupt("first")
    server.reclaim("first")
    for host in hosts:
        wait_for_object(server, f"checkpoints/{host}-again")
    client.stop_training_job(TrainingJobName="first")
    assert server.wait("first")["SecondaryStatus"] == "Stopped"
    assert job.host_codes == [dict.fromkeys(hosts, 137), dict.fromkeys(hosts, 10)]
