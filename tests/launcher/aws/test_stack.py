"""`embedtune infra` against a local CloudFormation: deploy, update, refuse, delete."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import CliRunner
from moto.moto_api._internal import moto_api_backend
from moto_stacks import stack_server

from job.core.errors import BackendError
from launcher.aws import cloudformation, stack
from launcher.aws.sessions import open_session, translate_errors
from launcher.aws.stack import Stack, read_stack, stack_parameters, template_text
from launcher.cli import main

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub-AbCdEf"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f"


@pytest.fixture(scope="module")
def server():
    with stack_server() as environment:
        yield environment


@pytest.fixture
def account(server, monkeypatch):
    """An empty account; `account("s3")` returns a client."""
    moto_api_backend.reset()
    monkeypatch.setitem(cloudformation.POLLS, "Delay", 0.01)
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return lambda service: boto3.client(service, region_name="eu-west-1")


def embedtune(*arguments, answer=None, code=0):
    """Run `embedtune infra …`; return its stdout and the lines of its stderr."""
    done = CliRunner().invoke(main, ["infra", *arguments], input=answer)
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr.splitlines()


def role(account, part):
    """Return the ARN of the role whose name contains `part`."""
    roles = account("iam").list_roles()["Roles"]
    return next(each["Arn"] for each in roles if part in each["RoleName"])


def deployed():
    return read_stack(open_session())


def test_a_deployed_stack_is_shown_and_found_again(account):
    """The outputs are on stdout, the next commands on stderr."""
    stdout, lines = embedtune("deploy", "--yes")
    stack = deployed()
    assert stack == Stack(
        region="eu-west-1",
        bucket=account("s3").list_buckets()["Buckets"][0]["Name"],
        role_arn=role(account, "-Role-"),
        image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/embedtune",
        launcher_policy_arn=account("iam").list_policies(Scope="Local")["Policies"][0]["Arn"],
        build_project=account("codebuild").list_projects()["projects"][0],
    )
    assert stdout == (
        "stack            embedtune\n"
        "region           eu-west-1\n"
        f"bucket           {stack.bucket}\n"
        f"repository       {stack.image}\n"
        f"role             {stack.role_arn}\n"
        f"build project    {stack.build_project}\n"
        f"launcher policy  {stack.launcher_policy_arn}\n"
        "version          1\n"
    )
    assert lines[-2:] == [
        "Next: embedtune image build --on aws --region eu-west-1",
        "Then: embedtune launch --backend sagemaker --data …",
    ]
    assert embedtune("status") == (stdout, [])


def test_nothing_is_created_before_the_user_confirms(account):
    """The question says what would be created and what it costs."""
    stdout, lines = embedtune("deploy", answer="n\n", code=1)
    assert stdout == ""
    assert "an encrypted bucket, an image repository, a project" in lines[0]
    assert "about $0.023 per GB and month" in lines[2]
    assert account("cloudformation").describe_stacks()["Stacks"] == []


def test_an_update_keeps_the_values_of_omitted_parameters(account):
    """An empty string clears a value; deploying again changes nothing, and says so."""
    account("secretsmanager").create_secret(Name="hub", SecretString="hf_x")
    embedtune("deploy", "--yes", "--hub-token-secret", "hub")
    first = deployed()
    _, lines = embedtune("deploy", "--yes")
    assert "The stack `embedtune` is up to date; nothing was changed." in lines
    assert deployed() == first
    # The change set is deleted; a stack may have at most 1,000.
    changes = account("cloudformation").list_change_sets(StackName="embedtune")["Summaries"]
    assert "FAILED" not in [each["Status"] for each in changes]

    places = ("--subnet", "subnet-1", "--subnet", "subnet-2", "--security-group", "sg-1")
    embedtune("deploy", "--yes", "--kms-key", KEY, "--data-bucket", "other", *places)
    network = {"subnets": ("subnet-1", "subnet-2"), "security_groups": ("sg-1",)}
    assert deployed() == replace(first, kms_key_arn=KEY, **network)
    given = account("cloudformation").describe_stacks()["Stacks"][0]["Parameters"]
    assert {"ParameterKey": "DataBucketArns", "ParameterValue": "arn:aws:s3:::other"} in given
    embedtune("deploy", "--yes", "--hub-token-secret", "", "--subnet", "", "--security-group", "")
    assert deployed() == replace(first, kms_key_arn=KEY, hub_token_secret_arn=None)


@pytest.mark.parametrize("given", ["hub", SECRET.removesuffix("-AbCdEf"), SECRET])
def test_a_secret_is_known_by_its_whole_arn(account, given):
    """AWS Secrets Manager User Guide, "What's in a secret": an ARN ends with six random characters,
    and a policy with a partial ARN matches nothing.
    """
    account("secretsmanager").create_secret(Name="hub", SecretString="hf_x")
    whole = account("secretsmanager").describe_secret(SecretId="hub")["ARN"]
    options = {"data_buckets": (), "hub_token_secret": whole if given == SECRET else given}
    found = stack_parameters(open_session(), options)
    assert found == {"HubTokenSecretArn": whole}


def test_a_secret_that_does_not_exist_is_refused(account):
    _, lines = embedtune("deploy", "--yes", "--hub-token-secret", SECRET, code=13)
    assert lines[-1].startswith(f"Error: Finding the secret `{SECRET}` failed")


@pytest.mark.parametrize(("secret", "is_whole"), [(SECRET, True), ("hub", False)])
def test_without_permission_only_a_whole_arn_is_taken(account, monkeypatch, secret, is_whole):
    monkeypatch.setattr(stack, "client", lambda *_: denied())
    options = {"data_buckets": (), "hub_token_secret": secret}
    if is_whole:
        assert stack_parameters(open_session(), options) == {"HubTokenSecretArn": secret}
        return
    with pytest.raises(BackendError, match="lack the permission"):
        stack_parameters(open_session(), options)


def denied():
    manager = boto3.client("secretsmanager", region_name="eu-west-1")
    stubber = Stubber(manager)
    stubber.add_client_error("describe_secret", "AccessDeniedException")
    stubber.activate()
    return manager


def test_a_failed_creation_names_the_first_reason_and_leaves_nothing(account):
    """The retained bucket is deleted as well; the stack can be deleted or created again."""
    account("ecr").create_repository(repositoryName="embedtune")
    reason = "Repository (AWS::ECR::Repository): The repository with name 'embedtune' already"
    _, lines = embedtune("deploy", "--yes", code=13)
    assert reason in lines[-1]
    assert account("s3").list_buckets()["Buckets"] == []
    _, lines = embedtune("status", code=13)
    assert all(part in lines[0] for part in ("in the state ROLLBACK_COMPLETE", reason))
    embedtune("delete", "--yes")
    assert deployed() is None
    # The repository that is not the stack's.
    assert len(account("ecr").describe_repositories()["repositories"]) == 1
    embedtune("deploy", "--yes", code=13)
    account("ecr").delete_repository(repositoryName="embedtune")
    _, lines = embedtune("deploy", "--yes")
    assert any("deleting its remains first" in line for line in lines)
    assert deployed()


@pytest.mark.parametrize(
    ("thing", "counts"),
    [("objects", ("3 objects", "no images")), ("image", ("no objects", "1 im"))],
)
def test_a_stack_with_data_is_deleted_with_that_option_only(account, thing, counts):
    """A refusal deletes nothing; `--with-data` deletes the bucket as well."""
    embedtune("deploy", "--yes")
    bucket = deployed().bucket
    if thing == "objects":
        put_versions(account("s3"), bucket)
    else:
        put_image(account)
    _, lines = embedtune("delete", "--yes", code=13)
    for part in (*counts, bucket, "`embedtune infra delete --with-data`"):
        assert part in lines[0]
    assert deployed().bucket == bucket
    _, lines = embedtune("delete", "--with-data", "--yes")
    what = f"3 objects in the bucket `{bucket}`" if thing == "objects" else "1 image in the repo"
    assert lines[0].startswith(f"Deleted {what}")
    assert lines[-1] == f"Deleted the bucket `{bucket}`."
    assert nothing_is_left(account)


def test_an_empty_stack_and_its_retained_bucket_are_deleted_after_confirmation(account):
    embedtune("deploy", "--yes")
    _, lines = embedtune("delete", answer="n\n", code=1)
    assert lines[0].startswith("Delete the stack `embedtune` in eu-west-1, if it holds no data?")
    assert deployed()
    embedtune("delete", answer="y\n")
    assert nothing_is_left(account)
    _, lines = embedtune("delete", "--yes")
    assert lines == ["There is no stack `embedtune` in eu-west-1; nothing was deleted."]


def test_a_stack_whose_bucket_was_deleted_by_hand_can_be_deleted(account):
    embedtune("deploy", "--yes")
    account("s3").delete_bucket(Bucket=deployed().bucket)
    embedtune("delete", "--yes")
    assert nothing_is_left(account)


def put_versions(s3, bucket):
    """Store objects with versioning, which keeps deleted objects."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(2):
        s3.put_object(Bucket=bucket, Key="runs/x", Body=b"1")
    s3.delete_object(Bucket=bucket, Key="runs/x")


