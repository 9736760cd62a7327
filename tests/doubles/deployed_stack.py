"""The stack's template, evaluated here like CloudFormation: moto ignores most of it."""

import re
from types import MappingProxyType

from cfnlint.decode.cfn_yaml import loads

from launcher.aws.stack import template_text

TEMPLATE = loads(template_text())
NOTHING = object()
BUCKET, REPOSITORY = "arn:aws:s3:::the-bucket", "arn:aws:ecr:eu-west-1:111122223333:repository/the"
ROLE = "arn:aws:iam::111122223333:role/the-role"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0f"
PROJECT = "arn:aws:codebuild:eu-west-1:111122223333:project/the-project"
BUILD_LOG = "arn:aws:logs:eu-west-1:111122223333:log-group:the-build-log:*"
POLICIES = ("Role", "BuildRole", "LauncherPolicy")
LIMITS = {
    "AllowedInstanceTypes": "ml.g5.2xlarge,ml.p4d.24xlarge",
    "MaxRuntimeSeconds": "14400",
    "MaxKeepAliveSeconds": "600",
}
EVERYTHING = LIMITS | {
    "DataBucketArns": "arn:aws:s3:::first,arn:aws:s3:::second",
    "HubTokenSecretArn": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hub-AbCdEf",
    "LlmKeySecretArn": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:llm-AbCdEf",
    "BedrockModelArns": "arn:aws:bedrock:eu-west-1::foundation-model/amazon.nova-lite-v1:0,"
    "arn:aws:bedrock:eu-west-1:111122223333:inference-profile/eu.amazon.nova-pro-v1:0",
    "KmsKeyArn": KEY,
    "LogRetentionDays": "90",
    "Subnets": "subnet-1,subnet-2",
    "SecurityGroups": "sg-1",
    "MonthlyBudgetUsd": "100",
    "BudgetEmail": "who@pays.example",
}


class Deployed:
    """The evaluated template: `Deployed(KmsKeyArn=…)["Role"]` is a resource."""

    def __init__(self, names=MappingProxyType({}), **given):
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
            "BuildRole.Arn": "arn:aws:iam::111122223333:role/the-build-role",
            "BuildLog": "the-build-log",
            # CloudFormation's ARN of a log group ends in `:*`, which means its streams.
            "BuildLog.Arn": BUILD_LOG,
            "BuildProject": "the-project",
            "BuildProject.Arn": PROJECT,
        } | names
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
        if name in ("Role", "BuildRole"):
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
        values = {key: self.value(each) for key, each in node.items()}
        return {key: value for key, value in values.items() if value is not NOTHING}

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
