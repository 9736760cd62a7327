"""The complete request of a plan: its members, its staging and the refused plans."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.validate import ParamValidator

from job.core.errors import BackendError, DataError, ModelError, SpecError
from job.spec.parse import build_spec
from launcher.aws.stack import Stack
from launcher.backends.sagemaker import backend, context
from launcher.backends.sagemaker.channels import (
    channels,
    correct_channels,
    manifests,
    staging,
)
from launcher.backends.sagemaker.request_validation import _model, check_request, python_pattern
from launcher.backends.sagemaker.training_job import (
    METRIC_DIMENSIONS,
    build_request,
    check_plan,
    environment,
)
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

ROLE = "arn:aws:iam::123456789012:role/job"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/embedtune:1"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0f"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-AbCdEf"
BARE = Stack("us-east-1", ROLE, IMAGE)
STACK = Stack(
    "us-east-1",
    ROLE,
    IMAGE,
    kms_key_arn=KEY,
    hub_token_secret_arn=SECRET,
    subnets=("subnet-1", "subnet-2"),
    security_groups=("sg-1",),
    bucket="own",
)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return a function that makes a plan, in a folder with pairs and a model."""
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


def requested(plan, stack=BARE):
    """Build and validate a plan's request as a launch does."""
    check_plan(plan)
    request = build_request(plan, stack, plan.name)
    check_request(request)
    assert not ParamValidator().validate(request, _model()).has_errors()
    assert json.loads(json.dumps(request)) == request
    return request


def channel(name, uri, mode="File", kind="S3Prefix"):
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def curves():
    """Return the metric definitions: of training, its best, and three scores per dimension."""
    found = {
        "train:loss": r"train: step=\S+ loss=([0-9.]+)",
        "train:learning_rate": r"train: step=.* learning_rate=([0-9.e+-]+)",
        "validation:best": r"train: done .*best_validation=([0-9.]+)",
        "bm25:ndcg@10": " bm25 ndcg@10: ([0-9.]+)",
    }
    for dimension in METRIC_DIMENSIONS:
        key = f"dim_{dimension}_cosine_ndcg@10"
        found[f"base:{key}"] = f" base {key}: ([0-9.]+)"
        found[f"tuned:{key}"] = f" tuned {key}: ([0-9.]+)"
        found[f"validation:{key}"] = rf"validate: step=\S+ {key}: ([0-9.]+)"
    return [{"Name": name, "Regex": regex} for name, regex in found.items()]


# The request for `pairs.jsonl` and `tiny` without options.
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
        "S3Uri": "s3://box/runs/first/checkpoints/",
        "LocalPath": "/opt/ml/checkpoints",
    },
    "ResourceConfig": {
        "InstanceType": "ml.g5.2xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 100,
    },
    "StoppingCondition": {"MaxRuntimeInSeconds": 14_400},
    "RetryStrategy": {"MaximumRetryAttempts": 2},
    "EnableManagedSpotTraining": False,
    "EnableNetworkIsolation": False,
    "EnableInterContainerTrafficEncryption": False,
    "Environment": {
        "AWS_DEFAULT_REGION": "us-east-1",
        "EMBEDTUNE_RUN": "first",
        "EMBEDTUNE_RESULTS": "s3://box/runs/first",
        "EMBEDTUNE_DEVICE": "auto",
        "EMBEDTUNE_DELETE_PUBLISHED": "1",
    },
    "Tags": [{"Key": "embedtune:run", "Value": "first"}],
}


def test_a_minimal_plans_request(plan):
    assert requested(plan()) == MINIMAL


def test_the_stacks_outputs_reach_the_request(plan):
    """Its key, its network and its expiring prefixes; no secret for a job without the Hub."""
    assert requested(plan(), STACK) == MINIMAL | {
        "InputDataConfig": [
            channel(name, f"s3://own/inputs/first/{name}/") for name in ("data", "model", "spec")
        ],
        "OutputDataConfig": MINIMAL["OutputDataConfig"]
        | {"KmsKeyId": KEY, "S3OutputPath": "s3://own/sagemaker/first"},
        "CheckpointConfig": {
            "S3Uri": "s3://own/checkpoints/first/",
            "LocalPath": "/opt/ml/checkpoints",
        },
        "VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]},
    }


