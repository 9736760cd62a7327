"""A request that SageMaker would refuse is refused here, offline, in one line."""

import copy
import json
import subprocess
import sys

import pytest

from job.errors import SpecError
from launcher.validation import (
    _model,
    _values,
    check_request,
    find_faults,
    line,
    python_pattern,
)

RIGHT = {
    "TrainingJobName": "bge-base-20261123-2",
    "RoleArn": "arn:aws:iam::123456789012:role/embedtune/trainer",
    "AlgorithmSpecification": {
        "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/e@sha256:" + "0" * 64,
        "TrainingInputMode": "File",
        "EnableSageMakerMetricsTimeSeries": True,
        "MetricDefinitions": [
            {"Name": "dim_128_cosine_ndcg@10", "Regex": r"dim_128_cosine_ndcg@10=([0-9.]+)"}
        ],
    },
    "HyperParameters": {"training.epochs": "3", "evaluation.dimensions": "[768, 64]"},
    "InputDataConfig": [
        {
            "ChannelName": "data",
            "InputMode": "FastFile",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": "s3://box/inputs/a b/ü/",
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
        },
        {
            "ChannelName": "spec",
            "DataSource": {
                "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://box/spec/job.json"}
            },
        },
    ],
    "OutputDataConfig": {
        "S3OutputPath": "s3://box/runs/first/sagemaker",
        "KmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/1234abcd",
        "CompressionType": "NONE",
    },
    "ResourceConfig": {
        "InstanceType": "ml.g5.2xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 50,
        "KeepAlivePeriodInSeconds": 0,
    },
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
    "CheckpointConfig": {"S3Uri": "s3://box/checkpoints/first"},
    "EnableManagedSpotTraining": True,
    "EnableNetworkIsolation": False,
    "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]},
    "Environment": {"EMBEDTUNE_DEVICE": "auto", "LINES": "one\ntwo"},
    "RetryStrategy": {"MaximumRetryAttempts": 2},
    "Tags": [{"Key": "embedtune:run", "Value": "größer als / @home+1 = ja"}],
}


def wrong(*changes):
    """Copy the right request, with values set, or taken away by `...`, at paths of it."""
    request = copy.deepcopy(RIGHT)
    for path, value in changes:
        *above, last = path.split("/")
        part = request
        for name in above:
            part = part[int(name) if name.isdecimal() else name]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return request


def refusal(request):
    with pytest.raises(SpecError) as raised:
        check_request(request)
    return str(raised.value).removeprefix("SageMaker would refuse this job: ")


def test_a_right_request_passes():
    assert find_faults(RIGHT) == []
    check_request(RIGHT)


