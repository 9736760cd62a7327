"""The template's resources and outputs, evaluated here: moto ignores most of their properties."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deployed_stack import BUCKET, EVERYTHING, KEY, ROLE, TEMPLATE, Deployed

from launcher.aws.stack import PARAMETERS, template_text
from launcher.containers.cloud_image import ARGUMENTS, MAX_MINUTES

FOLDER = Path(__file__).parents[2] / "infra"


def test_cfn_lint_finds_nothing():
    """No errors, warnings or hints, for all regions with these resource types."""
    lint = Path(sys.executable).with_name("cfn-lint")
    command = [lint, "--include-checks", "I", "--", "infra/stack.yaml"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_template_and_policies_are_within_awss_size_limits():
    """A template may have 51,200 bytes, a managed policy 6,144 characters, a role's 10,240."""
    assert len(template_text().encode()) <= 51_200
    stack = Deployed(**EVERYTHING)
    people = stack["LauncherPolicy"]["Properties"]["PolicyDocument"]
    assert len(json.dumps(people, separators=(",", ":"))) <= 6_144
    for name in ("Role", "BuildRole"):
        policies = stack[name]["Properties"]["Policies"]
        assert len(json.dumps(policies, separators=(",", ":"))) <= 10_240


def test_the_bucket_is_protected_and_outlives_the_stack():
    """It is encrypted, private, without ACLs, with TLS only; temporary objects expire."""
    stack = Deployed()
    for name in ("Bucket", "BucketPolicy"):
        assert {stack[name]["DeletionPolicy"], stack[name]["UpdateReplacePolicy"]} == {"Retain"}
    bucket = stack["Bucket"]["Properties"]
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert list(bucket["PublicAccessBlockConfiguration"].values()) == [True] * 4
    rules = {rule.pop("Id"): rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert {rule.pop("Status") for rule in rules.values()} == {"Enabled"}
    assert rules == {
        "checkpoints": {"Prefix": "checkpoints/", "ExpirationInDays": 30},
        "inputs": {"Prefix": "inputs/", "ExpirationInDays": 30},
        "sagemaker": {"Prefix": "sagemaker/", "ExpirationInDays": 30},
        "builds": {"Prefix": "builds/", "ExpirationInDays": 7},
        "aborted-uploads": {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
    }
    assert stack["BucketPolicy"]["Properties"]["Bucket"] == "the-bucket"
    assert stack.statements("BucketPolicy") == [
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [BUCKET, f"{BUCKET}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]


def test_the_given_key_encrypts_the_bucket():
    properties = Deployed(KmsKeyArn=KEY)["Bucket"]["Properties"]
    (encryption,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == {
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
        "BucketKeyEnabled": True,
    }


@pytest.mark.parametrize("kept", [30, 5])
def test_tags_of_the_repository_are_immutable(kept):
    """Untagged images expire after two weeks, tagged ones if there are many newer."""
    properties = Deployed(**({} if kept == 30 else {"KeepImages": kept}))["Repository"][
        "Properties"
    ]
    rule, newest = json.loads(properties.pop("LifecyclePolicy")["LifecyclePolicyText"])["rules"]
    assert properties == {
        "RepositoryName": "the-stack",
        "ImageTagMutability": "IMMUTABLE",
        "ImageScanningConfiguration": {"ScanOnPush": True},
    }
    assert (rule["selection"]["tagStatus"], rule["selection"]["countNumber"]) == ("untagged", 14)
    assert rule["rulePriority"] < newest["rulePriority"]
    assert newest["selection"] == {
        "tagStatus": "tagged",
        "tagPatternList": ["*"],
        "countType": "imageCountMoreThan",
        "countNumber": kept,
    }


def test_logs_expire():
    """Those of builds after a month; those of jobs, whose group the account shares, on demand."""
    assert Deployed()["BuildLog"]["Properties"] == {"RetentionInDays": 30}
    condition = TEMPLATE["Resources"]["JobLog"]["Condition"]
    assert not Deployed().holds(condition)
    stack = Deployed(LogRetentionDays="90")
    assert stack.holds(condition)
    assert stack["JobLog"]["Properties"] == {
        "LogGroupName": "/aws/sagemaker/TrainingJobs",
        "RetentionInDays": "90",
    }
    # Deleting the stack keeps the logs, which may be of other jobs.
    assert stack["JobLog"]["DeletionPolicy"] == "Retain"


def test_each_build_has_a_docker_daemon_a_log_and_a_time_limit():
    """Its source is in the stack's bucket; the buildspec names no registry and no account."""
    properties = Deployed()["BuildProject"]["Properties"]
    buildspec = yaml.safe_load(properties["Source"].pop("BuildSpec"))
    assert properties.pop("Description")
    assert properties == {
        "ServiceRole": "arn:aws:iam::111122223333:role/the-build-role",
        "Artifacts": {"Type": "NO_ARTIFACTS"},
        "Environment": {
            "Type": "LINUX_CONTAINER",
            "ComputeType": "BUILD_GENERAL1_MEDIUM",
            "Image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
            "PrivilegedMode": True,
        },
        "LogsConfig": {"CloudWatchLogs": {"Status": "ENABLED", "GroupName": "the-build-log"}},
        "QueuedTimeoutInMinutes": 30,
        "TimeoutInMinutes": MAX_MINUTES,
        "Source": {"Type": "S3", "Location": "the-bucket/builds/source.zip"},
    }
    # `post_build` would run, and push, even after a failed build.
    assert list(buildspec["phases"]) == ["pre_build", "build"]
    arguments = set(re.findall(r"--build-arg (\w+)", buildspec["phases"]["build"]["commands"][0]))
    dockerfile = (FOLDER.parent / "Dockerfile").read_text("utf-8")
    assert arguments == set(ARGUMENTS) == set(re.findall(r"(?m)^ARG (\w+)", dockerfile))


@pytest.mark.parametrize(
    ("name", "service"),
    [("Role", "sagemaker.amazonaws.com"), ("BuildRole", "codebuild.amazonaws.com")],
)
def test_only_one_service_may_assume_each_role_and_only_for_this_account(name, service):
    (statement,) = Deployed()[name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}},
    }


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_other_partitions_have_their_own_arns(partition):
    """No part of the template names the partition `aws`."""
    own = {"AWS::Partition": partition}
    own |= {
        name: value.replace("arn:aws:", f"arn:{partition}:")
        for name, value in Deployed().names.items()
        if isinstance(value, str) and value.startswith("arn:aws:")
    }
    given = {
        name: value.replace("arn:aws:", f"arn:{partition}:") for name, value in EVERYTHING.items()
    }
    stack = Deployed(own, **given)
    text = json.dumps([stack[name] for name in TEMPLATE["Resources"]] + [stack.outputs])
    assert "arn:aws:" not in text
    assert f"arn:{partition}:sagemaker:" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"MonthlyBudgetUsd": "100"}, False),
        ({"BudgetEmail": "who@pays.example"}, False),
        ({"MonthlyBudgetUsd": "100", "BudgetEmail": "who@pays.example"}, True),
    ],
)
def test_a_budget_needs_an_amount_and_an_address(given, expected):
    assert Deployed(**given).holds(TEMPLATE["Resources"]["Budget"]["Condition"]) is expected