def put_image(account):
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 1, "digest": "sha256:0"}
    config = layer | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
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


STACK = "arn:aws:cloudformation:eu-west-1:123456789012:stack/embedtune/1"
CHANGE = "arn:aws:cloudformation:eu-west-1:123456789012:changeSet/embedtune/1"
ROLE_IN_USE = [
    ("embedtune", "DELETE_IN_PROGRESS", ""),
    ("Role", "DELETE_FAILED", "It is in use."),
]


@pytest.fixture
def cloud(monkeypatch):
    """A CloudFormation client that returns the responses a test adds, in order."""
    monkeypatch.setitem(cloudformation.POLLS, "Delay", 0)
    session = boto3.Session("test", "test", region_name="eu-west-1")
    client = session.client("cloudformation")
    with Stubber(client) as stubber:
        client.add, client.refuse = stubber.add_response, stubber.add_client_error
        yield client
        stubber.assert_no_pending_responses()


def answer_events(cloud, *events):
    """Add responses with events on two pages, latest first; `events` are in order of time."""
    answers = [
        {
            "StackId": STACK,
            "StackName": "embedtune",
            "EventId": str(number),
            "LogicalResourceId": name,
            "PhysicalResourceId": STACK if name == "embedtune" else f"a-{name}",
            "ResourceType": "AWS::Some::Type",
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        }
        for number, (name, status, reason) in enumerate(events)
    ]
    answers.reverse()
    cloud.add("describe_stack_events", {"StackEvents": answers[:2], "NextToken": "more"})
    cloud.add("describe_stack_events", {"StackEvents": answers[2:]})


