"""`embedtune infra` against a CloudFormation on loopback: made, changed, refused, deleted."""

import json
from datetime import UTC, datetime

import boto3
import pytest
from click.testing import CliRunner
from moto_stacks import stack_server

from job.errors import BackendError
from launcher import cloudformation
from launcher.aws import open_session
from launcher.cli import main
from launcher.stack import Stack, read_stack, stack_parameters, template_text

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub-AbCdEf"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f"


@pytest.fixture
def account(monkeypatch):
    """An account with nothing in it; asks for clients by `account("s3")`."""
    monkeypatch.setattr(cloudformation, "POLL_SECONDS", 0.01)
    with stack_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        yield lambda service: boto3.client(service, region_name="eu-west-1")


def embedtune(*arguments, answer=None, code=0):
    """Run `embedtune infra …`; returns its stdout and what it said beside that, by lines."""
    done = CliRunner().invoke(main, ["infra", *arguments], input=answer)
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr.splitlines()


def deployed():
    return read_stack(open_session())


def events(lines):
    """The events among what was said, without their times."""
    words = [line.split() for line in lines]
    return [" ".join(each[1:3]) for each in words if each and each[0].count(":") == 2]


def test_a_stack_is_made_shown_and_found_again(account):
    """The outputs are on stdout, each event once and the next command beside them."""
    shown, said = embedtune("deploy", "--yes")
    stack = deployed()
    assert stack == Stack(
        name="embedtune",
        region="eu-west-1",
        bucket=account("s3").list_buckets()["Buckets"][0]["Name"],
        role_arn=account("iam").list_roles()["Roles"][0]["Arn"],
        repository_uri="123456789012.dkr.ecr.eu-west-1.amazonaws.com/embedtune",
        kms_key_arn=None,
        hub_token_secret_arn=None,
        subnets=(),
        security_groups=(),
        version="1",
        launcher_policy_arn=account("iam").list_policies(Scope="Local")["Policies"][0]["Arn"],
    )
    assert shown == (
        "stack            embedtune\n"
        "region           eu-west-1\n"
        f"bucket           {stack.bucket}\n"
        f"repository       {stack.repository_uri}\n"
        f"role             {stack.role_arn}\n"
        f"launcher policy  {stack.launcher_policy_arn}\n"
        "version          1\n"
    )
    assert events(said) == [
        "CREATE_IN_PROGRESS embedtune",
        *(
            f"CREATE_{state} {name}"
            for name in ("Bucket", "BucketPolicy", "Repository", "Role", "LauncherPolicy")
            for state in ("IN_PROGRESS", "COMPLETE")
        ),
        "CREATE_COMPLETE embedtune",
    ]
    assert said[-2:] == [
        f"Next: embedtune image push embedtune {stack.repository_uri}",
        "Then: embedtune launch --backend sagemaker --data …",
    ]
    assert embedtune("status") == (shown, [])


def test_nothing_is_made_before_somebody_agreed(account):
    """It says what it would make and what that costs."""
    shown, said = embedtune("deploy", answer="n\n", code=1)
    assert shown == ""
    assert "an encrypted bucket, a repository for images, the role" in said[0]
    assert "about $0.023 per GB and month" in said[2]
    assert account("cloudformation").describe_stacks()["Stacks"] == []


def test_deploying_again_changes_nothing_and_says_so(account):
    embedtune("deploy", "--yes", "--hub-token-secret", SECRET)
    before = deployed()
    _, said = embedtune("deploy", "--yes")
    assert "The stack `embedtune` is as wanted already; nothing was changed." in said
    assert events(said) == []
    assert deployed() == before
    # Nor does the change set stay, of which a stack may have 1,000.
    assert [
        each["Status"]
        for each in account("cloudformation").list_change_sets(StackName="embedtune")["Summaries"]
        if each["Status"] == "FAILED"
    ] == []


