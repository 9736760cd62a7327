"""`embedtune doctor` lists what a launch needs and lacks, in order, with commands to fix it."""

import json
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import CliRunner
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from remote import served_s3

from job.core import drivers
from job.core.drivers import IMAGE_CUDA
from job.core.errors import BackendError
from launcher.aws.account import trusts_sagemaker
from launcher.aws.ecr import INDEXES, OCI_MANIFEST, resolve_image
from launcher.backends.process.checks import check_process
from launcher.backends.sagemaker import account_checks
from launcher.cli import main
from launcher.containers import engine
from launcher.containers.checks import check_docker
from launcher.plan.machine import MachineOptions

REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
REPOSITORY = f"{REGISTRY}/embedtune"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/trainer"
USAGE = "ml.g5.2xlarge for training job usage"
OF_ACCOUNT = ("stack", "role", "bucket", "image", "quota", "price")


class Account(boto3.Session):
    """A session on the fake server; clients of some services are stubs."""

    def __init__(self, region="us-east-1", **stubbed):
        super().__init__(region_name=region)
        self.stubbed = {name.replace("_", "-"): client for name, client in stubbed.items()}

    def client(self, service_name, **options):
        return self.stubbed.get(service_name) or super().client(service_name, **options)

    def examine(self, bucket=None, **machine):
        """Examine the account; return its findings by name."""
        found = account_checks.check_account(self, MachineOptions("sagemaker", **machine), bucket)
        return {finding.name: finding for finding in found}

    def run(self, monkeypatch, *options):
        """Run the command; returns its exit code, table rows and numbered steps."""
        monkeypatch.setattr("launcher.aws.sessions.open_session", lambda *_: self)
        done = CliRunner(env={"COLUMNS": "400"}).invoke(main, ["doctor", *options])
        table, _, steps = done.stdout.partition("To do, in this order:\n")
        _, *rows = re.findall(r"^(\w+) +(\w+) +(.*)$", table, re.MULTILINE)
        return done.exit_code, {row[0]: row[1:] for row in rows}, steps.splitlines()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with served_s3(HOME=str(tmp_path_factory.mktemp("home"))) as server:
        yield server


@pytest.fixture
def server(served, monkeypatch, tmp_path):
    """An empty account, on a machine without packages and programs."""

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(account_checks, "version", not_installed)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for service in ("iam", "sts", "ecr", "cloudformation", "s3"):
        get_backend(service)[ACCOUNT].reset()
    return served


@pytest.fixture
def account(server):
    """A session with quota and price."""
    return Account(service_quotas=known_quota(1.0), pricing=prices("1"))


def client(service):
    """Create a client from the current environment."""
    return boto3.Session().client(service, "us-east-1")


def stub(service, *answers, **errors):
    """Create a client that gives the (operation, answer) pairs in order; a string is an error."""
    stubbed = client(service)
    stubber = Stubber(stubbed)
    for operation, answer in (*answers, *errors.items()):
        if isinstance(answer, str):
            stubber.add_client_error(operation, answer, "You may not.", http_status_code=403)
        else:
            stubber.add_response(operation, answer)
    stubber.activate()
    return stubbed


def quota(name, value):
    return {"QuotaName": name, "Value": value, "QuotaCode": f"L-{len(name):08X}"}


def known_quota(value):
    """Create a client that returns the quota of USAGE by its code."""
    return stub("service-quotas", ("get_service_quota", {"Quota": quota(USAGE, value)}))


def quotas(*pages, defaults=None, by_code=None):
    """Create a client that returns pages of quotas, and optionally the defaults.

    `by_code` is the answer to a query by the quota's code.
    """
    answers = [] if by_code is None else [("get_service_quota", by_code)]
    answers += [
        (
            "list_service_quotas",
            {"Quotas": page} | ({"NextToken": str(number)} if number < len(pages) else {}),
        )
        for number, page in enumerate(pages, 1)
    ]
    if defaults is not None:
        answers.append(("list_aws_default_service_quotas", {"Quotas": defaults}))
    return stub("service-quotas", *answers)


def no_prices():
    return stub("pricing", get_products="AccessDeniedException")