def answer_status(cloud, status):
    stack = {"StackName": "embedtune", "CreationTime": datetime(2026, 1, 1, tzinfo=UTC)}
    cloud.add("describe_stacks", {"Stacks": [stack | {"StackStatus": status}]})


def deploy(cloud, *, is_new):
    return cloudformation.deploy(cloud, "embedtune", "template", {}, is_new=is_new)


def test_a_failure_names_the_resource_that_failed_first_and_no_cancelled_one(cloud):
    """The rollback is awaited; failures of an earlier operation are not reported."""
    cloud.add("create_change_set", {"Id": CHANGE, "StackId": STACK})
    cloud.add("describe_change_set", {"Status": "CREATE_PENDING"})
    cloud.add("describe_change_set", {"Status": "CREATE_COMPLETE"})
    executed = {"ChangeSetName": CHANGE, "RetainExceptOnCreate": True}
    cloud.add("execute_change_set", {}, executed)
    for status in ("UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"):
        answer_status(cloud, status)
    answer_events(
        cloud,
        ("Bucket", "UPDATE_FAILED", "Of an earlier operation."),
        ("embedtune", "UPDATE_IN_PROGRESS", "User Initiated"),
        ("Bucket", "UPDATE_FAILED", "Resource update cancelled"),
        ("Role", "UPDATE_FAILED", "No such\n key."),
        ("LauncherPolicy", "UPDATE_FAILED", "Another."),
        ("embedtune", "UPDATE_ROLLBACK_COMPLETE", ""),
    )
    with pytest.raises(BackendError, match=r"Role \(AWS::Some::Type\): No such key\. "):
        deploy(cloud, is_new=False)


def test_a_failed_deletion_is_reported_with_its_reason(cloud):
    cloud.add("delete_stack", {}, {"StackName": STACK})
    answer_status(cloud, "DELETE_FAILED")
    answer_events(cloud, *ROLE_IN_USE, ("embedtune", "DELETE_FAILED", ""))
    with pytest.raises(BackendError, match=r"was not deleted: Role .*: It is in use\. "):
        cloudformation.delete(cloud, {"StackId": STACK, "StackName": "embedtune"})


@pytest.mark.parametrize(
    ("is_new", "reason", "message"),
    [
        (True, "Template error: no\nsuch thing.", "Template error: no such thing"),
        (False, "Template error.", "Template error"),
        (False, "The submitted information didn't contain changes. Submit other.", None),
        (False, "No updates are to be performed.", None),
    ],
)
def test_a_failed_change_set_leaves_nothing(cloud, is_new, reason, message):
    """The empty stack of a new name is deleted. Nothing to change is not a failure."""
    cloud.add("create_change_set", {"Id": CHANGE, "StackId": STACK})
    cloud.add("describe_change_set", {"Status": "FAILED", "StatusReason": reason})
    cloud.add("delete_change_set", {}, {"ChangeSetName": CHANGE})
    if is_new:
        cloud.add("delete_stack", {}, {"StackName": STACK})
    if message is None:
        assert not deploy(cloud, is_new=is_new)
        return
    with pytest.raises(BackendError, match=f"`embedtune` cannot be deployed: {message}"):
        deploy(cloud, is_new=is_new)