def test_the_outputs_are_a_stable_interface():
    """A change of names or values needs a new `Version`."""
    always = {
        "Version": "1",
        "Region": "eu-west-1",
        "Bucket": "the-bucket",
        "RepositoryUri": "the-registry/the",
        "BuildProject": "the-project",
        "RoleArn": ROLE,
        "LauncherPolicyArn": "arn:aws:iam::111122223333:policy/the-policy",
    }
    assert Deployed().outputs == always
    given = ("KmsKeyArn", "HubTokenSecretArn", "LlmKeySecretArn", "BedrockModelArns")
    given += ("Subnets", "SecurityGroups")
    assert Deployed(**EVERYTHING).outputs == always | {name: EVERYTHING[name] for name in given}


def test_the_readme_names_all_services_that_a_deployment_creates_something_in():
    """Whoever deploys the stack needs rights in each of them."""
    names = {"Logs": "CloudWatch Logs"}
    services = {found["Type"].split("::")[1] for found in TEMPLATE["Resources"].values()}
    page = (FOLDER / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^Deploying and deleting the stack need more rights: .*$", page, re.M)
    assert [name for name in services if names.get(name, name) not in line] == []


def test_the_launcher_and_the_readme_name_all_parameters_and_outputs():
    assert set(TEMPLATE["Parameters"]) == set(PARAMETERS.values())
    page = (FOLDER / "README.md").read_text("utf-8")
    names = TEMPLATE["Parameters"] | TEMPLATE["Outputs"]
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("DataBucketArns", "s3://first"),
        ("HubTokenSecretArn", "hf_token"),
        ("LlmKeySecretArn", "sk-planted"),
        ("BedrockModelArns", "amazon.nova-lite-v1:0"),
        ("BedrockModelArns", "arn:aws:bedrock:us-east-1::foundation-model/*"),
        # A partial ARN, which policies do not match.
        ("HubTokenSecretArn", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hub"),
        ("AllowedInstanceTypes", "g5.2xlarge"),
        ("MaxRuntimeSeconds", "4h"),
        ("MaxKeepAliveSeconds", "-1"),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:111122223333:alias/mine"),
        ("Subnets", "vpc-1"),
        ("SecurityGroups", "default"),
    ],
)
def test_the_patterns_accept_valid_values_and_refuse_others(name, wrong):
    """The pattern of a CommaDelimitedList applies to each item."""
    pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
    assert all(re.fullmatch(pattern, right) for right in ["", *EVERYTHING[name].split(",")])
    assert not re.fullmatch(pattern, wrong)
