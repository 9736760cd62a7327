"""The whole request of a plan: what reaches SageMaker, what stays here, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from job.errors import DataError, ModelError, SpecError
from job.spec_document import build_spec
from launcher.machine import MachineOptions
from launcher.plan import Plan
from launcher.site import Site
from launcher.training_job import (
    METRIC_DIMENSIONS,
    build_request,
    channels,
    check_plan,
    environment,
    staging,
)
from launcher.validation import check_request

ROLE = "arn:aws:iam::123456789012:role/job"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/embedtune:1"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0f"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-AbCdEf"
BARE = Site("us-east-1", ROLE, IMAGE)
STACK = Site(
    "us-east-1",
    ROLE,
    IMAGE,
    kms_key_arn=KEY,
    hub_token_secret_arn=SECRET,
    subnets=("subnet-1", "subnet-2"),
    security_groups=("sg-1",),
    checkpoints="s3://own/checkpoints",
    inputs="s3://own/inputs",
)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Make a plan in a folder with a file of pairs and a folder of a model."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("{}\n")
    Path("tiny").mkdir()
    Path("tiny", "config.json").write_text("{}")

    def make(machine=None, **fields):
        given = {"data.source": "pairs.jsonl", "model.base": "tiny", "output.uri": "s3://box/runs"}
        given |= {name.replace("__", "."): value for name, value in fields.items()}
        options = MachineOptions(**{"backend": "sagemaker"} | (machine or {}))
        return Plan("first", build_spec({}, given), options)

    return make


def requested(plan, site=BARE):
    """Build a plan's request, which must be one that SageMaker would take."""
    check_plan(plan)
    request = build_request(plan, site, plan.name)
    check_request(request)
    return request


def channel(name, uri, mode="File"):
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def curves():
    """The metric definitions: those of training, and of each dimension's three scores."""
    found = {
        "train:loss": r"train: step=\S+ loss=([0-9.]+)",
        "train:learning_rate": r"train: step=.* learning_rate=([0-9.e+-]+)",
        "bm25:ndcg@10": " bm25 ndcg@10: ([0-9.]+)",
    }
    for dimension in METRIC_DIMENSIONS:
        key = f"dim_{dimension}_cosine_ndcg@10"
        found[f"base:{key}"] = f" base {key}: ([0-9.]+)"
        found[f"tuned:{key}"] = f" tuned {key}: ([0-9.]+)"
        found[f"validation:{key}"] = rf"validate: step=\S+ {key}: ([0-9.]+)"
    return [{"Name": name, "Regex": regex} for name, regex in found.items()]


# What SageMaker is told of `pairs.jsonl` and `tiny` when nothing else is said.
MINIMAL = {
    "TrainingJobName": "first",
    "AlgorithmSpecification": {
        "TrainingImage": IMAGE,
        "TrainingInputMode": "File",
        "MetricDefinitions": curves(),
        "EnableSageMakerMetricsTimeSeries": True,
    },
    "RoleArn": ROLE,
    "InputDataConfig": [
        channel("data", "s3://box/runs/first/input/data/"),
        channel("model", "s3://box/runs/first/input/model/"),
        channel("spec", "s3://box/runs/first/input/spec/"),
    ],
    "OutputDataConfig": {
        "S3OutputPath": "s3://box/runs/first/sagemaker",
        "CompressionType": "NONE",
    },
    "CheckpointConfig": {
        "S3Uri": "s3://box/runs/first/checkpoints",
        "LocalPath": "/opt/ml/checkpoints",
    },
    "ResourceConfig": {
        "InstanceType": "ml.g5.2xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 100,
    },
    "StoppingCondition": {"MaxRuntimeInSeconds": 14_400},
    "EnableManagedSpotTraining": False,
    "EnableNetworkIsolation": False,
    "EnableInterContainerTrafficEncryption": False,
    "Environment": {"EMBEDTUNE_RUN": "first", "EMBEDTUNE_DEVICE": "auto"},
    "Tags": [{"Key": "embedtune:run", "Value": "first"}],
}


def test_a_minimal_plans_request(plan):
    assert requested(plan()) == MINIMAL


def test_what_the_stack_knows_reaches_the_request(plan):
    """Its key, network and the places of its bucket that are cleared; no secret where no Hub is."""
    assert requested(plan(), STACK) == MINIMAL | {
        "InputDataConfig": [
            channel(name, f"s3://own/inputs/first/{name}/") for name in ("data", "model", "spec")
        ],
        "OutputDataConfig": MINIMAL["OutputDataConfig"] | {"KmsKeyId": KEY},
        "CheckpointConfig": {
            "S3Uri": "s3://own/checkpoints/first",
            "LocalPath": "/opt/ml/checkpoints",
        },
        "VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]},
    }


SPOT_WAIT = {"MaxRuntimeInSeconds": 7_200, "MaxWaitTimeInSeconds": 10_800}
KINDS = ("ml.g5.2xlarge", "ml.g5.4xlarge")