def test_credentials_that_expire_during_the_wait_are_reported(cloud):
    cloud.add("delete_stack", {})
    cloud.refuse("describe_stacks", "ExpiredToken", "Expired.")
    with (
        pytest.raises(BackendError, match="credentials have expired"),
        translate_errors("deleting"),
    ):
        cloudformation.delete(cloud, {"StackId": STACK, "StackName": "embedtune"})


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        ("UPDATE_IN_PROGRESS", ["is being changed", "`embedtune infra status`"]),
        ("DELETE_FAILED", ["Role (AWS::Some::Type): It is in use.", "`embedtune infra delete`"]),
        ("UPDATE_ROLLBACK_FAILED", ["It is in use.", "continue-update-rollback --stack-name emb"]),
    ],
)
def test_an_unusable_stack_is_reported_with_the_reason_of_its_last_operation(cloud, status, parts):
    if status != "UPDATE_IN_PROGRESS":
        answer_events(cloud, *ROLE_IN_USE, ("embedtune", status, ""))
    found = {"StackName": "embedtune", "StackId": STACK, "StackStatus": status}
    with pytest.raises(BackendError) as raised:
        cloudformation.require_usable(cloud, found)
    assert all(part in str(raised.value) for part in (status, *parts))


@pytest.mark.parametrize(
    "status", ["CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"]
)
def test_a_stack_whose_update_was_rolled_back_is_usable(status):
    cloudformation.require_usable(None, {"StackName": "embedtune", "StackStatus": status})


def test_status_without_a_stack_of_ours_says_how_to_create_one(account):
    _, lines = embedtune("status", "--stack", "other", code=13)
    assert "no stack `other` in eu-west-1. Create it with `embedtune infra deploy`" in lines[0]
    template = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}}
    account("cloudformation").create_stack(StackName="mine", TemplateBody=json.dumps(template))
    _, lines = embedtune("status", "--stack", "mine", code=13)
    assert "The stack `mine` in eu-west-1 was not created by embedtune" in lines[0]
    assert "no output 'Region'" in lines[0]


def test_a_dry_run_prints_the_whole_request_without_calling_aws(monkeypatch):
    """It prints one JSON document and needs no credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    places = ("--subnet", "subnet-1", "--security-group", "sg-1", "--security-group", "sg-2")
    budget = ("--budget", "1500000", "--budget-email", "who@pays.example")
    types = ("--allow-instance-type", "ml.g5.2xlarge", "--allow-instance-type", "ml.g5.xlarge")
    limits = (*types, "--limit-runtime", "4h", "--limit-keep-alive", "0")
    kept = ("--log-retention", "90", "--keep-images", "5")
    stdout, lines = embedtune(
        *("deploy", "--dry-run", "--region", "cn-north-1", "--stack", "mine"),
        *("--data-bucket", "one", "--data-bucket", "two", *places, *budget),
        *(*limits, *kept),
    )
    assert lines == []
    assert json.loads(stdout) == {
        "stack": "mine",
        "region": "cn-north-1",
        "parameters": {
            # The partition belongs to the region.
            "DataBucketArns": "arn:aws-cn:s3:::one,arn:aws-cn:s3:::two",
            "Subnets": "subnet-1",
            "SecurityGroups": "sg-1,sg-2",
            "MonthlyBudgetUsd": "1500000",
            "BudgetEmail": "who@pays.example",
            "AllowedInstanceTypes": "ml.g5.2xlarge,ml.g5.xlarge",
            "MaxRuntimeSeconds": "14400",
            "MaxKeepAliveSeconds": "0",
            "LogRetentionDays": "90",
            "KeepImages": "5",
        },
        "template": template_text(),
    }


def test_an_empty_string_removes_a_limit():
    """An omitted limit keeps its value; `0` is a limit."""
    limits = ("--limit-runtime", "", "--limit-keep-alive", "", "--allow-instance-type", "")
    stdout, _ = embedtune("deploy", "--dry-run", "--region", "eu-west-1", *limits)
    assert json.loads(stdout)["parameters"] == {
        "AllowedInstanceTypes": "",
        "MaxRuntimeSeconds": "",
        "MaxKeepAliveSeconds": "",
    }
    _, lines = embedtune("deploy", "--dry-run", "--limit-runtime", "soon", code=2)
    assert "'soon' is not a duration" in lines[-1]


@pytest.mark.parametrize(
    ("options", "partner"),
    [
        (("--subnet", "subnet-1"), "`--security-group`"),
        (("--security-group", "sg-1"), "`--subnet`"),
        (("--budget", "5"), "`--budget-email`"),
    ],
)
def test_an_option_without_its_partner_is_refused(options, partner):
    _, lines = embedtune("deploy", "--dry-run", "--region", "eu-west-1", *options, code=2)
    assert partner in lines[-1]


def test_an_installed_launcher_reads_the_template_from_its_package(tmp_path, monkeypatch):
    """An installation has no checkout."""
    (tmp_path / "stack.yaml").write_text("installed")
    assert template_text().startswith("AWSTemplateFormatVersion")
    monkeypatch.setattr("launcher.aws.stack.__file__", str(tmp_path / "stack.py"))
    assert template_text() == "installed"
