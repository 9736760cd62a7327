"""What the roles of jobs and builds and the launcher policy allow, and what they do not."""

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from deployed_stack import (
    BUCKET,
    BUILD_LOG,
    EVERYTHING,
    LIMITS,
    POLICIES,
    PROJECT,
    REPOSITORY,
    Deployed,
    listed,
)
from recorded_calls import CALLS

from launcher.aws.stack import template_text

# Conditions in words, by operator and whether the value is `false`.
OPERATORS = {
    ("StringEquals", False): lambda values: f"is {' or '.join(values)}",
    ("Bool", False): lambda values: f"is {values[0]}",
    ("Null", True): lambda _: "is given",
}


def in_words(statement):
    """Format a statement as one line: actions, resources, conditions."""
    assert statement["Effect"] == "Allow"
    actions, resources = listed(statement["Action"]), listed(statement["Resource"])
    words = f"{' '.join(actions)} on {' '.join(resources)}"
    account = "eu-west-1:111122223333"
    for operator, tests in statement.get("Condition", {}).items():
        for name, expected in tests.items():
            values = listed(expected)
            words += f" if {name} {OPERATORS[operator, values[0] == 'false'](values)}"
    for long, short in (
        (BUCKET, "BUCKET"),
        (REPOSITORY, "REPOSITORY"),
        (PROJECT, "PROJECT"),
        (BUILD_LOG, "BUILD_LOG"),
        (account, "ACCOUNT"),
    ):
        words = words.replace(long, short)
    return words


@pytest.mark.parametrize("name", POLICIES)
def test_the_permissions_are_exactly_those_in_the_file(name):
    """A `+` marks permissions that only some parameters grant.

    To regenerate the files: `RENEW=1 pytest tests/infra`; then review the diff.
    """
    always = [in_words(statement) for statement in Deployed().statements(name)]
    unlimited = {name: value for name, value in EVERYTHING.items() if name not in LIMITS}
    granted = [in_words(statement) for statement in Deployed(**unlimited).statements(name)]
    text = "".join(f"{'' if line in always else '+ '}{line}\n" for line in granted)
    expected = Path(__file__).with_name(f"{name}.txt")
    if "RENEW" in os.environ:
        expected.write_text(text, "utf-8")
    assert text == expected.read_text("utf-8")
    assert set(always) <= set(granted)


