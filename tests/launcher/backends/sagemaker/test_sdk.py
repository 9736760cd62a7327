"""SageMaker's SDK sends the request unchanged, regardless of the user's configuration files."""

import json
import os
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from remote import in_client
from sagemaker_server import Call, SageMaker

from job.core.errors import BackendError
from launcher.backends.sagemaker.sdk import CONFIG_VARIABLES, create_training_job, snake

KEY = "arn:aws:kms:us-east-1:123456789012:key/0f"
THEIR_VPC = {"security_group_ids": ["sg-9"], "subnets": ["subnet-9"]}
# Contents of both kinds of configuration file; each version of the SDK reads one of them.
RESOURCES = {
    "TrainingJob": {
        "role_arn": "arn:aws:iam::123456789012:role/theirs",
        "vpc_config": THEIR_VPC,
        "output_data_config": {"kms_key_id": "theirs"},
        "resource_config": {"volume_kms_key_id": "theirs"},
    },
    "GlobalDefaults": {"vpc_config": THEIR_VPC},
}
TRAINING_JOB = {
    "RoleArn": "arn:aws:iam::123456789012:role/theirs",
    "VpcConfig": {"SecurityGroupIds": ["sg-9"], "Subnets": ["subnet-9"]},
    "OutputDataConfig": {"KmsKeyId": "theirs"},
    "ResourceConfig": {"VolumeKmsKeyId": "theirs"},
    "EnableNetworkIsolation": True,
    "Environment": {"THEIR": "variable"},
    "Tags": [{"Key": "their", "Value": "tag"}],
}
FILES = {
    "none": None,
    "new": {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Resources": RESOURCES}}},
    "old": {"SchemaVersion": "1.0", "SageMaker": {"TrainingJob": TRAINING_JOB}},
}


OPTIONAL = ("VpcConfig", "HyperParameters", "CheckpointConfig", "Environment", "Tags")


def a_request(role, image, name):
    """Return a request with every member that we send, and values that look like member names."""
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://box/data/"}
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "train:loss", "Regex": r"step=\S+ loss=([0-9.]+)"}],
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "RoleArn": role,
        "InputDataConfig": [
            {"ChannelName": "data", "DataSource": {"S3DataSource": source}, "InputMode": "FastFile"}
        ],
        "OutputDataConfig": {
            "S3OutputPath": "s3://box/runs",
            "CompressionType": "NONE",
            "KmsKeyId": KEY,
        },
        "CheckpointConfig": {"S3Uri": "s3://box/kept", "LocalPath": "/opt/ml/checkpoints"},
        "ResourceConfig": {
            "InstanceType": "ml.m5.xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 30,
            "VolumeKmsKeyId": KEY,
            "KeepAlivePeriodInSeconds": 60,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        "EnableManagedSpotTraining": False,
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": False,
        "Environment": {"camelCase": "camelCase", "UPPER_S3Uri": "", "EMBEDTUNE_RUN": name},
        "HyperParameters": {"training.epochs": "3", "KeyName": "Value"},
        "Tags": [{"Key": "CostCenter", "Value": "S3Uri"}],
    }


def send(requests):
    import boto3

    from launcher.backends.sagemaker.sdk import create_training_job

    session = boto3.Session(region_name="us-east-1")
    return [create_training_job(session, request) for request in requests]


@pytest.mark.skipif(not find_spec("sagemaker"), reason="the SDK is an extra")
def test_the_request_is_sent_unchanged(tmp_path):
    """Even with configuration files that would add a VPC, a key or tags."""
    with SageMaker([sys.executable, "-c", ""]) as server:
        server.s3.bucket("box")
        role, image = server.add_role("job"), server.add_image("embedtune", "1")
        for kind, settings in FILES.items():
            home = tmp_path / kind
            file = home / ".config" / "sagemaker" / "config.yaml"
            file.parent.mkdir(parents=True)
            if settings:
                file.write_text(json.dumps(settings))
            named = dict.fromkeys(CONFIG_VARIABLES, str(file)) if settings else {}
            # The second request lacks the members that the SDK would fill in.
            plain = {
                k: v for k, v in a_request(role, image, f"{kind}-2").items() if k not in OPTIONAL
            }
            requests = [a_request(role, image, f"{kind}-1"), plain]
            names = [request["TrainingJobName"] for request in requests]
            arns = in_client(server.environment(home, **named), send, requests)
            assert arns == [server.jobs[name].arn for name in names]
            assert [json.loads(server.jobs[name].body) for name in names] == requests
        assert set(server.calls) == {
            Call("sagemaker", "CreateTrainingJob"),
            Call("sagemaker", "DescribeTrainingJob"),
        }


def test_the_sdk_reads_no_configuration_files(monkeypatch):
    seen = {}

    def create(**given):
        seen.update({name: os.environ[name] for name in CONFIG_VARIABLES}, given=given)
        return SimpleNamespace(training_job_arn="arn:1")

    fake = ModuleType("sagemaker.core.resources")
    fake.TrainingJob = SimpleNamespace(create=create)
    for name in ("sagemaker", "sagemaker.core"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sagemaker.core.resources", fake)
    for name in CONFIG_VARIABLES:
        monkeypatch.setenv(name, "mine.yaml")
    session = SimpleNamespace(region_name="eu-west-1")
    assert create_training_job(session, {"RoleArn": "r"}) == "arn:1"
    assert seen == dict.fromkeys(CONFIG_VARIABLES, os.devnull) | {
        "given": {"role_arn": "r", "session": session, "region": "eu-west-1"}
    }


def test_without_the_sdk_one_line_says_what_to_install(monkeypatch):
    for name in CONFIG_VARIABLES:
        monkeypatch.setenv(name, "mine.yaml")
    monkeypatch.setitem(sys.modules, "sagemaker.core.resources", None)
    with pytest.raises(BackendError, match=r"^SageMaker's SDK is not installed: `pip install 'e"):
        create_training_job(SimpleNamespace(region_name="eu-west-1"), {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TrainingJobName", "training_job_name"),
        ("S3DataType", "s3_data_type"),
        ("VolumeSizeInGB", "volume_size_in_gb"),
        ("EnableSageMakerMetricsTimeSeries", "enable_sage_maker_metrics_time_series"),
    ],
)
def test_members_are_renamed_to_the_sdks_parameters(name, expected):
    """Keys of user data keep their names."""
    assert snake({name: [{name: "Value"}]}) == {expected: [{expected: "Value"}]}
    assert snake({"Environment": {name: "1"}}) == {"environment": {name: "1"}}
