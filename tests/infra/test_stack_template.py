"""What the template grants and guards, worked out for given parameters: moto ignores most of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launcher.stack import PARAMETERS, template_text

FOLDER = Path(__file__).parents[2] / "infra"
BUCKET, REPOSITORY = "arn:aws:s3:::the-bucket", "arn:aws:ecr:eu-west-1:111122223333:repository/the"
ROLE = "arn:aws:iam::111122223333:role/the-role"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0f"
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hub-AbCdEf"
EVERYTHING = {
    "DataBucketArns": "arn:aws:s3:::first,arn:aws:s3:::second",
    "HubTokenSecretArn": SECRET,
    "KmsKeyArn": KEY,
    "Subnets": "subnet-1,subnet-2",
    "SecurityGroups": "sg-1",
    "MonthlyBudgetUsd": "100",
    "BudgetEmail": "who@pays.example",
}
JOBS_LOG = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/sagemaker/TrainingJobs"


class Short(yaml.SafeLoader):
    """Reads `!Sub …` as `{"Fn::Sub": …}`."""


def _function(loader, name, node):
    kinds = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
    construct = kinds.get(type(node), loader.construct_mapping)
    value = construct(node) if type(node) is yaml.ScalarNode else construct(node, deep=True)
    if name == "GetAtt":
        value = value.split(".")
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


Short.add_multi_constructor("!", _function)
TEMPLATE = yaml.load(template_text(), Loader=Short)
NOTHING = object()


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
        """All statements of a policy, by their Sid."""
        found = self[name]["Properties"]
        if name == "Role":
            (found,) = found["Policies"]
        return {each.pop("Sid"): each for each in found["PolicyDocument"]["Statement"]}

    def value(self, node):
        if isinstance(node, list):
            return [found for each in node if (found := self.value(each)) is not NOTHING]
        if not isinstance(node, dict):
            return node
        name = next(iter(node), "")
        if len(node) == 1 and (name == "Ref" or name.startswith("Fn::")):
            return getattr(self, name.removeprefix("Fn::").lower())(node[name])
        return {key: self.value(each) for key, each in node.items()}

    def ref(self, name):
        return self.names[name]

    def getatt(self, path):
        return self.names[".".join(path)]

    def sub(self, given):
        text, own = given if isinstance(given, list) else (given, {})
        names = self.names | self.value(own)
        return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], text)

    def join(self, given):
        return given[0].join(self.value(given[1]))

    def split(self, given):
        return self.value(given[1]).split(given[0])

    def equals(self, given):
        left, right = self.value(given)
        return str(left) == str(right)

    def __getattr__(self, name):
        functions = {
            "if": lambda given: self.value(given[1] if self.holds(given[0]) else given[2]),
            "not": lambda given: not self.value(given[0]),
            "and": lambda given: all(self.value(each) for each in given),
        }
        return functions[name]


def listed(value):
    return value if isinstance(value, list) else [value]


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
    """Encrypted, nothing public, no ACLs; only what passes is cleaned away."""
    assert Deployed()["Bucket"] == {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "Id": "checkpoints",
                        "Status": "Enabled",
                        "Prefix": "checkpoints/",
                        "ExpirationInDays": 30,
                    },
                    {
                        "Id": "inputs",
                        "Status": "Enabled",
                        "Prefix": "inputs/",
                        "ExpirationInDays": 30,
                    },
                    {
                        "Id": "aborted-uploads",
                        "Status": "Enabled",
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                    },
                ]
            },
        },
    }


def test_a_key_of_ones_own_encrypts_the_bucket():
    properties = Deployed(KmsKeyArn=KEY)["Bucket"]["Properties"]
    assert properties["BucketEncryption"]["ServerSideEncryptionConfiguration"] == [
        {
            "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
            "BucketKeyEnabled": True,
        }
    ]


def test_nobody_reaches_the_bucket_without_tls():
    """The policy stays as long as the bucket does."""
    assert Deployed()["BucketPolicy"] == {
        "Type": "AWS::S3::BucketPolicy",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Bucket": "the-bucket",
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "TlsOnly",
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": [BUCKET, f"{BUCKET}/*"],
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    }
                ],
            },
        },
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
    assert rule["selection"] == {
        "tagStatus": "untagged",
        "countType": "sinceImagePushed",
        "countUnit": "days",
        "countNumber": 14,
    }


def test_only_sagemaker_takes_the_role_and_only_for_this_account():
    assert Deployed()["Role"]["Properties"]["AssumeRolePolicyDocument"] == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}},
            }
        ],
    }


def test_what_a_job_may_do():
    """Of an ordinary stack, the whole of it."""
    assert Deployed().statements("Role") == {
        "OwnBucket": {
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation", "s3:ListBucket"],
            "Resource": BUCKET,
        },
        "OwnObjects": {
            "Effect": "Allow",
            "Action": [
                "s3:AbortMultipartUpload",
                "s3:DeleteObject",
                "s3:GetObject",
                "s3:ListMultipartUploadParts",
                "s3:PutObject",
            ],
            "Resource": f"{BUCKET}/*",
        },
        "Image": {
            "Effect": "Allow",
            "Action": [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            "Resource": REPOSITORY,
        },
        "ImageLogin": {
            "Effect": "Allow",
            "Action": "ecr:GetAuthorizationToken",
            "Resource": "*",
        },
        "Log": {
            "Effect": "Allow",
            "Action": [
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
            ],
            "Resource": [JOBS_LOG, f"{JOBS_LOG}:*"],
        },
        "Metrics": {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringEquals": {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}},
        },
    }


def test_what_a_job_may_do_besides_where_it_was_asked_for():
    """Data is read and never written; the network is that of the given subnets and groups."""
    everything = Deployed(**EVERYTHING).statements("Role")
    besides = {sid: everything[sid] for sid in everything.keys() - Deployed().statements("Role")}
    ec2 = "arn:aws:ec2:eu-west-1"
    assert besides == {
        "DataBuckets": {
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation", "s3:ListBucket"],
            "Resource": ["arn:aws:s3:::first", "arn:aws:s3:::second"],
        },
        "DataObjects": {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": ["arn:aws:s3:::first/*", "arn:aws:s3:::second/*"],
        },
        "HubToken": {
            "Effect": "Allow",
            "Action": "secretsmanager:GetSecretValue",
            "Resource": SECRET,
        },
        "Key": {
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"],
            "Resource": KEY,
        },
        "KeyOfVolumes": {
            "Effect": "Allow",
            "Action": "kms:CreateGrant",
            "Resource": KEY,
            "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
        },
        "NetworkInterfaces": {
            "Effect": "Allow",
            "Action": [
                "ec2:CreateNetworkInterface",
                "ec2:CreateNetworkInterfacePermission",
                "ec2:DeleteNetworkInterface",
                "ec2:DeleteNetworkInterfacePermission",
            ],
            "Resource": f"{ec2}:111122223333:network-interface/*",
        },
        "GivenSubnets": {
            "Effect": "Allow",
            "Action": "ec2:CreateNetworkInterface",
            "Resource": f"{ec2}:*:subnet/*",
            "Condition": {"StringEquals": {"ec2:SubnetID": ["subnet-1", "subnet-2"]}},
        },
        "GivenSecurityGroups": {
            "Effect": "Allow",
            "Action": "ec2:CreateNetworkInterface",
            "Resource": f"{ec2}:*:security-group/*",
            "Condition": {"StringEquals": {"ec2:SecurityGroupID": ["sg-1"]}},
        },
        "NetworkDescriptions": {
            "Effect": "Allow",
            "Action": [
                "ec2:DescribeDhcpOptions",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
            ],
            "Resource": "*",
        },
    }


def test_people_pass_this_role_alone_and_to_sagemaker_alone():
    statements = Deployed(**EVERYTHING).statements("LauncherPolicy")
    about_iam = {
        sid: each
        for sid, each in statements.items()
        if any(action.startswith(("iam:", "sts:")) for action in listed(each["Action"]))
    }
    assert about_iam == {
        "OnlyThisRole": {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": ROLE,
            "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        },
        "LookAtTheRole": {"Effect": "Allow", "Action": "iam:GetRole", "Resource": ROLE},
    }


def test_people_reach_this_accounts_jobs_this_bucket_this_repository_and_no_secret():
    """Each service, and the resources that people may reach there."""
    reached = {}
    for statement in Deployed(**EVERYTHING).statements("LauncherPolicy").values():
        for action in listed(statement["Action"]):
            resources = reached.setdefault(action.split(":")[0], set())
            resources |= set(listed(statement["Resource"])) - {"*"}
    account = "eu-west-1:111122223333"
    assert reached == {
        "sagemaker": {f"arn:aws:sagemaker:{account}:training-job/*"},
        "iam": {ROLE},
        "logs": {JOBS_LOG, f"{JOBS_LOG}:*"},
        "s3": {
            BUCKET,
            f"{BUCKET}/*",
            *("arn:aws:s3:::first", "arn:aws:s3:::second"),
            *("arn:aws:s3:::first/*", "arn:aws:s3:::second/*"),
        },
        "ecr": {REPOSITORY},
        "cloudformation": {f"arn:aws:cloudformation:{account}:stack/the-stack/*"},
        "pricing": set(),
        "servicequotas": set(),
        "secretsmanager": {SECRET},
        "kms": {KEY},
    }
    actions = json.dumps(Deployed(**EVERYTHING)["LauncherPolicy"])
    assert "GetSecretValue" not in actions


def test_no_right_is_a_wildcard_but_where_aws_knows_no_resource():
    """No action is one; the resources that are stand here, and each says why in the template."""
    stack = Deployed(**EVERYTHING)
    unlimited = set()
    for policy in ("Role", "LauncherPolicy"):
        for statement in stack.statements(policy).values():
            assert statement["Effect"] == "Allow"
            assert not [action for action in listed(statement["Action"]) if "*" in action]
            if "*" in listed(statement["Resource"]):
                unlimited |= {(policy, action) for action in listed(statement["Action"])}
    assert unlimited == {
        ("Role", "ecr:GetAuthorizationToken"),
        ("Role", "cloudwatch:PutMetricData"),
        ("Role", "ec2:DescribeDhcpOptions"),
        ("Role", "ec2:DescribeNetworkInterfaces"),
        ("Role", "ec2:DescribeSecurityGroups"),
        ("Role", "ec2:DescribeSubnets"),
        ("Role", "ec2:DescribeVpcs"),
        ("LauncherPolicy", "ecr:GetAuthorizationToken"),
        ("LauncherPolicy", "sagemaker:ListTrainingJobs"),
        ("LauncherPolicy", "pricing:GetProducts"),
        ("LauncherPolicy", "servicequotas:GetServiceQuota"),
        ("LauncherPolicy", "servicequotas:ListAWSDefaultServiceQuotas"),
        ("LauncherPolicy", "servicequotas:ListServiceQuotas"),
    }
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
    assert Deployed(**EVERYTHING).outputs == always | {
        "KmsKeyArn": KEY,
        "HubTokenSecretArn": SECRET,
        "Subnets": "subnet-1,subnet-2",
        "SecurityGroups": "sg-1",
    }


def test_the_launcher_and_the_page_know_all_parameters_and_outputs():
    assert set(TEMPLATE["Parameters"]) == PARAMETERS
    page = (FOLDER / "README.md").read_text("utf-8")
    names = PARAMETERS | set(TEMPLATE["Outputs"])
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_the_patterns_take_what_is_right_and_refuse_what_is_not():
    """A CommaDelimitedList's pattern is for each of its parts."""
    wrong = {
        "DataBucketArns": "s3://first",
        "HubTokenSecretArn": "hf_token",
        "KmsKeyArn": "arn:aws:kms:eu-west-1:111122223333:alias/mine",
        "Subnets": "vpc-1",
        "SecurityGroups": "default",
    }
    for name, bad in wrong.items():
        pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
        for good in ["", *EVERYTHING[name].split(",")]:
            assert re.fullmatch(pattern, good)
        assert not re.fullmatch(pattern, bad)