def test_an_update_keeps_what_it_does_not_name(account):
    """An empty text takes a value away; the bucket is the same all the time."""
    embedtune("deploy", "--yes", "--hub-token-secret", SECRET)
    first = deployed()
    places = ("--subnet", "subnet-1", "--subnet", "subnet-2", "--security-group", "sg-1")
    _, said = embedtune("deploy", "--yes", "--kms-key", KEY, "--data-bucket", "other", *places)
    second = deployed()
    assert second == Stack(
        **vars(first)
        | {
            "kms_key_arn": KEY,
            "subnets": ("subnet-1", "subnet-2"),
            "security_groups": ("sg-1",),
        }
    )
    assert events(said)[-1] == "UPDATE_COMPLETE embedtune"
    given = account("cloudformation").describe_stacks()["Stacks"][0]["Parameters"]
    assert {"ParameterKey": "DataBucketArns", "ParameterValue": "arn:aws:s3:::other"} in given
    embedtune("deploy", "--yes", "--hub-token-secret", "", "--subnet", "", "--security-group", "")
    assert deployed() == Stack(**vars(first) | {"kms_key_arn": KEY, "hub_token_secret_arn": None})


def test_a_creation_that_fails_names_the_first_reason_and_leaves_nothing(account):
    """Not even the bucket, which the template retains; the next deployment starts anew."""
    account("ecr").create_repository(repositoryName="embedtune")
    _, said = embedtune("deploy", "--yes", code=13)
    assert said[-1] == (
        "Error: The stack `embedtune` failed, and what had been done was taken back: Repository "
        "(AWS::ECR::Repository): The repository with name 'embedtune' already exists in the "
        "registry with id '123456789012'. Mend that, then `embedtune infra deploy` again."
    )
    assert account("s3").list_buckets()["Buckets"] == []
    _, said = embedtune("status", code=13)
    assert said == [
        (
            "Error: The stack `embedtune` is in the state ROLLBACK_COMPLETE: Repository "
            "(AWS::ECR::Repository): The repository with name 'embedtune' already exists in the "
            "registry with id '123456789012'. `embedtune infra deploy` removes what is left and "
            "makes it anew."
        )
    ]
    account("ecr").delete_repository(repositoryName="embedtune")
    _, said = embedtune("deploy", "--yes")
    assert "An earlier creation of `embedtune` failed; what is left of it is removed first." in said
    assert deployed().name == "embedtune"


def test_a_failed_creation_can_be_deleted_too(account):
    account("ecr").create_repository(repositoryName="embedtune")
    embedtune("deploy", "--yes", code=13)
    embedtune("delete", "--yes")
    assert deployed() is None
    # That of somebody else.
    assert len(account("ecr").describe_repositories()["repositories"]) == 1


@pytest.mark.parametrize("thing", ["object", "image"])
def test_what_holds_data_is_not_deleted_unless_told(account, thing):
    """All of it is still there after the refusal; with the data goes the bucket as well."""
    embedtune("deploy", "--yes")
    bucket = deployed().bucket
    if thing == "object":
        account("s3").put_object(Bucket=bucket, Key="runs/first/manifest.json", Body=b"{}")
    else:
        put_image(account)
    _, said = embedtune("delete", "--yes", code=13)
    counts = "1 object" if thing == "object" else "no objects"
    images = "no images" if thing == "object" else "1 image"
    assert said == [
        (
            f"Error: The bucket `{bucket}` holds {counts}, the repository `embedtune` {images}; "
            f"nothing was deleted. Keep what you need (`aws s3 sync s3://{bucket} …`), then "
            "`embedtune infra delete --with-data`."
        )
    ]
    assert deployed().bucket == bucket
    embedtune("delete", "--with-data", "--yes")
    assert nothing_is_left(account)


def test_all_versions_go_with_the_data(account):
    """Somebody may have turned versioning on; a deleted object is then still there."""
    embedtune("deploy", "--yes")
    s3, bucket = account("s3"), deployed().bucket
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(2):
        s3.put_object(Bucket=bucket, Key="runs/x", Body=b"1")
    s3.delete_object(Bucket=bucket, Key="runs/x")
    _, said = embedtune("delete", "--yes", code=13)
    assert f"The bucket `{bucket}` holds 3 objects, the" in said[-1]
    _, said = embedtune("delete", "--with-data", "--yes")
    assert said[0] == f"Deleted 3 objects of the bucket `{bucket}`."
    assert said[-1] == f"Deleted the bucket `{bucket}`."
    assert nothing_is_left(account)