SPOT_WAIT = {"MaxRuntimeInSeconds": 7_200, "MaxWaitTimeInSeconds": 10_800}
SPOT_JOB = {
    "EnableManagedSpotTraining": True, "StoppingCondition": SPOT_WAIT,
    "Environment": MINIMAL["Environment"] | {"EMBEDTUNE_SPOT": "1"},
}  # fmt: skip
KINDS = ("ml.g5.2xlarge", "ml.g5.4xlarge")
PREFERENCES = [{"InstanceType": kind, "InstanceCount": 1} for kind in KINDS]
MACHINE = {
    "instance_type": ("ml.m5.xlarge",), "instances": 2, "volume_gb": 30, "volume_kms_key": KEY,
    "keep_alive": 1_800,
}  # fmt: skip
RESOURCES = {
    "InstanceType": "ml.m5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30,
    "VolumeKmsKeyId": KEY, "KeepAlivePeriodInSeconds": 1_800,
}  # fmt: skip
VPC = {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
TAGS = [{"Key": "team", "Value": "search"}, {"Key": "cost center", "Value": "a=b"}]
ENVIRONMENT = MINIMAL["Environment"]
# An isolated job publishes nothing, so it deletes nothing.
ALONE = ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "EMBEDTUNE_NO_PUBLISH": "1"}
del ALONE["EMBEDTUNE_DELETE_PUBLISHED"]
INPUTS = "s3://box/runs/first/input"
STREAMED = [
    channel("data", f"{INPUTS}/data/", "FastFile"),
    channel("model", f"{INPUTS}/model/", "FastFile"),
    # The spec is one small file.
    channel("spec", f"{INPUTS}/spec/"),
]


@pytest.mark.parametrize(
    ("machine", "changes"),
    [
        # By default a spot job waits up to an hour for machines, in addition to its runtime.
        ({"spot": True, "max_runtime": 7_200}, SPOT_JOB),
        ({"spot": True, "max_runtime": 7_200, "max_wait": 10_800}, SPOT_JOB),
        (
            {"instance_type": KINDS},
            {"ResourceConfig": {"InstancePreferences": PREFERENCES, "VolumeSizeInGB": 100}},
        ),
        # Each of several machines gets the complete channels.
        (MACHINE, {"ResourceConfig": RESOURCES}),
        (
            {"subnet": ("subnet-1", "subnet-2"), "security_group": ("sg-1",)},
            {"VpcConfig": VPC},
        ),
        ({"tag": ("team=search", "cost center=a=b")}, {"Tags": [*TAGS, *MINIMAL["Tags"]]}),
        (
            # Users cannot override the variable that identifies the run.
            {"env": ("A=b=c", "EMPTY=", "EMBEDTUNE_RUN=other"), "device": "cuda"},
            {"Environment": ENVIRONMENT | {"A": "b=c", "EMPTY": "", "EMBEDTUNE_DEVICE": "cuda"}},
        ),
        ({"input_mode": "FastFile"}, {"InputDataConfig": STREAMED}),
        ({"encrypt_traffic": True}, {"EnableInterContainerTrafficEncryption": True}),
        (
            {"isolate": True},
            {
                "EnableNetworkIsolation": True,
                "Environment": ALONE,
            },
        ),
    ],
)
def test_an_option_changes_only_its_members_of_the_request(plan, machine, changes):
    assert requested(plan(machine)) == MINIMAL | changes


def test_the_specs_key_encrypts_the_results_and_wins_over_the_stacks(plan):
    other = KEY.replace("0f", "ff")
    output = MINIMAL["OutputDataConfig"] | {"KmsKeyId": other}
    for stack, path in ((BARE, output["S3OutputPath"]), (STACK, "s3://own/sagemaker/first")):
        found = requested(plan(output__kms_key=other), stack)["OutputDataConfig"]
        assert found == output | {"S3OutputPath": path}


def test_a_resumed_run_is_another_job_with_the_same_uris(plan):
    assert build_request(plan(), BARE, "first-2") == MINIMAL | {"TrainingJobName": "first-2"}


def test_an_isolated_jobs_output_does_not_expire(plan):
    """It is the only copy until the launcher publishes it."""
    output = requested(plan({"isolate": True}), STACK)["OutputDataConfig"]
    assert output["S3OutputPath"] == "s3://box/runs/first/sagemaker"