@pytest.mark.parametrize(
    ("machine", "changes"),
    [
        # A spot job waits an hour for machines, besides its own time, unless told otherwise.
        (
            {"spot": True, "max_runtime": 7_200},
            {"EnableManagedSpotTraining": True, "StoppingCondition": SPOT_WAIT},
        ),
        (
            {"spot": True, "max_runtime": 7_200, "max_wait": 10_800},
            {"EnableManagedSpotTraining": True, "StoppingCondition": SPOT_WAIT},
        ),
        (
            {"instance_type": KINDS},
            {
                "ResourceConfig": {
                    "InstancePreferences": [
                        {"InstanceType": kind, "InstanceCount": 1} for kind in KINDS
                    ],
                    "VolumeSizeInGB": 100,
                }
            },
        ),
        (
            {
                "instance_type": ("ml.m5.xlarge",),
                "instances": 2,
                "volume_gb": 30,
                "volume_kms_key": KEY,
                "keep_alive": 1_800,
            },
            {
                "ResourceConfig": {
                    "InstanceType": "ml.m5.xlarge",
                    "InstanceCount": 2,
                    "VolumeSizeInGB": 30,
                    "VolumeKmsKeyId": KEY,
                    "KeepAlivePeriodInSeconds": 1_800,
                }
            },
        ),
        (
            {"subnet": ("subnet-1", "subnet-2"), "security_group": ("sg-1", "sg-2")},
            {
                "VpcConfig": {
                    "Subnets": ["subnet-1", "subnet-2"],
                    "SecurityGroupIds": ["sg-1", "sg-2"],
                }
            },
        ),
        (
            {"tag": ("team=search", "cost center=a=b")},
            {
                "Tags": [
                    {"Key": "team", "Value": "search"},
                    {"Key": "cost center", "Value": "a=b"},
                    {"Key": "embedtune:run", "Value": "first"},
                ]
            },
        ),
        (
            {"env": ("A=b=c", "EMPTY=", "EMBEDTUNE_RUN=other"), "device": "cuda"},
            # Not even the user takes away what finds the run again.
            {
                "Environment": {
                    "A": "b=c",
                    "EMPTY": "",
                    "EMBEDTUNE_RUN": "first",
                    "EMBEDTUNE_DEVICE": "cuda",
                }
            },
        ),
        (
            {"input_mode": "FastFile"},
            # The spec is a file of a few lines.
            {
                "InputDataConfig": [
                    channel("data", "s3://box/runs/first/input/data/", "FastFile"),
                    channel("model", "s3://box/runs/first/input/model/", "FastFile"),
                    channel("spec", "s3://box/runs/first/input/spec/"),
                ]
            },
        ),
        (
            {"isolate": True},
            {
                "EnableNetworkIsolation": True,
                "Environment": MINIMAL["Environment"]
                | {"HF_HUB_OFFLINE": "1", "EMBEDTUNE_NO_PUBLISH": "1"},
            },
        ),
    ],
    ids=["spot", "wait", "types", "machine", "VPC", "tags", "env", "FastFile", "isolation"],
)
def test_an_option_changes_this_and_nothing_else(plan, machine, changes):
    assert requested(plan(machine)) == MINIMAL | changes


def test_the_specs_key_encrypts_the_results_and_wins_over_the_stacks(plan):
    other = KEY.replace("0f", "ff")
    output = MINIMAL["OutputDataConfig"] | {"KmsKeyId": other}
    for site in (BARE, STACK):
        assert requested(plan(output__kms_key=other), site)["OutputDataConfig"] == output


def test_a_taken_up_run_is_another_job_with_the_same_places(plan):
    assert build_request(plan(), BARE, "first-2") == MINIMAL | {"TrainingJobName": "first-2"}


def test_what_lies_in_s3_is_a_channel_where_it_lies(plan):
    """A folder's prefix is closed, so that `s3://…/pairs` brings nothing of `s3://…/pairs-old`."""
    made = plan(
        data__source="s3://data/pairs",
        data__corpus="s3://data/corpus.jsonl",
        data__test="s3://data/test/",
        model__base="s3://models/tiny",
    )
    assert channels(made, BARE) == {
        "data": "s3://data/pairs/",
        "test": "s3://data/test/",
        "corpus": "s3://data/corpus.jsonl",
        "model": "s3://models/tiny/",
        "spec": "s3://box/runs/first/input/spec/",
    }
    assert staging(made) == {}


def test_the_job_itself_reads_the_hub_and_what_it_has_built_in(plan):
    """No channel but the spec, and the stack's secret for the Hub alone."""
    for data, model, told in (
        ("builtin:aws-docs", "builtin:minilm", None),
        ("me/pairs", "builtin:minilm", SECRET),
        ("builtin:aws-docs", "me/model", SECRET),
        ("hf://datasets/me/pairs@main:train", "BAAI/bge-base-en-v1.5", SECRET),
    ):
        made = plan(data__source=data, model__base=model)
        assert list(channels(made, BARE)) == ["spec"]
        assert requested(made, STACK)["Environment"].get("EMBEDTUNE_HF_TOKEN_SECRET") == told