# A mistake and the whole line that it ends in.
MISTAKES = {
    "the name has an underscore": (
        [("TrainingJobName", "my_job")],
        (
            "`TrainingJobName` (`--name`) is 'my_job'; expected: letters, digits and, between "
            "them, `-`."
        ),
    ),
    "the name is too long": (
        [("TrainingJobName", "a" * 64)],
        "`TrainingJobName` (`--name`) has 64 characters; at most 63 are allowed.",
    ),
    "there is no role": ([("RoleArn", ...)], "`RoleArn` (`--role`) is missing."),
    "the role is a name": (
        [("RoleArn", "embedtune-trainer-role")],
        (
            "`RoleArn` (`--role`) is 'embedtune-trainer-role'; expected: "
            "`arn:aws:iam::ACCOUNT:role/NAME`."
        ),
    ),
    "there is no such instance": (
        [("ResourceConfig/InstanceType", "ml.g5.3xlarge")],
        (
            "`ResourceConfig.InstanceType` (`--instance-type`) is 'ml.g5.3xlarge', which is "
            "none of the 225 known; near it are `ml.g5.xlarge`, `ml.g5.8xlarge`, `ml.g5.4xlarge`, "
            "`ml.g5.2xlarge`."
        ),
    ),
    "no instance at all": (
        [("ResourceConfig/InstanceCount", 0)],
        "`ResourceConfig.InstanceCount` (`--instances`) is 0; at least 1 is needed.",
    ),
    "spot without a wait": (
        [("StoppingCondition/MaxWaitTimeInSeconds", ...)],
        (
            "`StoppingCondition.MaxWaitTimeInSeconds` (`--max-wait`) is missing; a spot job "
            "needs one of at least its runtime, 3600 s."
        ),
    ),
    "spot with a wait that is too short": (
        [("StoppingCondition/MaxWaitTimeInSeconds", 3599)],
        (
            "`StoppingCondition.MaxWaitTimeInSeconds` (`--max-wait`) is 3599 s, less than "
            "the runtime of 3600 s that it includes."
        ),
    ),
    "spot whose runtime is the usual day": (
        [("StoppingCondition/MaxRuntimeInSeconds", ...)],
        (
            "`StoppingCondition.MaxWaitTimeInSeconds` (`--max-wait`) is 7200 s, less than "
            "the runtime of 86400 s that it includes."
        ),
    ),
    "a wait without spot": (
        [("EnableManagedSpotTraining", False)],
        (
            "`StoppingCondition.MaxWaitTimeInSeconds` (`--max-wait`) is 7200, but only a "
            "spot job waits: it needs `--spot`."
        ),
    ),
    "spot and a warm pool": (
        [("ResourceConfig/KeepAlivePeriodInSeconds", 600)],
        (
            "`ResourceConfig.KeepAlivePeriodInSeconds` (`--keep-alive`) cannot be had with "
            "`--spot`; leave out either."
        ),
    ),
    "spot and several instance types": (
        [
            ("ResourceConfig/InstanceType", ...),
            ("ResourceConfig/InstancePreferences", [{"InstanceType": "ml.g6.2xlarge"}]),
        ],
        (
            "`ResourceConfig.InstancePreferences` (`--instance-type`) cannot be had with "
            "`--spot`; leave out either."
        ),
    ),
    "longer than SageMaker lets a job run": (
        [
            ("StoppingCondition/MaxRuntimeInSeconds", 2_419_201),
            ("StoppingCondition/MaxWaitTimeInSeconds", 2_419_201),
        ],
        (
            "`StoppingCondition.MaxRuntimeInSeconds` (`--max-runtime`) is 2419201 s; at most "
            "2419200 s, 28 days."
        ),
    ),
    "a volume key where the disk is local": (
        [("ResourceConfig/VolumeKmsKeyId", "1234abcd")],
        (
            "`ResourceConfig.VolumeKmsKeyId` (`--volume-kms-key`) is not allowed on "
            "ml.g5.2xlarge, whose own disk encrypts itself; leave it out."
        ),
    ),
    "a hyperparameter of 3,000 characters": (
        [("HyperParameters/evaluation.dimensions", "1" * 3000)],
        (
            "`HyperParameters['evaluation.dimensions']` (`--set`) has 3000 characters; at "
            "most 2500 are allowed."
        ),
    ),
    "a hyperparameter of two lines": (
        [("HyperParameters/training.epochs", "3\n4")],
        (
            r"`HyperParameters['training.epochs']` (`--set`) is '3\n4'; a line break is not "
            "allowed."
        ),
    ),
    "a hyperparameter that is a number": (
        [("HyperParameters/training.epochs", 3)],
        (
            "`HyperParameters['training.epochs']` (`--set`) must be a text, but is of "
            "Python's type `int`."
        ),
    ),
    "a variable with a dash": (
        [("Environment/A-B", "c")],
        (
            "`Environment['A-B']` (`--env`) is 'A-B'; expected: a name of letters, digits and "
            "`_`, no digit first."
        ),
    ),
    "a variable that is too long": (
        [("Environment/TOKEN", "s" * 513)],
        "`Environment['TOKEN']` (`--env`) has 513 characters; at most 512 are allowed.",
    ),
    "too many variables": (
        [("Environment", {f"NAME_{i}": "" for i in range(101)})],
        "`Environment` (`--env`) has 101 entries; at most 100 are allowed.",
    ),
    "two channels of one name": (
        [("InputDataConfig/1/ChannelName", "data")],
        "`InputDataConfig` (`--data`) has two channels of the name `data`.",
    ),
    "a channel of two sources": (
        [
            (
                "InputDataConfig/0/DataSource/FileSystemDataSource",
                {
                    "FileSystemId": "fs-12345678",
                    "FileSystemAccessMode": "ro",
                    "FileSystemType": "EFS",
                    "DirectoryPath": "/",
                },
            )
        ],
        "`InputDataConfig[0].DataSource` (`--data`) has 2 sources; exactly 1 is needed.",
    ),
    "a manifest read by FastFile": (
        [("InputDataConfig/0/DataSource/S3DataSource/S3DataType", "ManifestFile")],
        (
            "`InputDataConfig[0].InputMode` (`--input-mode`) is FastFile, which reads an S3Prefix, "
            "no ManifestFile."
        ),
    ),
    "an input mode that there is not": (
        [("AlgorithmSpecification/TrainingInputMode", "Fast")],
        (
            "`AlgorithmSpecification.TrainingInputMode` is 'Fast'; known are `Pipe`, `File`, "
            "`FastFile`."
        ),
    ),
    "results in a local folder": (
        [("OutputDataConfig/S3OutputPath", "runs")],
        ("`OutputDataConfig.S3OutputPath` (`--output`) is 'runs'; expected: `s3://bucket/prefix`."),
    ),
    "a metric that is no regular expression": (
        [("AlgorithmSpecification/MetricDefinitions/0/Regex", "loss=([0-9.]+")],
        (
            "`AlgorithmSpecification.MetricDefinitions[0].Regex` is no regular expression: "
            "missing ), unterminated subpattern at position 5."
        ),
    ),
    "a metric that captures nothing": (
        [("AlgorithmSpecification/MetricDefinitions/0/Regex", "loss=[0-9.]+")],
        (
            "`AlgorithmSpecification.MetricDefinitions[0].Regex` has 0 groups; exactly 1 is "
            "needed, around the number."
        ),
    ),
    "no image": (
        [("AlgorithmSpecification/TrainingImage", ...)],
        "`AlgorithmSpecification.TrainingImage` (`--image`) is missing.",
    ),
    "an image and an algorithm": (
        [("AlgorithmSpecification/AlgorithmName", "theirs")],
        (
            "`AlgorithmSpecification.TrainingImage` (`--image`) excludes `AlgorithmName`; "
            "the request has both."
        ),
    ),
    "an instance type and groups of instances": (
        [
            (
                "ResourceConfig/InstanceGroups",
                [{"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "InstanceGroupName": "a"}],
            )
        ],
        (
            "`ResourceConfig.InstanceType` (`--instance-type`) excludes `InstanceGroups`; "
            "the request has both."
        ),
    ),
    "a tag that SageMaker's alphabet lacks": (
        [("Tags/0/Value", "a#b")],
        ("`Tags[0].Value` (`--tag`) is 'a#b'; expected: letters, digits, spaces and `_.:/=+-@`."),
    ),
    "a tag of two lines": (
        [("Tags/0/Value", "a\nb")],
        (
            r"`Tags[0].Value` (`--tag`) is 'a\nb'; expected: "
            "letters, digits, spaces and `_.:/=+-@`."
        ),
    ),
    "a tag of AWS's": (
        [("Tags/0/Key", "aws:run")],
        "`Tags[0].Key` (`--tag`) is `aws:run`; `aws:` is AWS's own.",
    ),
    "a tag given twice": (
        [("Tags", [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}])],
        "`Tags` (`--tag`) has the key `a` twice.",
    ),
    "a field that there is not": (
        [("ResourceConfig/InstanceTypes", "ml.g5.xlarge")],
        (
            "`ResourceConfig.InstanceTypes` is no field of a training "
            "job; near it is `InstanceType`."
        ),
    ),
    "a number that is none": (
        [("ResourceConfig/InstanceCount", True)],
        (
            "`ResourceConfig.InstanceCount` (`--instances`) must be a whole number, but is "
            "of Python's type `bool`."
        ),
    ),
    "no limit on the runtime": (
        [("StoppingCondition", ...), ("EnableManagedSpotTraining", False)],
        "`StoppingCondition` is missing.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(mistake):
    """It names the place in the request, what was found there, and how to change it."""
    changes, expected = MISTAKES[mistake]
    assert refusal(wrong(*changes)) == expected


def test_of_many_mistakes_the_first_is_told_and_the_others_counted():
    request = wrong(
        ("TrainingJobName", "my_job"),
        ("ResourceConfig/InstanceType", "ml.g5.3xlarge"),
        ("StoppingCondition/MaxWaitTimeInSeconds", ...),
    )
    assert refusal(request).startswith("`TrainingJobName` (`--name`) is 'my_job'")
    assert refusal(request).endswith("`. There are 2 more faults.")


def test_no_value_of_a_variable_is_shown():
    """Somebody may have put a secret there."""
    told = [line(fault) for fault in find_faults(wrong(("Environment/TOKEN", "s3cret" * 100)))]
    assert told
    assert "s3cret" not in " ".join(told)


def test_a_volume_key_is_fine_where_the_volume_is_a_network_disk():
    key = ("ResourceConfig/VolumeKmsKeyId", "1234abcd")
    assert find_faults(wrong(key, ("ResourceConfig/InstanceType", "ml.p3.2xlarge"))) == []


def test_the_patterns_of_the_whole_request_are_understood():
    """Each is Java's; in Python each compiles, and means as much of Unicode as it does there."""
    everything = list(_shapes(_model(), ""))
    patterns = {shape.metadata["pattern"] for shape in everything if "pattern" in shape.metadata}
    assert len(patterns) > 20
    for pattern in patterns:
        python_pattern(pattern)
    tag = python_pattern(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)")
    assert tag.fullmatch("Größe 5 µm²")
    assert not tag.fullmatch("a\tb")
    assert not python_pattern(r"\d{2}").fullmatch("٣٤")
    kinds = {shape.type_name for shape in everything}
    assert kinds == {"structure", "list", "map", "string", "integer", "long", "boolean"}


def _shapes(shape, path):
    yield shape
    members = {
        "structure": lambda: list(shape.members.values()),
        "list": lambda: [shape.member],
        "map": lambda: [shape.key, shape.value],
    }
    for member in members.get(shape.type_name, list)():
        yield from _shapes(member, path)


def test_every_value_of_the_request_is_looked_at():
    paths = {path for _, _, path in _values(_model(), RIGHT, "")}
    assert "InputDataConfig[1].DataSource.S3DataSource.S3Uri" in paths
    assert "Environment['LINES']" in paths
    assert "AlgorithmSpecification.MetricDefinitions[0].Regex" in paths


def test_it_needs_no_account_no_region_and_no_second(tmp_path):
    """In a fresh interpreter without settings, boto3 is not even loaded."""
    code = (
        "import sys, time, json; from launcher.validation import check_request\n"
        "request = json.load(sys.stdin); begun = time.perf_counter(); check_request(request)\n"
        "print(time.perf_counter() - begun)\n"
        "print('boto3' in sys.modules, 'botocore.session' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(RIGHT),
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, boto3, session = done.stdout.split()
    assert (boto3, session) == ("False", "False")
    assert float(seconds) < 1