@pytest.fixture
def in_s3(plan):
    return plan(
        {"input_mode": "FastFile"},
        data__source="s3://data/pairs",
        data__corpus="s3://data/corpus.jsonl",
        data__test="s3://data/test/",
        model__base="s3://models/tiny.tar.gz",
    )


SPEC = channel("spec", f"{INPUTS}/spec/")


def test_a_source_in_s3_is_a_channel_without_staging(in_s3):
    """A folder's prefix ends with a slash, so `s3://…/pairs` does not match `s3://…/pairs-old`.

    A file gets a manifest, since its key is a prefix of its siblings'; FastFile is for folders.
    """
    request = requested(in_s3)
    assert request["InputDataConfig"] == [
        channel("data", "s3://data/pairs/", "FastFile"),
        channel("test", "s3://data/test/", "FastFile"),
        channel("corpus", f"{INPUTS}/corpus.manifest", "File", "ManifestFile"),
        channel("model", f"{INPUTS}/model.manifest", "File", "ManifestFile"),
        SPEC,
    ]
    assert manifests(request, in_s3) == {
        f"{INPUTS}/corpus.manifest": '[{"prefix": "s3://data/"}, "corpus.jsonl"]',
        f"{INPUTS}/model.manifest": '[{"prefix": "s3://models/"}, "tiny.tar.gz"]',
    }
    assert staging(in_s3) == {}


def test_s3_decides_whether_a_source_is_a_file(in_s3):
    """The name may mislead; sources that nobody may look at keep the guess."""
    request = build_request(in_s3, BARE, "first")
    correct_channels(request, in_s3, {"data": True, "corpus": False})
    check_request(request)
    assert request["InputDataConfig"] == [
        channel("data", f"{INPUTS}/data.manifest", "File", "ManifestFile"),
        channel("test", "s3://data/test/", "FastFile"),
        channel("corpus", "s3://data/corpus.jsonl/", "FastFile"),
        channel("model", f"{INPUTS}/model.manifest", "File", "ManifestFile"),
        SPEC,
    ]
    assert manifests(request, in_s3)[f"{INPUTS}/data.manifest"] == (
        '[{"prefix": "s3://data/"}, "pairs"]'
    )


def test_the_job_itself_reads_the_hub_and_builtin_sources(plan):
    """The spec is the only channel; only jobs that use the Hub get the stack's secret."""
    for data, model, secret in (
        ("builtin:aws-docs", "builtin:minilm", None),
        ("me/pairs", "builtin:minilm", SECRET),
        ("builtin:aws-docs", "me/model", SECRET),
        ("hf://datasets/me/pairs@main:train", "BAAI/bge-base-en-v1.5", SECRET),
    ):
        made = plan(data__source=data, model__base=model)
        assert channels(made, BARE) == [SPEC]
        assert requested(made, STACK)["Environment"].get("EMBEDTUNE_HF_TOKEN_SECRET") == secret


def test_the_options_secret_wins_over_the_stacks(plan):
    other = SECRET.replace("hub", "mine")
    made = plan({"hf_token_secret": other}, model__base="me/model")
    assert environment(made, STACK)["EMBEDTUNE_HF_TOKEN_SECRET"] == other


def test_the_key_of_a_language_model_comes_from_a_secret_and_only_for_documents(plan):
    key, documents = SECRET.replace("hub", "llm"), {"data__documents": "pairs.jsonl"}
    assert "EMBEDTUNE_LLM_KEY_SECRET" not in environment(plan({"llm_key_secret": key}), STACK)
    made = plan({"llm_key_secret": key}, data__source="null", **documents)
    assert environment(made, STACK)["EMBEDTUNE_LLM_KEY_SECRET"] == key
    assert staging(made) == {"documents": "pairs.jsonl", "model": "tiny"}
    stack = replace(STACK, llm_key_secret_arn=key)
    assert environment(plan(**documents), stack)["EMBEDTUNE_LLM_KEY_SECRET"] == key