def test_an_empty_stack_goes_with_its_retained_bucket_once_somebody_agreed(account):
    embedtune("deploy", "--yes")
    _, said = embedtune("delete", answer="n\n", code=1)
    assert said[0].startswith("Delete the stack `embedtune` in eu-west-1, if it holds no data?")
    assert deployed()
    _, said = embedtune("delete", answer="y\n")
    assert events(said)[-1] == "DELETE_COMPLETE embedtune"
    assert nothing_is_left(account)
    assert embedtune("delete", "--yes") == (
        "",
        ["There is no stack `embedtune` in eu-west-1; nothing was deleted."],
    )


def test_a_stack_whose_bucket_and_repository_somebody_deleted_can_be_deleted(account):
    embedtune("deploy", "--yes")
    account("s3").delete_bucket(Bucket=deployed().bucket)
    embedtune("delete", "--yes")
    assert nothing_is_left(account)


def put_image(account):
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 1, "digest": "sha256:0"}
    config = layer | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    }
    for tag in ("one", "two"):
        account("ecr").put_image(
            repositoryName="embedtune", imageManifest=json.dumps(manifest), imageTag=tag
        )


def nothing_is_left(account):
    return not (
        account("cloudformation").describe_stacks()["Stacks"]
        or account("s3").list_buckets()["Buckets"]
        or account("ecr").describe_repositories()["repositories"]
        or account("iam").list_roles()["Roles"]
    )


class Cloud:
    """CloudFormation as slow as it is: each look at the events finds what has come meanwhile."""

    STACK = "arn:aws:cloudformation:eu-west-1:123456789012:stack/embedtune/1"

    def __init__(self, *looks, status="CREATE_COMPLETE", change_sets=()):
        self.looks = [list(look) for look in looks]
        self.come = []
        self.status = status
        self.change_sets = [*change_sets, {"Status": "CREATE_COMPLETE"}]
        self.calls = []

    def create_change_set(self, **given):
        self.calls.append(("create_change_set", given["ChangeSetType"]))
        return {"Id": "the-change", "StackId": self.STACK}

    def describe_change_set(self, **given):
        assert given == {"ChangeSetName": "the-change"}
        return self.change_sets.pop(0)

    def execute_change_set(self, **given):
        self.calls.append(("execute_change_set", given))

    def delete_change_set(self, **given):
        self.calls.append(("delete_change_set", given))

    def delete_stack(self, **given):
        self.calls.append(("delete_stack", given))

    def get_paginator(self, name):
        assert name == "describe_stack_events"
        return self

    def paginate(self, **given):
        assert given == {"StackName": self.STACK}
        self.come = [*reversed([self.event(*each) for each in self.looks.pop(0)]), *self.come]
        # Pages of two, the latest first.
        starts = range(0, len(self.come), 2)
        return [{"StackEvents": self.come[start : start + 2]} for start in starts]

    def event(self, number, name, status, reason=""):
        return {
            "EventId": number,
            "LogicalResourceId": name,
            "PhysicalResourceId": self.STACK if name == "embedtune" else f"a-{name}",
            "ResourceType": "AWS::Some::Type",
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "Timestamp": datetime(2026, 1, 1, 12, 0, number, tzinfo=UTC),
        }

    def deploy(self, *, is_new):
        said = []
        changed = cloudformation.deploy(self, "embedtune", "", {}, said.append, is_new=is_new)
        return changed, said


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(cloudformation, "POLL_SECONDS", 0.0)