def test_the_options_secret_wins_over_the_stacks(plan):
    other = SECRET.replace("hub", "mine")
    made = plan({"hf_token_secret": other}, model__base="me/model")
    assert environment(made, STACK)["EMBEDTUNE_HF_TOKEN_SECRET"] == other


def test_isolation_brings_the_hubs_model_as_a_channel_and_no_secret(plan):
    made = plan({"isolate": True}, model__base="me/model")
    assert staging(made) == {"data": "pairs.jsonl", "model": "me/model"}
    request = requested(made, STACK)
    assert request["InputDataConfig"] == [
        channel(name, f"s3://own/inputs/first/{name}/") for name in ("data", "model", "spec")
    ]
    assert "EMBEDTUNE_HF_TOKEN_SECRET" not in request["Environment"]


def test_the_longest_name_and_its_suffix_are_legal(plan):
    made = plan()
    check_request(build_request(made, BARE, "a" * 60 + "-99"))


@pytest.mark.parametrize(
    ("machine", "fields", "error", "text"),
    [
        ({"tag": ("team",)}, {}, SpecError, "`--tag team`: expected NAME=VALUE."),
        ({"env": ("A",)}, {}, SpecError, "`--env A`: expected NAME=VALUE."),
        (
            {"env": ("HF_TOKEN=hf_PlantedToken",)},
            {},
            SpecError,
            (
                "`--env HF_TOKEN=…` would show the token to all who may describe the job: put it "
                "into a secret, and give `--hf-token-secret ARN`."
            ),
        ),
        (
            {"image": "embedtune"},
            {},
            SpecError,
            (
                "`--image embedtune`: SageMaker fetches images from ECR alone, as in "
                "`123456789012.dkr.ecr.us-east-1.amazonaws.com/embedtune:1`."
            ),
        ),
        (
            {"hf_token_secret": "hub"},
            {},
            SpecError,
            "`--hf-token-secret hub`: expected an ARN, arn:aws:secretsmanager:…",
        ),
        (
            {},
            {"output__uri": "runs"},
            SpecError,
            (
                "`--backend sagemaker` leaves its results in S3, and `--output` is `runs`: give "
                "`--output s3://bucket/prefix`, or make the stack (`embedtune infra deploy`), "
                "whose bucket is the default."
            ),
        ),
        (
            {},
            {"data__source": "no.jsonl"},
            DataError,
            "There is no file or folder `no.jsonl` here.",
        ),
        ({}, {"data__test": "a/b.csv"}, DataError, "There is no file or folder `a/b.csv` here."),
        ({}, {"model__base": "./no"}, ModelError, "There is no file or folder `./no` here."),
        ({}, {"data__source": "hollow"}, DataError, "The folder `hollow` is empty."),
        ({}, {"model__base": "hollow"}, ModelError, "The folder `hollow` is empty."),
        (
            {"isolate": True},
            {"output__hub": "me/tuned"},
            SpecError,
            (
                "`--isolate` cuts the job off from the Hub and from AWS: it cannot push to "
                "`output.hub`."
            ),
        ),
        (
            {"isolate": True, "hf_token_secret": SECRET},
            {},
            SpecError,
            (
                "`--isolate` cuts the job off from the Hub and from AWS: it cannot read "
                "`--hf-token-secret`."
            ),
        ),
        (
            {"isolate": True},
            {"data__corpus": "me/documents"},
            SpecError,
            (
                "`--isolate` cuts the job off from the Hub and from AWS: download `me/documents` "
                "first, and give its folder."
            ),
        ),
    ],
)
def test_what_a_request_does_not_show_is_refused(plan, machine, fields, error, text):
    Path("hollow").mkdir()
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        check_plan(plan(machine, **fields))


@pytest.mark.parametrize(
    ("machine", "setting"),
    [
        ({"max_wait": 7_200}, "--max-wait"),
        ({"subnet": ("subnet-1",)}, "--security-group"),
        ({"security_group": ("sg-1",)}, "--subnet"),
    ],
)
def test_an_option_that_needs_another_is_not_passed_over(plan, machine, setting):
    with pytest.raises(SpecError, match=f"`{setting}`"):
        requested(plan(machine))


def test_a_request_is_plain_json(plan):
    request = requested(plan(), STACK)
    assert json.loads(json.dumps(request)) == request


def test_several_machines_share_all_inputs_and_one_place_for_checkpoints(plan):
    """Each has the whole of every channel; their traffic is not slowed down by encryption."""
    assert requested(plan({"instances": 2, "instance_type": ("ml.g5.12xlarge",)})) == MINIMAL | {
        "ResourceConfig": {
            "InstanceType": "ml.g5.12xlarge",
            "InstanceCount": 2,
            "VolumeSizeInGB": 100,
        },
    }
