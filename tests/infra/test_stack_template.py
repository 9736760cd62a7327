"""The template's permissions and protections, evaluated here: moto ignores most of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cfnlint.decode.cfn_yaml import loads

from launcher.aws.stack import PARAMETERS, template_text

FOLDER = Path(__file__).parents[2] / "infra"
TEMPLATE = loads(template_text())
NOTHING = object()
BUCKET, REPOSITORY = "arn:aws:s3:::the-bucket", "arn:aws:ecr:eu-west-1:111122223333:repository/the"
ROLE = "arn:aws:iam::111122223333:role/the-role"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0f"
EVERYTHING = {
    "DataBucketArns": "arn:aws:s3:::first,arn:aws:s3:::second",
    "HubTokenSecretArn": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hub-AbCdEf",
    "KmsKeyArn": KEY,
    "Subnets": "subnet-1,subnet-2",
    "SecurityGroups": "sg-1",
    "MonthlyBudgetUsd": "100",
    "BudgetEmail": "who@pays.example",
}


class Deployed:
    """The evaluated template: `Deployed(KmsKeyArn=…)["Role"]` is a resource."""

    def __init__(self, **given):
        self.names = {
            "AWS::AccountId": "111122223333",
            "AWS::Region": "eu-west-1",
            "AWS::Partition": "aws",
            "AWS::StackName": "the-stack",
            "AWS::NoValue": NOTHING,
            "Bucket": "the-bucket",
            "LauncherPolicy": "arn:aws:iam::111122223333:policy/the-policy",
            "Bucket.Arn": BUCKET,
            "Repository.Arn": REPOSITORY,
            "Repository.RepositoryUri": "the-registry/the",
            "Role.Arn": ROLE,
        }
        for name, parameter in TEMPLATE["Parameters"].items():
            value = str(given.get(name, parameter["Default"]))
            is_list = parameter["Type"] == "CommaDelimitedList"
            self.names[name] = value.split(",") if is_list else value

    def __getitem__(self, name):
        return self.value(TEMPLATE["Resources"][name])

    def holds(self, condition):
        return self.value(TEMPLATE["Conditions"][condition])

    @property
    def outputs(self):
        return {
            name: self.value(output["Value"])
            for name, output in TEMPLATE["Outputs"].items()
            if "Condition" not in output or self.holds(output["Condition"])
        }

    def statements(self, name):
        found = self[name]["Properties"]
        if name == "Role":
            (found,) = found["Policies"]
        return found["PolicyDocument"]["Statement"]

    def value(self, node):
        if isinstance(node, list):
            return [found for each in node if (found := self.value(each)) is not NOTHING]
        if not isinstance(node, dict):
            return node
        name = next(iter(node), "")
        if len(node) == 1 and (name == "Ref" or name.startswith("Fn::")):
            return self.call(name.removeprefix("Fn::"), node[name])
        return {key: self.value(each) for key, each in node.items()}

    def call(self, function, given):  # noqa: PLR0911  one each of CloudFormation's functions
        match function:
            case "Ref":
                return self.names[given]
            case "GetAtt":
                return self.names[".".join(given)]
            case "Sub":
                text, own = given if isinstance(given, list) else (given, {})
                names = self.names | self.value(own)
                return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], text)
            case "Join":
                return given[0].join(self.value(given[1]))
            case "Split":
                return self.value(given[1]).split(given[0])
            case "If":
                return self.value(given[1] if self.holds(given[0]) else given[2])
            case "Equals":
                left, right = self.value(given)
                return str(left) == str(right)
            case "Not":
                return not self.value(given[0])
            case "And":
                return all(self.value(given))


def listed(value):
    return value if isinstance(value, list) else [value]


def in_words(statement):
    """Format a statement as one line: actions, resources, conditions."""
    assert statement["Effect"] == "Allow"
    actions, resources = listed(statement["Action"]), listed(statement["Resource"])
    words = f"{' '.join(actions)} on {' '.join(resources)}"
    account = "eu-west-1:111122223333"
    for long, short in ((BUCKET, "BUCKET"), (REPOSITORY, "REPOSITORY"), (account, "ACCOUNT")):
        words = words.replace(long, short)
    for operator, tests in statement.get("Condition", {}).items():
        assert operator in ("StringEquals", "Bool")
        for name, expected in tests.items():
            words += f" if {name} is {' or '.join(listed(expected))}"
    return words


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
    job = stack["Role"]["Properties"]["Policies"]
    assert len(json.dumps(people, separators=(",", ":"))) <= 6_144
    assert len(json.dumps(job, separators=(",", ":"))) <= 10_240


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


def test_tags_of_the_repository_are_immutable():
    """Only untagged images expire."""
    properties = Deployed()["Repository"]["Properties"]
    (rule,) = json.loads(properties.pop("LifecyclePolicy")["LifecyclePolicyText"])["rules"]
    assert properties == {
        "RepositoryName": "the-stack",
        "ImageTagMutability": "IMMUTABLE",
        "ImageScanningConfiguration": {"ScanOnPush": True},
    }
    assert (rule["selection"]["tagStatus"], rule["selection"]["countNumber"]) == ("untagged", 14)


def test_only_sagemaker_may_assume_the_role_and_only_for_this_account():
    (statement,) = Deployed()["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}},
    }


@pytest.mark.parametrize("name", ["Role", "LauncherPolicy"])
def test_the_permissions_are_exactly_those_in_the_file(name):
    """A `+` marks permissions that only some parameters grant.

    To regenerate the files: `RENEW=1 pytest tests/infra`; then review the diff.
    """
    always = [in_words(statement) for statement in Deployed().statements(name)]
    granted = [in_words(statement) for statement in Deployed(**EVERYTHING).statements(name)]
    text = "".join(f"{'' if line in always else '+ '}{line}\n" for line in granted)
    expected = Path(__file__).with_name(f"{name}.txt")
    if "RENEW" in os.environ:
        expected.write_text(text, "utf-8")
    assert text == expected.read_text("utf-8")
    assert set(always) <= set(granted)


def test_wildcards_are_used_only_for_actions_without_resources():
    """No action is a wildcard; only jobs read the secret; a comment explains each `*`."""
    stack = Deployed(**EVERYTHING)
    for policy in ("Role", "LauncherPolicy"):
        for statement in stack.statements(policy):
            assert not [action for action in listed(statement["Action"]) if "*" in action]
    assert "GetSecretValue" not in json.dumps(stack["LauncherPolicy"])
    lines = template_text().splitlines()
    wildcards = [number for number, line in enumerate(lines) if line.strip() == 'Resource: "*"']
    assert len(wildcards) == 6
    assert all(lines[number - 1].strip().startswith("#") for number in wildcards)


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
        "RoleArn": ROLE,
        "LauncherPolicyArn": "arn:aws:iam::111122223333:policy/the-policy",
    }
    assert Deployed().outputs == always
    given = ("KmsKeyArn", "HubTokenSecretArn", "Subnets", "SecurityGroups")
    assert Deployed(**EVERYTHING).outputs == always | {name: EVERYTHING[name] for name in given}


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