def test_each_event_is_told_once_as_it_comes_until_the_operation_has_ended(quickly):
    """What had happened before is not told, and an earlier end does not count as this one."""
    cloud = Cloud(
        [(1, "embedtune", "CREATE_IN_PROGRESS"), (2, "embedtune", "CREATE_COMPLETE")],
        [],
        [(3, "embedtune", "UPDATE_IN_PROGRESS", "User Initiated")],
        [(4, "Role", "UPDATE_IN_PROGRESS"), (5, "Role", "UPDATE_COMPLETE")],
        [(6, "embedtune", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")],
        [(7, "embedtune", "UPDATE_COMPLETE")],
        change_sets=[{"Status": "CREATE_PENDING"}, {"Status": "CREATE_IN_PROGRESS"}],
    )
    assert cloud.deploy(is_new=False) == (
        True,
        [
            "12:00:03  UPDATE_IN_PROGRESS  embedtune (AWS::Some::Type)  User Initiated",
            "12:00:04  UPDATE_IN_PROGRESS  Role (AWS::Some::Type)",
            "12:00:05  UPDATE_COMPLETE     Role (AWS::Some::Type)",
            "12:00:06  UPDATE_COMPLETE_CLEANUP_IN_PROGRESS  embedtune (AWS::Some::Type)",
            "12:00:07  UPDATE_COMPLETE     embedtune (AWS::Some::Type)",
        ],
    )
    assert cloud.calls == [
        ("create_change_set", "UPDATE"),
        (
            "execute_change_set",
            {"ChangeSetName": "the-change", "RetainExceptOnCreate": True},
        ),
    ]


def test_a_failure_is_that_of_the_first_resource_not_of_those_cancelled_for_it(quickly):
    cloud = Cloud(
        [],
        [(1, "embedtune", "UPDATE_IN_PROGRESS"), (2, "Role", "UPDATE_IN_PROGRESS")],
        [
            (3, "Bucket", "UPDATE_FAILED", "Resource update cancelled"),
            (4, "Role", "UPDATE_FAILED", "No such\n key."),
            (5, "LauncherPolicy", "UPDATE_FAILED", "Another."),
        ],
        [(6, "embedtune", "UPDATE_ROLLBACK_IN_PROGRESS")],
        [(7, "embedtune", "UPDATE_ROLLBACK_COMPLETE")],
    )
    with pytest.raises(BackendError) as told:
        cloud.deploy(is_new=False)
    assert str(told.value) == (
        "The stack `embedtune` failed, and what had been done was taken back: Role "
        "(AWS::Some::Type): No such key. Mend that, then `embedtune infra deploy` again."
    )


@pytest.mark.parametrize(
    ("is_new", "left"),
    [(True, [("delete_stack", {"StackName": Cloud.STACK})]), (False, [])],
)
def test_a_change_set_that_cannot_be_made_leaves_nothing(quickly, is_new, left):
    """Of a new stack its name would stay behind."""
    failed = {"Status": "FAILED", "StatusReason": "Template error: no\nsuch thing."}
    cloud = Cloud(change_sets=[failed])
    with pytest.raises(BackendError) as told:
        cloud.deploy(is_new=is_new)
    assert str(told.value) == (
        "The stack `embedtune` cannot be deployed: Template error: no such thing."
    )
    assert cloud.calls[1:] == [("delete_change_set", {"ChangeSetName": "the-change"}), *left]


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information.",
        "No updates are to be performed.",
    ],
)
def test_that_nothing_changes_is_no_failure(quickly, reason):
    cloud = Cloud(change_sets=[{"Status": "FAILED", "StatusReason": reason}])
    assert cloud.deploy(is_new=False) == (False, [])
    assert cloud.calls[1:] == [("delete_change_set", {"ChangeSetName": "the-change"})]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            "UPDATE_IN_PROGRESS",
            (
                "The stack `embedtune` is being changed (UPDATE_IN_PROGRESS); try again once "
                "`embedtune infra status` shows that it has ended."
            ),
        ),
        (
            "DELETE_FAILED",
            (
                "The stack `embedtune` is in the state DELETE_FAILED: Role (AWS::Some::Type): "
                "It is in use. Mend that, then `embedtune infra delete`."
            ),
        ),
        (
            "UPDATE_ROLLBACK_FAILED",
            (
                "The stack `embedtune` is in the state UPDATE_ROLLBACK_FAILED: Role "
                "(AWS::Some::Type): It is in use. Mend that, then `aws cloudformation "
                "continue-update-rollback --stack-name embedtune` and `embedtune infra deploy`."
            ),
        ),
    ],
)
def test_a_half_made_stack_is_told_with_the_reason_of_its_last_operation(status, line):
    cloud = Cloud(
        [
            (1, "embedtune", "UPDATE_IN_PROGRESS"),
            (2, "Bucket", "UPDATE_FAILED", "Of an earlier operation."),
            (3, "embedtune", "UPDATE_ROLLBACK_COMPLETE"),
            (4, "embedtune", "DELETE_IN_PROGRESS"),
            (5, "Role", "DELETE_FAILED", "It is in use."),
            (6, "embedtune", status),
        ]
    )
    found = {"StackName": "embedtune", "StackId": Cloud.STACK, "StackStatus": status}
    with pytest.raises(BackendError) as told:
        cloudformation.require_usable(cloud, found)
    assert str(told.value) == line


