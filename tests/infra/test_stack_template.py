"""What the template grants and guards, worked out for given parameters: moto ignores most of it."""

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
    """The template worked out: `Deployed(KmsKeyArn=…)["Role"]` is a resource."""

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
    """Write a statement in a line: its actions, on which resources, under which conditions."""
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
    """Neither errors nor warnings nor hints, for all regions that have all of it."""
    lint = Path(sys.executable).with_name("cfn-lint")
    command = [lint, "--include-checks", "I", "--", "infra/stack.yaml"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_it_fits_where_it_has_to():
    """CloudFormation takes templates of 51,200 bytes, IAM managed policies of 6,144 characters."""
    assert len(template_text().encode()) <= 51_200
    stack = Deployed(**EVERYTHING)
    people = stack["LauncherPolicy"]["Properties"]["PolicyDocument"]
    job = stack["Role"]["Properties"]["Policies"]
    assert len(json.dumps(people, separators=(",", ":"))) <= 6_144
    assert len(json.dumps(job, separators=(",", ":"))) <= 10_240


def test_the_bucket_is_guarded_and_outlives_the_stack():
    """Encrypted, nothing public, no ACLs, only with TLS; what passes is cleaned away."""
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


def test_a_key_of_ones_own_encrypts_the_bucket():
    properties = Deployed(KmsKeyArn=KEY)["Bucket"]["Properties"]
    (encryption,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == {
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
        "BucketKeyEnabled": True,
    }


def test_a_tag_of_the_repository_stands_for_one_image():
    """Only what has no tag is cleaned away."""
    properties = Deployed()["Repository"]["Properties"]
    (rule,) = json.loads(properties.pop("LifecyclePolicy")["LifecyclePolicyText"])["rules"]
    assert properties == {
        "RepositoryName": "the-stack",
        "ImageTagMutability": "IMMUTABLE",
        "ImageScanningConfiguration": {"ScanOnPush": True},
    }
    assert (rule["selection"]["tagStatus"], rule["selection"]["countNumber"]) == ("untagged", 14)


def test_only_sagemaker_takes_the_role_and_only_for_this_account():
    (statement,) = Deployed()["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}},
    }


@pytest.mark.parametrize("name", ["Role", "LauncherPolicy"])
def test_what_a_job_and_people_may_do(name):
    """All of it, in words; what only some stacks grant is marked by a `+`.

    To renew the file: `RENEW=1 pytest tests/infra`, and look at what has changed.
    """
    always = [in_words(statement) for statement in Deployed().statements(name)]
    granted = [in_words(statement) for statement in Deployed(**EVERYTHING).statements(name)]
    said = "".join(f"{'' if line in always else '+ '}{line}\n" for line in granted)
    expected = Path(__file__).with_name(f"{name}.txt")
    if "RENEW" in os.environ:
        expected.write_text(said, "utf-8")
    assert said == expected.read_text("utf-8")
    assert set(always) <= set(granted)


def test_no_right_is_a_wildcard_but_where_aws_knows_no_resource():
    """No action is one, nobody reads a secret but the job, and each `*` says why it must be."""
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
def test_a_budget_needs_an_amount_and_somebody_to_tell(given, expected):
    assert Deployed(**given).holds(TEMPLATE["Resources"]["Budget"]["Condition"]) is expected


def test_the_outputs_are_an_api():
    """Names and values; a change here needs another version."""
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


def test_the_launcher_and_the_page_know_all_parameters_and_outputs():
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
def test_the_patterns_take_what_is_right_and_refuse_what_is_not(name, wrong):
    """A CommaDelimitedList's pattern is for each of its parts."""
    pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
    assert all(re.fullmatch(pattern, right) for right in ["", *EVERYTHING[name].split(",")])
    assert not re.fullmatch(pattern, wrong)