def test_an_isolated_job_gets_the_hubs_model_as_a_channel_and_no_secret(plan):
    made = plan({"isolate": True}, model__base="me/model")
    assert staging(made) == {"data": "pairs.jsonl", "model": "me/model"}
    request = requested(made, STACK)
    assert request["InputDataConfig"] == [
        channel(name, f"s3://own/inputs/first/{name}/") for name in ("data", "model", "spec")
    ]
    assert "EMBEDTUNE_HF_TOKEN_SECRET" not in request["Environment"]


def test_the_longest_name_with_a_suffix_is_valid(plan):
    made = plan()
    check_request(build_request(made, BARE, "a" * 60 + "-99"))


@pytest.mark.parametrize(
    ("machine", "fields", "error", "text"),
    [
        ({"tag": ("team",)}, {}, SpecError, "`--tag team`"),
        ({"env": ("A",)}, {}, SpecError, "`--env A`"),
        ({"env": ("HF_TOKEN=hf_Planted",)}, {}, SpecError, "`--env HF_TOKEN=…`"),
        ({"image": "embedtune"}, {}, SpecError, "`--image embedtune`"),
        ({"hf_token_secret": "hub"}, {}, SpecError, "`--hf-token-secret hub`"),
        ({"env": ("EMBEDTUNE_LLM_KEY=sk",)}, {}, SpecError, "`--llm-key-secret ARN`"),
        ({"llm_key_secret": "key"}, {}, SpecError, "`--llm-key-secret key`"),
        (
            {"isolate": True},
            {"data__documents": "pairs.jsonl", "generation__llm": "openai:m"},
            SpecError,
            "`generation.llm`",
        ),
        (
            {"isolate": True},
            {"data__documents": "pairs.jsonl", "generation__llm": "local:me/llm@v1"},
            SpecError,
            "download `me/llm` first: `generation.llm=local:FOLDER`",
        ),
        (
            {},
            {"data__documents": "pairs.jsonl", "generation__llm": "local:./gone"},
            ModelError,
            "`./gone`",
        ),
        ({}, {"data__documents": "handbook/a.md"}, DataError, "`handbook/a.md`"),
        ({}, {"output__uri": "runs"}, SpecError, "`--output` is `runs`"),
        ({}, {"data__source": "no.jsonl"}, DataError, "`no.jsonl`"),
        ({}, {"data__test": "a/b.csv"}, DataError, "`a/b.csv`"),
        ({}, {"model__base": "./no"}, ModelError, "`./no`"),
        ({}, {"data__source": "hollow"}, DataError, "`hollow` is empty"),
        ({}, {"model__base": "hollow"}, ModelError, "`hollow` is empty"),
        ({"isolate": True}, {"output__hub": "me/tuned"}, SpecError, "`output.hub`"),
        ({"isolate": True, "hf_token_secret": SECRET}, {}, SpecError, "`--hf-token-secret`"),
        ({"isolate": True}, {"data__corpus": "me/documents"}, SpecError, "`me/documents`"),
    ],
)
def test_mistakes_that_the_request_would_not_show_are_refused(plan, machine, fields, error, text):
    Path("hollow").mkdir()
    with pytest.raises(error) as raised:
        check_plan(plan(machine, **fields))
    assert text in str(raised.value)
    assert "hf_Planted" not in str(raised.value)