@pytest.mark.parametrize(
    "status", ["CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"]
)
def test_a_stack_whose_update_was_taken_back_is_as_good_as_any(status):
    cloudformation.require_usable(None, {"StackName": "embedtune", "StackStatus": status})


def test_without_a_stack_status_says_what_makes_one(account):
    assert embedtune("status", "--stack", "other", code=13) == (
        "",
        ["Error: There is no stack `other` in eu-west-1: `embedtune infra deploy`."],
    )


def test_a_foreign_stack_of_that_name_is_told_apart(account):
    template = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}}
    account("cloudformation").create_stack(StackName="mine", TemplateBody=json.dumps(template))
    _, said = embedtune("status", "--stack", "mine", code=13)
    assert said == [
        (
            "Error: The stack `mine` in eu-west-1 is not embedtune's: it has no output 'Region'. "
            "Name another by `--stack`."
        )
    ]


def test_a_dry_run_prints_all_of_it_and_asks_nobody(monkeypatch):
    """One JSON document; no credentials, no call."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    places = ("--subnet", "subnet-1", "--security-group", "sg-1", "--security-group", "sg-2")
    budget = ("--budget", "1500000", "--budget-email", "who@pays.example")
    shown, said = embedtune(
        *("deploy", "--dry-run", "--region", "cn-north-1", "--stack", "mine"),
        *("--data-bucket", "one", "--data-bucket", "two", *places, *budget),
    )
    assert said == []
    assert json.loads(shown) == {
        "stack": "mine",
        "region": "cn-north-1",
        "parameters": {
            # The partition is that of the region.
            "DataBucketArns": "arn:aws-cn:s3:::one,arn:aws-cn:s3:::two",
            "Subnets": "subnet-1",
            "SecurityGroups": "sg-1,sg-2",
            "MonthlyBudgetUsd": "1500000",
            "BudgetEmail": "who@pays.example",
        },
        "template": template_text(),
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--subnet", "subnet-1"), "`--subnet` and `--security-group` go together"),
        (("--security-group", "sg-1"), "`--subnet` and `--security-group` go together"),
        (("--budget", "5"), "`--budget` needs somebody to tell: `--budget-email`."),
    ],
)
def test_options_that_mean_nothing_alone_are_refused(options, line):
    _, said = embedtune("deploy", "--dry-run", "--region", "eu-west-1", *options, code=2)
    assert line in said[-1]


def test_an_installed_launcher_has_its_template_beside_it(tmp_path, monkeypatch):
    """There is no checkout then."""
    (tmp_path / "stack.yaml").write_text("installed")
    assert template_text().startswith("AWSTemplateFormatVersion")
    monkeypatch.setattr("launcher.stack.__file__", str(tmp_path / "stack.py"))
    assert template_text() == "installed"


def test_what_is_not_given_is_not_named():
    assert stack_parameters(open_session(region="eu-west-1")) == {}


def test_where_things_lie_in_the_bucket():
    """As the template's lifecycle knows them."""
    stack = Stack("x", "eu-west-1", "b", "role", "repository")
    assert (stack.output, stack.checkpoints, stack.inputs) == (
        "s3://b/runs",
        "s3://b/checkpoints",
        "s3://b/inputs",
    )