def prices(usd):
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
    product = {"terms": {"OnDemand": {"A": {"priceDimensions": {"B": dimension}}}}}
    return stub("pricing", ("get_products", {"PriceList": [json.dumps(product)]}))


def add_role(trusts="sagemaker.amazonaws.com"):
    statement = {"Effect": "Allow", "Principal": {"Service": trusts}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument=document)


def add_image(tag):
    """Add an image to the fake registry; returns its digest."""
    ecr = client("ecr")
    if not ecr.describe_repositories()["repositories"]:
        ecr.create_repository(repositoryName="embedtune")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {}, "tag": tag})
    pushed = ecr.put_image(repositoryName="embedtune", imageManifest=manifest, imageTag=tag)
    return pushed["image"]["imageId"]["imageDigest"]


def add_stack():
    """Create a stack with the same outputs as ours, and a bucket `box`."""
    outputs = {
        "Bucket": "box",
        "RoleArn": ROLE,
        "RepositoryUri": REPOSITORY,
        "Region": "us-east-1",
        "LauncherPolicyArn": f"arn:aws:iam::{ACCOUNT}:policy/launch",
        "Version": "1",
    }
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "box"}}
    template = {
        "Resources": {"Bucket": bucket},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    client("cloudformation").create_stack(StackName="embedtune", TemplateBody=json.dumps(template))


def install_docker(tmp_path, script):
    """Install a shell script as `docker`."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_an_empty_account_lacks_everything_in_order(server, monkeypatch):
    """Each missing requirement comes before those that depend on it, with a command to fix it."""
    account = Account(service_quotas=known_quota(0.0), pricing=no_prices())
    code, rows, steps = account.run(monkeypatch)
    assert code == 13
    assert {name: state for name, (state, _) in rows.items()} == {
        "package": "missing",
        "docker": "skipped",
        "settings": "ok",
        "credentials": "ok",
        "stack": "missing",
        "role": "skipped",
        "bucket": "skipped",
        "image": "skipped",
        "driver": "unknown",
        "quota": "missing",
        "price": "ok",
    }
    assert f":sts::{ACCOUNT}:" in rows["credentials"][1]
    assert "table of 2026-11-23" in rows["price"][1]
    assert "CUDA 13.0 needs NVIDIA driver 580.65.06 or later" in rows["driver"][1]
    fixes = [
        "package: `pip install 'embedtune[sagemaker]'`",
        "stack: `embedtune infra deploy --region us-east-1`, or launch without a stack: `--role`",
        "image: afterwards `embedtune image build --on aws --region us-east-1`, or with Docker",
        "quota: `aws service-quotas request-service-quota-increase --service-code sagemaker",
    ]
    assert len(steps) == len(fixes)
    for number, (step, fix) in enumerate(zip(steps, fixes, strict=True), 1):
        assert step.startswith(f"{number}. {fix}")
    assert "--quota-code L-00000024 --desired-value 1 --region us-east-1`" in steps[-1]


def test_an_account_with_everything_lacks_nothing(server, monkeypatch, tmp_path):
    monkeypatch.setattr(account_checks, "version", {"sagemaker-core": "2.27.0"}.get)
    install_docker(tmp_path, "echo 28.2.1")
    add_role()
    add_stack()
    digest = add_image("1")
    account = Account(service_quotas=known_quota(2.0), pricing=prices("1.515"))
    code, rows, steps = account.run(monkeypatch)
    # AWS does not tell the driver of its machines.
    assert rows.pop("driver")[0] == "unknown"
    assert (code, steps, {state for state, _ in rows.values()}) == (0, [], {"ok"})
    found = {name: text for name, (_, text) in rows.items()}
    assert found["package"] == "sagemaker-core 2.27.0"
    assert found["docker"] == "Docker 28.2.1 is running"
    assert found["role"].startswith(ROLE)
    assert (found["bucket"], found["image"]) == ("box in us-east-1", f"{REPOSITORY}@{digest}")
    assert found["quota"] == f"2 for {USAGE}"
    assert found["price"].startswith("$1.515 per hour")


def test_without_credentials_the_account_is_not_checked(account, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = Account().examine()
    assert found["credentials"].state == "missing"
    assert "no AWS credentials found" in found["credentials"].found
    assert "`aws sso login`" in found["credentials"].fix
    assert {found[name].state for name in OF_ACCOUNT} == {"skipped"}


def test_without_a_region_the_command_prints_how_to_set_one(server, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    done = CliRunner(env={"COLUMNS": "300"}).invoke(main, ["doctor"])
    assert done.exit_code == 13
    assert "No AWS region is set" in done.stdout
    assert "2. settings: `--profile` and `--region`, or `aws configure`\n" in done.stdout
    assert "3." not in done.stdout


def test_an_unknown_region_may_be_new(server):
    account = Account("us-esat-1", sts=stub("sts", get_caller_identity="ExpiredToken"))
    found = account.examine()
    assert (found["settings"].state, found["credentials"].state) == ("unknown", "missing")
    assert "`us-esat-1`" in found["settings"].found
    assert "the credentials have expired" in found["credentials"].found


def test_the_options_determine_what_is_checked(account, monkeypatch):
    """With given role, image and bucket no stack is needed; checks another type, on spot."""
    add_role()
    account.client("s3").create_bucket(Bucket="own")
    image = f"{REPOSITORY}@{add_image('1')}"
    other = "ml.g6.2xlarge for spot training job usage"
    account.stubbed["service-quotas"] = quotas([quota(other, 3.0)])
    options = ["--role", ROLE, "--image", image, "--output", "s3://own/runs", "--spot"]
    options += ["--instance-type", "ml.g6.2xlarge", "--instances", "3"]
    _, rows, steps = account.run(monkeypatch, *options)
    assert rows["stack"][0] == "skipped"
    assert {rows[name][0] for name in ("role", "bucket", "image", "quota")} == {"ok"}
    assert rows["quota"][1] == f"3 for {other}"
    assert rows["bucket"][1] == "own in us-east-1"
    # Only this machine lacks something.
    assert steps == ["1. package: `pip install 'embedtune[sagemaker]'`"]


def test_commands_contain_stack_profile_and_region(server, monkeypatch, tmp_path):
    """A pasted command works on the account that was checked."""
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    account = Account(None, service_quotas=known_quota(0.0), pricing=no_prices())
    found = account.examine(stack="mine")
    options = "--profile work --region eu-west-1`"
    assert found["settings"].found == "region eu-west-1, profile work"
    assert found["stack"].fix.startswith(f"`embedtune infra deploy --stack mine {options}")
    assert f"--desired-value 1 {options}, or https://eu-west-1.console" in found["quota"].fix


@pytest.mark.parametrize(
    ("service", "operation", "given", "name", "state"),
    [
        # A launch that needs the stack could not read it either.
        ("cloudformation", "describe_stacks", {}, "stack", "missing"),
        # A launch does not need to read these.
        ("iam", "get_role", {"role": ROLE}, "role", "unknown"),
        ("ecr", "describe_images", {"image": f"{REPOSITORY}:1"}, "image", "unknown"),
        ("service-quotas", "get_service_quota", {}, "quota", "unknown"),
        ("s3", "head_bucket", {"bucket": "box"}, "bucket", "unknown"),
    ],
)
def test_a_check_without_permission_is_unknown(account, service, operation, given, name, state):
    account.stubbed[service] = stub(service, **{operation: "AccessDenied"})
    found = account.examine(**given)[name]
    assert found.state == state
    right = "".join(part.title() for part in operation.split("_"))
    assert f"lack the permission `{right}`" in found.found


@pytest.mark.parametrize(
    ("arn", "trusts", "state", "text", "fix"),
    [
        (ROLE, None, "missing", "no role `trainer`", "`embedtune infra deploy --region us-east-1`"),
        (ROLE, "ec2.amazonaws.com", "missing", "not let SageMaker assume", "--role-name trainer"),
        ("arn:aws:iam::9999999999999:role/x", None, "missing", "not the ARN of a role", "`--role "),
        (ROLE.replace(ACCOUNT, "9" * 12), None, "unknown", f"than yours ({ACCOUNT})", ""),
    ],
)
def test_an_unusable_role_is_reported(account, arn, trusts, state, text, fix):
    if trusts:
        add_role(trusts)
    found = account.examine(role=arn)["role"]
    assert (found.state, text in found.found, fix in (found.fix or "")) == (state, True, True)


@pytest.mark.parametrize(
    ("statement", "lets_in"),
    [
        ({"Principal": {"Service": ["ec2.amazonaws.com", "sagemaker.amazonaws.com"]}}, True),
        ({"Principal": "*"}, True),
        ({"Action": ["sts:TagSession", "sts:AssumeRole"]}, True),
        ({"Action": "sts:TagSession"}, False),
        ({"Effect": "Deny"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:root"}}, False),
    ],
)
def test_trust_policies_are_read_in_all_forms(statement, lets_in):
    whole = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    } | statement
    assert trusts_sagemaker({"Statement": whole}) is lets_in
    assert trusts_sagemaker({"Statement": [whole]}) is lets_in


@pytest.mark.parametrize(
    ("region", "text", "fix"),
    [
        (None, "there is no bucket `far`", "`embedtune infra deploy --region us-east-1`"),
        ("eu-west-1", "the bucket `far` is in eu-west-1", "`--region eu-west-1`"),
    ],
)
def test_a_bucket_outside_the_region_is_missing(account, server, region, text, fix):
    if region:
        server.bucket("far", region)
    found = account.examine(bucket="far")["bucket"]
    assert (found.state, text in found.found, fix in found.fix) == ("missing", True, True)


def test_an_image_is_pinned_by_tag_or_digest(account):
    first, second = add_image("1"), add_image("2")
    pinned = {
        f"{REPOSITORY}:1": first,
        f"{REPOSITORY}@{first}": first,
        f"{REPOSITORY}:2@{second}": second,
    }
    for reference, digest in pinned.items():
        assert resolve_image(account, reference) == f"{REPOSITORY}@{digest}"


@pytest.mark.parametrize(
    ("media_type", "state", "text"),
    [
        (INDEXES[0], "missing", "is a list of manifests"),
        (INDEXES[1], "missing", "is a list of manifests"),
        (OCI_MANIFEST, "doubtful", "has an OCI manifest"),
        ("application/vnd.docker.distribution.manifest.v2+json", "ok", "@sha256:"),
    ],
)
def test_an_image_that_sagemaker_refuses_is_found_before_it_costs(account, media_type, state, text):
    """Amazon ECR API reference, "ImageDetail"; SageMaker answers `Unsupported manifest media type`
    (amazon-sagemaker-feedback, issue 180).
    """
    image = {"imageDigest": f"sha256:{'0' * 64}", "imageManifestMediaType": media_type}
    details = [image | {"imagePushedAt": datetime(2026, 11, 1, tzinfo=UTC)}]
    account.stubbed["ecr"] = stub("ecr", ("describe_images", {"imageDetails": details}))
    found = account.examine(image=f"{REPOSITORY}:1")["image"]
    assert (found.state, text in found.found) == (state, True)
    if state == "missing":
        assert "`embedtune image build`" in found.fix


@pytest.mark.parametrize("suffix", [":1", f"@sha256:{'0' * 64}", ""])
def test_an_image_that_only_the_role_may_read_is_used_as_it_is(account, suffix, capsys):
    """Amazon ECR User Guide, "Private repository policies": another account may allow pulls and
    nothing else.
    """
    reference = f"{REPOSITORY.replace(ACCOUNT, '9' * 12)}{suffix}"
    account.stubbed["ecr"] = stub("ecr", describe_images="AccessDeniedException")
    assert resolve_image(account, reference) == reference
    assert ("is not pinned" in capsys.readouterr().err) == ("@" not in suffix)
    account.stubbed["ecr"] = stub("ecr", describe_images="ServerException")
    with pytest.raises(BackendError, match="ServerException"):
        resolve_image(account, reference)


@pytest.mark.parametrize(
    ("region", "arn", "host", "console"),
    [
        ("us-east-1", "arn:aws:iam", "amazonaws.com", "us-east-1.console.aws.amazon.com"),
        ("cn-north-1", "arn:aws-cn:iam", "amazonaws.com.cn", "cn-north-1.console.amazonaws.cn"),
        (
            "us-gov-west-1",
            "arn:aws-us-gov:iam",
            "amazonaws.com",
            "us-gov-west-1.console.amazonaws-us-gov.com",
        ),
        (
            "eusc-de-east-1",
            "arn:aws-eusc:iam",
            "amazonaws.eu",
            "eusc-de-east-1.console.amazonaws-eusc.eu",
        ),
    ],
)
def test_the_partitions_have_their_own_names(server, region, arn, host, console):
    """AWS General Reference, "Amazon Resource Names"; the other public partitions."""
    answers = quotas([quota(USAGE, 0.0)], by_code="NoSuchResourceException")
    digest = f"sha256:{'0' * 64}"
    image = {"imageDigest": digest, "imagePushedAt": datetime(2026, 11, 1, tzinfo=UTC)}
    ecr = stub("ecr", ("describe_images", {"imageDetails": [image]}))
    account = Account(region, service_quotas=answers, ecr=ecr)
    repository = f"{ACCOUNT}.dkr.ecr.{region}.{host}/embedtune"
    found = account.examine(role="standing", image=f"{repository}:1")
    assert found["settings"].state == "ok"
    assert found["role"].fix == f"`--role {arn}::ACCOUNT:role/NAME`"
    assert found["image"].found == f"{repository}@{digest}"
    assert f"https://{console}/servicequotas" in found["quota"].fix
    price = found["price"]
    assert (price.state == "unknown") == (region != "us-east-1"), price


def test_a_repository_means_its_newest_image(account):
    """Untagged images are ignored: parts of others, or replaced ones."""
    images = [
        {"imageDigest": f"sha256:{day}", "imagePushedAt": datetime(2026, 11, day, tzinfo=UTC)}
        for day in (3, 23, 12)
    ]
    account.stubbed["ecr"] = ecr = client("ecr")
    with Stubber(ecr) as stubber:
        tagged = {"tagStatus": "TAGGED"}
        asked = {"registryId": ACCOUNT, "repositoryName": "embedtune", "filter": tagged}
        stubber.add_response("describe_images", {"imageDetails": images}, asked)
        assert resolve_image(account, REPOSITORY) == f"{REPOSITORY}@sha256:23"


@pytest.mark.parametrize("reference", ["embedtune", "ghcr.io/me/embedtune:1", "a/b/c@sha256:1"])
def test_an_image_outside_ecr_is_not_checked(account, reference):
    """SageMaker may be able to pull it; we cannot know."""
    assert resolve_image(account, reference) == reference
    found = account.examine(image=reference)["image"]
    assert (found.state, f"`{reference}`" in found.found) == ("unknown", True)


def test_the_error_for_a_missing_image_has_the_push_command(account):
    push = f"`embedtune image push embedtune {REPOSITORY}:9`"

    def refusal(reference):
        with pytest.raises(BackendError) as raised:
            resolve_image(account, reference)
        return str(raised.value)

    line = refusal(f"{REPOSITORY}:9")
    assert "no repository" in line
    built = "`embedtune image build --on aws --region us-east-1`, or with Docker `embedtune image"
    assert f"`embedtune infra deploy`, then {built} build`, then {push}" in line
    client("ecr").create_repository(repositoryName="embedtune")
    assert "is empty" in refusal(REPOSITORY)
    add_image("1")
    line = refusal(f"{REPOSITORY}:9")
    assert f"There is no image `{REPOSITORY}:9`" in line
    assert push in line


def test_spot_has_its_own_quota(server):
    """A quota of unknown code is found by its name, in a list of many pages."""
    spot = "ml.g5.2xlarge for spot training job usage"
    pages = [quota("ml.g5.2xlarge for endpoint usage", 1.0)], [quota(USAGE, 1.0), quota(spot, 0.0)]
    account = Account(service_quotas=quotas(*pages), pricing=no_prices())
    found = account.examine(spot=True)["quota"]
    assert (found.state, found.found.startswith(f"0 for {spot}")) == ("missing", True)


@pytest.mark.parametrize(
    "answer", [{"Quota": quota("another quota", 9.0)}, "NoSuchResourceException"], ids=str
)
def test_a_code_without_the_right_quota_is_replaced_by_the_list(server, answer):
    """Service Quotas API reference, "GetServiceQuota": quotas without an applied value are not
    retrieved.
    """
    client = quotas([quota(USAGE, 2.0)], by_code=answer)
    found = Account(service_quotas=client, pricing=no_prices()).examine()["quota"]
    assert (found.state, found.found) == ("ok", f"2 for {USAGE}")


def test_every_instance_type_of_a_list_needs_its_quota(server):
    """SageMaker Developer Guide, "Instance preference lists for training jobs": "If any type falls
    short, the request is rejected".
    """
    other = "ml.g6.2xlarge for training job usage"
    answers = [
        ("get_service_quota", {"Quota": quota(USAGE, 1.0)}),
        ("list_service_quotas", {"Quotas": [quota(other, 0.0)]}),
    ]
    account = Account(service_quotas=stub("service-quotas", *answers), pricing=no_prices())
    machine = MachineOptions("sagemaker", instance_type=("ml.g5.2xlarge", "ml.g6.2xlarge"))
    found = [f for f in account_checks.check_account(account, machine) if f.name == "quota"]
    assert [finding.state for finding in found] == ["ok", "missing"]
    assert found[1].found == f"0 for {other}; 1 needed"


def test_a_warm_pool_has_its_own_quota(server):
    """Without it SageMaker keeps no machine; see "Request a warm pool quota increase"."""
    name = "ml.g5.2xlarge for training warm pool usage"
    answers = [("get_service_quota", {"Quota": quota(each, 1.0)}) for each in (USAGE, name)]
    answers[1][1]["Quota"]["Value"] = 0.0
    account = Account(service_quotas=stub("service-quotas", *answers), pricing=no_prices())
    found = account.examine(keep_alive=600)
    assert (found["quota"].state, found["warm pool"].state) == ("ok", "missing")
    assert f"0 for {name}; 1 needed; without it" in found["warm pool"].found
    assert "omit `--keep-alive`" in found["warm pool"].found


@pytest.mark.parametrize(
    ("defaults", "state", "text"),
    [
        ([quota(USAGE, 0.0)], "missing", f"0 for {USAGE}; 1 needed"),
        ([], "unknown", f"no quota named `{USAGE}`"),
    ],
)
def test_an_unchanged_quota_is_read_from_the_defaults(server, defaults, state, text):
    client = quotas([], defaults=defaults, by_code="NoSuchResourceException")
    found = Account(service_quotas=client, pricing=no_prices()).examine()["quota"]
    assert (found.state, text in found.found) == (state, True)


def test_an_unknown_price_is_not_an_error(server):
    account = Account(service_quotas=known_quota(1.0), pricing=no_prices())
    found = account.examine(instance_type=("ml.p5.48xlarge",))["price"]
    assert (found.state, "ml.p5.48xlarge" in found.found) == ("unknown", True)


# The backends on this machine.


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_a_process_needs_the_jobs_packages(monkeypatch):
    monkeypatch.setattr(engine, "DEVICES", ())
    done = CliRunner().invoke(main, ["doctor", "--backend", "process"])
    assert (done.exit_code, "To do" in done.stdout) == (0, False)
    assert states(check_process()) == {"packages": "ok", "GPU": "skipped"}
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    packages, _ = check_process()
    assert (packages.state, packages.found) == ("missing", "not installed: torch, datasets")
    assert packages.fix == "`pip install 'embedtune[train]'`"


# An engine without images.
EMPTY = """case "$1" in
version) echo 28.2.1 ;;
info) echo '{"runc": {}}' ;;
*) echo 'Error response from daemon: No such image: x' >&2; exit 1 ;;
esac"""
FULL = EMPTY.replace('"runc"', '"nvidia"').replace("*)", "image) echo sha256:1 ;;\n*)")


@pytest.mark.parametrize(
    ("script", "image", "has_gpu", "expected"),
    [
        (None, "embedtune", False, {"engine": "missing", "image": "skipped", "GPU": "skipped"}),
        (EMPTY, "embedtune", False, {"engine": "ok", "image": "missing", "GPU": "skipped"}),
        # Docker may be able to pull the image; newer versions support GPUs without the runtime.
        (
            EMPTY,
            "ghcr.io/me/embedtune",
            True,
            {"engine": "ok", "image": "unknown", "GPU": "unknown"},
        ),
        (FULL, "embedtune", True, {"engine": "ok", "image": "ok", "GPU": "ok"}),
    ],
)
def test_docker_needs_an_engine_an_image_and_optionally_a_gpu(
    monkeypatch, tmp_path, script, image, has_gpu, expected
):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(engine, "DEVICES", (str(tmp_path),) if has_gpu else ())
    if script:
        install_docker(tmp_path, script)
    options = ["--backend", "docker", "--image", image]
    done = CliRunner(env={"COLUMNS": "400"}).invoke(main, ["doctor", *options])
    assert done.exit_code == (13 if "missing" in expected.values() else 0)
    assert states(check_docker(image)) == expected


# As the kernel writes it, with the closed and with the open module.
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}.05  Sat Feb 17 22:55:48 UTC 2024\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}.05  Release Build  (root)\n"


@pytest.mark.parametrize("text", [CLOSED, OPEN])
@pytest.mark.parametrize(("version", "state"), [("535.104", "missing"), ("580.95", "ok")])
def test_docker_needs_a_driver_for_the_images_cuda(monkeypatch, tmp_path, text, version, state):
    """CUDA Toolkit Release Notes, "CUDA Driver": CUDA 13 needs driver 580 or later."""
    install_docker(tmp_path, FULL)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(engine, "DEVICES", (str(tmp_path),))
    (tmp_path / "version").write_text(text.format(version))
    monkeypatch.setattr(drivers, "VERSION_FILE", tmp_path / "version")
    assert states(check_docker("embedtune"))["GPU"] == state


def test_the_required_driver_is_that_of_the_images_cuda():
    """The locked torch brings its CUDA."""
    lock = (Path(__file__).parents[2] / "container" / "locks" / "torch.txt").read_text("utf-8")
    assert re.search(r"^nvidia-cuda-runtime==(\d+\.\d+)", lock, re.MULTILINE)[1] == IMAGE_CUDA


def test_several_gpus_are_doubtful_if_they_do_not_pay_off():
    """Without a job file the article's job is assumed; one GPU is not checked."""

    def gpus(instance_type, instances=1):
        machine = MachineOptions("sagemaker", instance_type=(instance_type,), instances=instances)
        return account_checks.check_gpus(machine, None)

    assert gpus("ml.g5.2xlarge") == []
    (doubted,) = gpus("ml.g5.12xlarge")
    assert (doubted.state, "4 GPUs are hardly worth it" in doubted.found) == ("doubtful", True)
    assert states(gpus("ml.trn1.2xlarge", 2)) == {"GPUs": "skipped"}


def test_several_gpus_are_checked_for_the_given_job(account, monkeypatch, tmp_path):
    """Four GPUs pay off for a job that takes an hour on one."""
    account.stubbed["service-quotas"] = quotas([])
    row = json.dumps({"question": "why " * 50, "context": "because " * 50}) + "\n"
    (tmp_path / "pairs.jsonl").write_text(row * 2_000)
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "model.safetensors").open("wb") as weights:
        weights.truncate(4_000_000_000)
    job = {
        "data": {"source": str(tmp_path / "pairs.jsonl")},
        "model": {"base": str(tmp_path / "model")},
        "training": {"epochs": 10},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    options = (str(tmp_path / "job.yaml"), "--instance-type", "ml.g5.12xlarge")
    _, rows, _ = account.run(monkeypatch, *options)
    assert rows["GPUs"][0] == "ok"
    assert re.match(r"4 GPUs would take about \d+\.\d min; scaled by ", rows["GPUs"][1])