SPOT = {"spot": True}
# Options that SageMaker would reject: the path in the request, the option, part of the message.
REFUSED = [
    ({"role": "embedtune-trainer-role"}, "RoleArn", "--role", "'embedtune-trainer-role'"),
    ({"instance_type": ("ml.g5.3xlarge",)}, "ResourceConfig.InstanceType", "--instance-type",
     "similar values: `ml.g5.xlarge`"),
    (SPOT | {"max_wait": 3_599, "max_runtime": 3_600}, "StoppingCondition.MaxWaitTimeInSeconds",
     "--max-wait", "3599 s"),
    ({"max_wait": 7_200}, "StoppingCondition.MaxWaitTimeInSeconds", "--max-wait", "`--spot`"),
    (SPOT | {"keep_alive": 600}, "ResourceConfig.KeepAlivePeriodInSeconds", "--keep-alive",
     "`--spot`"),
    (SPOT | {"instance_type": KINDS}, "ResourceConfig.InstancePreferences", "--instance-type",
     "`--spot`"),
    ({"instance_type": KINDS + KINDS[:1]}, "ResourceConfig.InstancePreferences", "--instance-type",
     "has ml.g5.2xlarge twice"),
    ({"max_runtime": 2_419_201}, "StoppingCondition.MaxRuntimeInSeconds", "--max-runtime",
     "28 days"),
    ({"volume_kms_key": "12ab"}, "ResourceConfig.VolumeKmsKeyId", "--volume-kms-key",
     "ml.g5.2xlarge"),
    ({"env": ("A-B=c",)}, "Environment['A-B']", "--env", "letters, digits"),
    ({"env": (f"TOKEN={'s3cret' * 100}",)}, "Environment['TOKEN']", "--env", "maximum is 512"),
    ({"env": tuple(f"NAME_{i}=" for i in range(101))}, "Environment", "--env", "maximum is 100"),
    ({"tag": ("a=a#b",)}, "Tags[0].Value", "--tag", "'a#b'"),
    ({"tag": ("a=a\nb",)}, "Tags[0].Value", "--tag", r"'a\nb'"),
    ({"tag": ("aws:run=1",)}, "Tags[0].Key", "--tag", "`aws:run`"),
    ({"subnet": ("subnet-1",)}, "VpcConfig.SecurityGroupIds", "--security-group", "minimum is 1"),
    ({"security_group": ("sg-1",)}, "VpcConfig.Subnets", "--subnet", "minimum is 1"),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "path", "option", "part"), REFUSED)
def test_a_value_that_sagemaker_would_reject_is_one_line(plan, machine, path, option, part):
    """The line names the path in the request, the option and the fault, but no secret."""
    with pytest.raises(SpecError) as raised:
        requested(plan(machine), replace(BARE, role_arn=machine.get("role", ROLE)))
    line = str(raised.value)
    assert all(text in line for text in (f"`{path}` (`{option}`) ", part))
    assert "s3crets3cret" not in line


def test_further_faults_are_counted(plan):
    with pytest.raises(SpecError, match=r"`--role`.*Further invalid values: 2\."):
        requested(plan({"max_wait": 1, "tag": ("aws:a=b",)}), replace(BARE, role_arn="x"))


def test_a_volume_key_is_valid_for_instances_without_local_disks(plan):
    requested(plan({"volume_kms_key": "12ab", "instance_type": ("ml.p3.2xlarge",)}))


def test_every_pattern_of_the_service_model_compiles():
    """The Java patterns match the same Unicode characters in Python."""
    patterns = {s.metadata["pattern"] for s in _shapes(_model()) if "pattern" in s.metadata}
    assert len(patterns) > 20
    for pattern in patterns:
        python_pattern(pattern)
    tag = python_pattern(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)")
    assert tag.fullmatch("Größe 5 µm²")
    assert not tag.fullmatch("a\tb")
    assert not python_pattern(r"\d{2}").fullmatch("٣٤")


def _shapes(shape):
    yield shape
    members = list(getattr(shape, "members", {}).values())
    members += [getattr(shape, name) for name in ("member", "key", "value") if hasattr(shape, name)]
    for member in members:
        yield from _shapes(member)


def test_a_request_is_validated_without_account_and_region(plan, tmp_path):
    """A fresh interpreter does not even import boto3."""
    code = (
        "import sys, json\n"
        "from launcher.backends.sagemaker.request_validation import check_request\n"
        "check_request(json.load(sys.stdin)); print('boto3' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(MINIMAL),
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_a_model_of_bedrock_that_the_role_may_not_ask_is_refused_before_a_machine_is_paid(
    plan, monkeypatch
):
    """What a role of the caller's own may do is not known."""
    allowed = replace(STACK, bedrock_model_arns=("arn:aws:bedrock:us-east-1::foundation-model/m",))
    monkeypatch.setattr(context, "find_stack", lambda _: allowed)
    fields = {"data__source": "null", "data__documents": "pairs.jsonl"}
    assert backend.request(plan(**fields, generation__llm="bedrock:m"))["region"] == "us-east-1"
    other = fields | {"generation__llm": "bedrock:m", "generation__judge": "bedrock:other"}
    with pytest.raises(BackendError, match=r"may not ask `bedrock:other`.*--bedrock-model m --bed"):
        backend.request(plan(**other))
    assert backend.request(plan({"role": ROLE}, **other))["region"] == "us-east-1"