BY_DOCKER = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}
LOGIN = {"ecr:GetAuthorizationToken"}
KEY_USE = {
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:CreateGrant",
}
# boto3 calls it if an upload fails; no test waits for that.
FAILED_UPLOAD = {"s3:AbortMultipartUpload"}
# What is granted although neither launcher nor job calls it, by the reason.
EXPLAINED = {
    "LauncherPolicy": {
        "`docker push`, and `docker pull` of an image": BY_DOCKER,
        "`image push`, which only the tests with Docker run, and not against ECR": LOGIN,
        "S3 and SageMaker use the key for the caller": KEY_USE,
        "a failed upload": FAILED_UPLOAD,
        "a quota that was never changed; botocore's Stubber answers in the tests, unrecorded": {
            "servicequotas:ListAWSDefaultServiceQuotas"
        },
    },
    "Role": {
        "SageMaker pulls the image": LOGIN
        | {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
        "SageMaker writes logs and metrics": {
            "cloudwatch:PutMetricData",
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:DescribeLogStreams",
            "logs:PutLogEvents",
        },
        "SageMaker downloads channels, and syncs and deletes checkpoints": {
            "s3:DeleteObject",
            "s3:GetBucketLocation",
            "s3:ListMultipartUploadParts",
        },
        "S3 and SageMaker use the key for the job": KEY_USE,
        "SageMaker connects the instances to the VPC": {
            "ec2:CreateNetworkInterface",
            "ec2:CreateNetworkInterfacePermission",
            "ec2:DeleteNetworkInterface",
            "ec2:DeleteNetworkInterfacePermission",
            "ec2:DescribeDhcpOptions",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcs",
        },
        "a failed upload": FAILED_UPLOAD,
    },
    # The local CodeBuild refuses what the role does not grant (tests/doubles/code_build.py).
    "BuildRole": {
        "CodeBuild reads the source": {"s3:GetObject", "s3:GetObjectVersion", "kms:Decrypt"},
        "CodeBuild writes the log": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "`docker push` in the buildspec": BY_DOCKER | LOGIN,
    },
}
# Operations whose IAM action has another name, or that need several or none.
ACTIONS = {
    "bedrock:Converse": {"bedrock:InvokeModel"},
    "s3:CompleteMultipartUpload": {"s3:PutObject"},
    "s3:CopyObject": {"s3:GetObject", "s3:PutObject"},
    "s3:CreateMultipartUpload": {"s3:PutObject"},
    "s3:HeadBucket": {"s3:ListBucket"},
    "s3:HeadObject": {"s3:GetObject"},
    "s3:ListObjectsV2": {"s3:ListBucket"},
    "s3:UploadPart": {"s3:PutObject"},
    "sagemaker:CreateTrainingJob": {
        *("sagemaker:AddTags", "sagemaker:CreateTrainingJob", "iam:PassRole")
    },
    "sts:AssumeRole": set(),
    "sts:GetCallerIdentity": set(),
}


@pytest.mark.parametrize(
    ("policy", "who"), [("LauncherPolicy", "launcher"), ("Role", "job"), ("BuildRole", None)]
)
def test_policies_grant_what_is_called_and_nothing_else(policy, who):
    """`calls.txt` lists the AWS calls of all tests; every other permission has an explanation."""
    calls = [line.split() for line in CALLS.read_text("utf-8").splitlines()]
    needed = [ACTIONS.get(call, {call}) for caller, call in calls if caller == who]
    called = set().union(*needed)
    statements = Deployed(**EVERYTHING).statements(policy)
    granted = {action for statement in statements for action in listed(statement["Action"])}
    assert called - granted == set()
    assert granted - called == set().union(*EXPLAINED[policy].values()) - called
    assert set().union(*EXPLAINED[policy].values()) <= granted


RUN = "embedtune:run"
JOB = "arn:aws:sagemaker:eu-west-1:111122223333:training-job/any"
NEW = {
    f"aws:RequestTag/{RUN}": ["r"],
    "sagemaker:InstanceTypes": ["ml.g5.2xlarge"],
    "sagemaker:MaxRuntimeInSeconds": ["14400"],
}
# IAM's condition operators, for the values of a request (None: absent) and those of the policy.
TESTS = {
    "StringEquals": lambda given, wanted: given is not None and given[0] in wanted,
    "Null": lambda given, wanted: (given is None) == (wanted == ["true"]),
    "ForAllValues:StringEquals": lambda given, wanted: set(given or ()) <= set(wanted),
    "NumericLessThanEquals": lambda given, wanted: (
        given is not None and float(given[0]) <= float(wanted[0])
    ),
    "NumericLessThanEqualsIfExists": lambda given, wanted: (
        given is None or float(given[0]) <= float(wanted[0])
    ),
}


def allows(stack, action, **context):
    """Whether the launcher policy allows an action on a training job with this context."""
    return any(
        f"sagemaker:{action}" in listed(statement["Action"])
        and any(fnmatchcase(JOB, each) for each in listed(statement["Resource"]))
        and all(
            TESTS[operator](context.get(key), listed(wanted))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
        for statement in stack.statements("LauncherPolicy")
    )


def test_people_may_stop_update_and_tag_the_jobs_of_embedtune_only():
    """A job is one of ours by its tag, which nobody can add to a job of somebody else."""
    stack = Deployed()
    for action in ("StopTrainingJob", "UpdateTrainingJob"):
        assert allows(stack, action, **{f"aws:ResourceTag/{RUN}": ["r"]})
        assert not allows(stack, action, **{"aws:ResourceTag/project": ["theirs"]})
        assert not allows(stack, action)
    assert allows(stack, "CreateTrainingJob", **NEW)
    assert not allows(stack, "CreateTrainingJob", **(NEW | {f"aws:RequestTag/{RUN}": None}))
    tagged = {f"aws:RequestTag/{RUN}": ["r"], "sagemaker:TaggingAction": ["CreateTrainingJob"]}
    assert allows(stack, "AddTags", **tagged)
    assert not allows(stack, "AddTags", **(tagged | {"sagemaker:TaggingAction": None}))
    assert allows(stack, "DescribeTrainingJob")


@pytest.mark.parametrize(
    ("changes", "limited", "unlimited"),
    [
        ({}, True, True),
        ({"InstanceTypes": ["ml.p4d.24xlarge", "ml.g5.2xlarge"]}, True, True),
        ({"InstanceTypes": ["ml.p5.48xlarge", "ml.g5.2xlarge"]}, False, True),
        # A request whose types IAM does not see is refused.
        ({"InstanceTypes": None}, False, True),
        ({"MaxRuntimeInSeconds": ["14401"]}, False, True),
        # Without a maximum, AWS's own is a day.
        ({"MaxRuntimeInSeconds": None}, False, True),
        ({"KeepAlivePeriod": ["600"]}, True, True),
        ({"KeepAlivePeriod": ["601"]}, False, True),
    ],
)
def test_limits_of_the_stack_bound_instance_types_runtime_and_warm_pools(
    changes, limited, unlimited
):
    """Each limit holds only if it is given."""
    request = NEW | {f"sagemaker:{name}": values for name, values in changes.items()}
    assert allows(Deployed(**LIMITS), "CreateTrainingJob", **request) is limited
    assert allows(Deployed(), "CreateTrainingJob", **request) is unlimited


def test_a_warm_pool_cannot_be_prolonged_beyond_its_limit():
    own = {f"aws:ResourceTag/{RUN}": ["r"]}
    stack = Deployed(**LIMITS)
    assert allows(stack, "UpdateTrainingJob", **own, **{"sagemaker:KeepAlivePeriod": ["0"]})
    assert not allows(stack, "UpdateTrainingJob", **own, **{"sagemaker:KeepAlivePeriod": ["3600"]})


def test_wildcards_are_used_only_for_actions_without_resources():
    """No action is a wildcard; only jobs read the secret; a comment explains each `*`."""
    stack = Deployed(**EVERYTHING)
    for policy in POLICIES:
        for statement in stack.statements(policy):
            assert not [action for action in listed(statement["Action"]) if "*" in action]
    assert "GetSecretValue" not in json.dumps(stack["LauncherPolicy"])
    lines = template_text().splitlines()
    wildcards = [number for number, line in enumerate(lines) if line.strip() == 'Resource: "*"']
    assert len(wildcards) == 7
    assert all(lines[number - 1].strip().startswith("#") for number in wildcards)
