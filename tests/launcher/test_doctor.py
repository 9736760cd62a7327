"""`embedtune doctor` names what a launch would miss, in order, with the command that brings it."""

import json
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import CliRunner
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from remote import served_s3

from job.errors import BackendError
from launcher import doctor, engine
from launcher.account import resolve_image
from launcher.commands.doctor import doctor as command
from launcher.findings import Finding

REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/trainer"
USAGE = "ml.g5.2xlarge for training job usage"
CONSOLE = "https://us-east-1.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas"
ALONE = "or do without one: `--role`, `--image` and `--output s3://…`"


class Account(boto3.Session):
    """A session on the server, whose clients of some services are stubs."""

    def __init__(self, region="us-east-1", **stubbed):
        super().__init__(region_name=region)
        self.stubbed = {name.replace("_", "-"): client for name, client in stubbed.items()}

    def client(self, service_name, **options):
        return self.stubbed.get(service_name) or super().client(service_name, **options)

    def examine(self, instance_type="ml.g5.2xlarge", stack="embedtune", **given):
        """Examine the account for one instance; return its findings by name."""
        options = {"spot": False} | given
        found = doctor.examine(self, stack, instance_type, 1, **options)
        return {finding.name: finding for finding in found}


def not_installed(name):
    raise PackageNotFoundError(name)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An account with nothing in it, on a machine with nothing installed."""
    monkeypatch.setattr(doctor, "version", not_installed)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with served_s3(HOME=str(tmp_path)) as served:
        for service in ("iam", "sts", "ecr", "cloudformation"):
            get_backend(service)[ACCOUNT].reset()
        yield served


def client(service):
    """Make a client by what the environment says now."""
    return boto3.Session().client(service, "us-east-1")


def stub(service, *answers, **errors):
    """Make a client that answers with these, in order: (operation, answer)."""
    stubbed = client(service)
    stubber = Stubber(stubbed)
    for operation, answer in answers:
        stubber.add_response(operation, answer)
    for operation, code in errors.items():
        stubber.add_client_error(operation, code, "You may not.", http_status_code=403)
    stubber.activate()
    return stubbed


def quota(name, value):
    return {"QuotaName": name, "Value": value, "QuotaCode": f"L-{len(name):08X}"}


def quotas(*pages):
    """Answer `ListServiceQuotas` by pages of quotas."""
    answers = [
        {"Quotas": page} | ({"NextToken": str(number)} if number < len(pages) else {})
        for number, page in enumerate(pages, 1)
    ]
    return stub("service-quotas", *(("list_service_quotas", answer) for answer in answers))


def no_prices():
    return stub("pricing", get_products="AccessDeniedException")


def prices(usd):
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
    product = {"terms": {"OnDemand": {"A": {"priceDimensions": {"B": dimension}}}}}
    return stub("pricing", ("get_products", {"PriceList": [json.dumps(product)]}))


def add_role(name="trainer", trusts="sagemaker.amazonaws.com"):
    statement = {"Effect": "Allow", "Principal": {"Service": trusts}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=document)


def add_image(tag, repository="embedtune"):
    """Push an image as far as moto can tell; return its digest."""
    ecr = client("ecr")
    if not ecr.describe_repositories()["repositories"]:
        ecr.create_repository(repositoryName=repository)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {}, "tag": tag})
    pushed = ecr.put_image(repositoryName=repository, imageManifest=manifest, imageTag=tag)
    return pushed["image"]["imageId"]["imageDigest"]


def add_stack():
    """Deploy what has the outputs of ours, of a bucket `box`."""
    outputs = {
        "Bucket": "box",
        "RoleArn": ROLE,
        "RepositoryUri": f"{REGISTRY}/embedtune",
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
    """Put a `docker` there, a shell script."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


NOTHING = [
    Finding(
        "package",
        "missing",
        "sagemaker-core is not installed",
        "`pip install 'embedtune[sagemaker]'`",
    ),
    Finding(
        "docker",
        "skipped",
        "`docker` is not installed here; install Docker, or use `--backend process`. Only "
        "`embedtune image build` and `push` need it",
    ),
    Finding("settings", "ok", "region us-east-1"),
    Finding("credentials", "ok", f"arn:aws:sts::{ACCOUNT}:user/moto"),
    Finding(
        "stack",
        "missing",
        "there is no stack `embedtune` in us-east-1",
        f"`embedtune infra deploy --region us-east-1`, {ALONE}",
    ),
    Finding("role", "skipped", "comes with the stack"),
    Finding("bucket", "skipped", "comes with the stack"),
    Finding(
        "image",
        "skipped",
        "comes with the stack",
        "afterwards `embedtune image build`, then `embedtune image push embedtune REPOSITORY`",
    ),
    Finding(
        "quota",
        "missing",
        f"0 for {USAGE}, of 1 needed",
        "`aws service-quotas request-service-quota-increase --service-code sagemaker "
        f"--quota-code L-00000024 --desired-value 1 --region us-east-1`, or {CONSOLE}/L-00000024",
    ),
    Finding(
        "price",
        "ok",
        "$1.515 an hour and instance; table of 2026-11-23 for us-east-1, other regions differ "
        "(Reading AWS's price list failed: these credentials lack the right to `GetProducts` "
        "(AccessDeniedException))",
    ),
]


def test_an_account_with_nothing_in_it_lacks_everything_in_order(server):
    """Each missing piece is named, before those that need it, with the command that brings it."""
    account = Account(service_quotas=quotas([quota(USAGE, 0.0)]), pricing=no_prices())
    assert list(account.examine().values()) == NOTHING


def test_the_command_says_the_same_and_exits_with_13(server, monkeypatch):
    account = Account(service_quotas=quotas([quota(USAGE, 0.0)]), pricing=no_prices())
    monkeypatch.setattr("launcher.aws.open_session", lambda *_: account)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(command, [], standalone_mode=False)
    assert done.exit_code == 13
    table, _, steps = done.stdout.partition("To do, in this order:\n")
    rows = re.findall(r"^│ (\w+) +│ (\w+) +│", table, re.MULTILINE)
    assert rows == [(finding.name, finding.state) for finding in NOTHING]
    fixes = [f"{finding.name}: {finding.fix}" for finding in NOTHING if finding.fix]
    assert steps.splitlines() == [f"{n}. {fix}" for n, fix in enumerate(fixes, 1)]


def test_an_account_with_everything_lacks_nothing(server, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "version", {"sagemaker-core": "2.27.0"}.get)
    install_docker(tmp_path, "echo 28.2.1")
    add_role()
    add_stack()
    digest = add_image("1")
    account = Account(service_quotas=quotas([quota(USAGE, 2.0)]), pricing=prices("1.515"))
    assert list(account.examine().values()) == [
        Finding("package", "ok", "sagemaker-core 2.27.0"),
        Finding("docker", "ok", "Docker 28.2.1 answers"),
        Finding("settings", "ok", "region us-east-1"),
        Finding("credentials", "ok", f"arn:aws:sts::{ACCOUNT}:user/moto"),
        Finding("stack", "ok", "embedtune in us-east-1"),
        Finding("role", "ok", f"{ROLE}, which SageMaker may assume"),
        Finding("bucket", "ok", "box in us-east-1"),
        Finding("image", "ok", f"{REGISTRY}/embedtune@{digest}"),
        Finding("quota", "ok", f"2 for {USAGE}"),
        Finding(
            "price",
            "ok",
            "$1.515 an hour and instance; AWS's price list, on demand in us-east-1",
        ),
    ]


@pytest.fixture
def account(server):
    """A session whose quota and price are there."""
    return Account(service_quotas=quotas([quota(USAGE, 1.0)]), pricing=prices("1"))


def test_without_credentials_there_is_nothing_to_ask(account, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = list(Account().examine().values())
    assert found[3].state == "missing"
    assert found[3].found.startswith("Asking AWS who you are failed: no AWS credentials were found")
    assert found[3].fix.startswith("`aws sso login` or `aws configure`")
    assert found[4:] == [
        Finding(name, "skipped", "needs credentials") for name in doctor.OF_ACCOUNT
    ]


def test_credentials_that_have_expired_are_missing(account):
    account.stubbed["sts"] = stub("sts", get_caller_identity="ExpiredToken")
    found = account.examine()["credentials"]
    assert found.state == "missing"
    assert "the credentials have expired" in found.found


def test_a_region_that_nobody_knows_may_be_a_new_one(server):
    account = Account("us-esat-1", sts=stub("sts", get_caller_identity="ExpiredToken"))
    found = account.examine()["settings"]
    assert found.state == "unknown"
    assert "no SageMaker in `us-esat-1`" in found.found


def test_without_a_region_the_command_says_how_to_name_one(server, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    done = CliRunner(env={"COLUMNS": "300"}).invoke(command, [], standalone_mode=False)
    assert done.exit_code == 13
    assert "No AWS region is set" in done.stdout
    assert "2. settings: `--profile` and `--region`, or `aws configure`\n" in done.stdout
    assert "3." not in done.stdout


def test_the_commands_options_are_what_is_looked_at(account, monkeypatch):
    """Role, image and bucket of one's own, another instance, on spot."""
    add_role()
    account.client("s3").create_bucket(Bucket="own")
    image = f"{REGISTRY}/embedtune@{add_image('1')}"
    other = "ml.g6.2xlarge for spot training job usage"
    account.stubbed["service-quotas"] = quotas([quota(other, 3.0)])
    monkeypatch.setattr("launcher.aws.open_session", lambda *_: account)
    options = ["--role", ROLE, "--image", image, "--output", "s3://own/runs", "--spot"]
    options += ["--instance-type", "ml.g6.2xlarge", "--instances", "3"]
    done = CliRunner(env={"COLUMNS": "300"}).invoke(command, options, standalone_mode=False)
    for found in (ROLE, image, "own in us-east-1", f"3 for {other}"):
        assert found in done.stdout
    # Of this machine; the account has all.
    assert "1. package: `pip install 'embedtune[sagemaker]'`\n" in done.stdout
    assert "2." not in done.stdout.partition("To do")[2]


def test_what_is_given_needs_no_stack(account):
    """Role, image and bucket of one's own: the stack may be missing."""
    add_role()
    account.client("s3").create_bucket(Bucket="own")
    image = f"{REGISTRY}/embedtune@{add_image('1')}"
    found = account.examine(image=image, role=ROLE, bucket="own")
    assert found["stack"].state == "skipped"
    assert {found[name].state for name in ("role", "bucket", "image")} == {"ok"}


def test_a_stack_that_cannot_be_read_is_as_good_as_none(account):
    account.stubbed["cloudformation"] = stub("cloudformation", describe_stacks="AccessDenied")
    found = account.examine()["stack"]
    assert found.state == "missing"
    assert "lack the right to `DescribeStacks`" in found.found
    assert found.fix == f"mend that, {ALONE}"


def test_another_stack_profile_and_region_stand_in_the_commands(server, monkeypatch, tmp_path):
    """What is pasted leads to the account that was examined."""
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    account = Account(None, service_quotas=quotas([quota(USAGE, 0.0)]), pricing=no_prices())
    found = account.examine(stack="mine")
    where = "--profile work --region eu-west-1`"
    assert found["settings"].found == "region eu-west-1, profile work"
    assert found["stack"].fix.startswith(f"`embedtune infra deploy --stack mine {where}")
    assert f"--desired-value 1 {where}, or https://eu-west-1.console" in found["quota"].fix


def test_a_role_that_is_not_there_is_missing(account):
    assert account.examine(role=ROLE)["role"] == Finding(
        "role",
        "missing",
        "there is no role `trainer`",
        "`embedtune infra deploy --region us-east-1`, or `--role` with another",
    )


def test_a_role_that_sagemaker_may_not_assume_is_missing(account):
    add_role(trusts="ec2.amazonaws.com")
    found = account.examine(role=ROLE)["role"]
    assert found.state == "missing"
    assert found.found == "the role `trainer` does not let SageMaker assume it"
    assert "`aws iam update-assume-role-policy --role-name trainer" in found.fix


def test_a_role_that_one_may_not_look_at_is_unknown(account):
    """It may well be right: to launch, nobody needs to read it."""
    account.stubbed["iam"] = stub("iam", get_role="AccessDenied")
    found = account.examine(role=ROLE)["role"]
    assert (found.state, found.fix) == ("unknown", None)
    assert "lack the right to `GetRole`" in found.found


def test_a_role_of_another_account_is_unknown(account):
    found = account.examine(role="arn:aws:iam::999999999999:role/theirs")["role"]
    assert found.state == "unknown"
    assert f"is not of your account, {ACCOUNT}" in found.found


def test_a_roles_name_is_no_arn(account):
    assert account.examine(role="trainer")["role"] == Finding(
        "role",
        "missing",
        "`trainer` is not the ARN of a role",
        "`--role arn:aws:iam::ACCOUNT:role/NAME`",
    )


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
def test_trust_policies_are_read_in_all_their_forms(statement, lets_in):
    from launcher.account import lets_sagemaker_in

    whole = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    } | statement
    assert lets_sagemaker_in({"Statement": whole}) is lets_in
    assert lets_sagemaker_in({"Statement": [whole]}) is lets_in


def test_a_bucket_that_is_not_there_is_missing(account):
    assert account.examine(bucket="nowhere")["bucket"] == Finding(
        "bucket",
        "missing",
        "there is no bucket `nowhere`",
        "`embedtune infra deploy --region us-east-1`, or `--output s3://…` with another",
    )


def test_a_bucket_of_another_region_is_of_no_use(account, server):
    server.bucket("far", "eu-west-1")
    assert account.examine(bucket="far")["bucket"] == Finding(
        "bucket",
        "missing",
        "the bucket `far` is in eu-west-1; a job reads and writes in its own region only",
        "`--region eu-west-1`, or `--output s3://…` with a bucket here",
    )


def test_a_bucket_that_one_may_not_look_at_is_unknown(account, server):
    server.bucket("box")
    server.fail("AccessDenied", 403, method="HEAD")
    found = account.examine(bucket="box")["bucket"]
    assert found.state == "unknown"
    assert "lack the right to `HeadBucket`" in found.found


def test_an_image_is_pinned_by_tag_or_digest(account):
    first, second = add_image("1"), add_image("2")
    repository = f"{REGISTRY}/embedtune"
    pinned = {
        f"{repository}:1": first,
        f"{repository}@{first}": first,
        f"{repository}:2@{second}": second,
    }
    for reference, digest in pinned.items():
        assert resolve_image(account, reference) == f"{repository}@{digest}"


def test_a_repository_stands_for_its_newest_image(account):
    """What has no tag is left out: parts of images, and what was replaced."""
    images = [
        {"imageDigest": f"sha256:{day}", "imagePushedAt": datetime(2026, 11, day, tzinfo=UTC)}
        for day in (3, 23, 12)
    ]
    account.stubbed["ecr"] = stub("ecr", ("describe_images", {"imageDetails": images}))
    sent = []
    account.stubbed["ecr"].meta.events.register(
        "before-parameter-build.ecr.DescribeImages", lambda params, **_: sent.append(dict(params))
    )
    repository = f"{REGISTRY}/embedtune"
    assert resolve_image(account, repository) == f"{repository}@sha256:23"
    tagged = {"tagStatus": "TAGGED"}
    assert sent == [{"registryId": ACCOUNT, "repositoryName": "embedtune", "filter": tagged}]


@pytest.mark.parametrize("reference", ["embedtune", "ghcr.io/me/embedtune:1", "a/b/c@sha256:1"])
def test_an_image_outside_ecr_is_left_alone(account, reference):
    """SageMaker may reach it, and we cannot know."""
    assert resolve_image(account, reference) == reference
    found = account.examine(image=reference)["image"]
    assert found.state == "unknown"
    assert f"`{reference}` is in no registry of ECR" in found.found


def test_an_image_that_is_not_there_is_to_be_pushed(account):
    build = "`embedtune image build`, then `embedtune image push embedtune"
    address = f"{REGISTRY}/embedtune"
    assert account.examine(image=f"{address}:9")["image"] == Finding(
        "image",
        "missing",
        f"there is no repository `{address}`",
        f"`embedtune infra deploy`, then {build} {address}:9`",
    )
    client("ecr").create_repository(repositoryName="embedtune")
    account = Account(service_quotas=quotas([quota(USAGE, 1.0)]), pricing=prices("1"))
    assert account.examine(image=address)["image"] == Finding(
        "image", "missing", f"the repository `{address}` holds no image", f"{build} {address}`"
    )
    add_image("1")
    with pytest.raises(BackendError) as raised:
        resolve_image(account, f"{address}:9")
    assert str(raised.value) == (
        f"There is no image `{address}:9`; to mend it: {build} {address}:9`."
    )


def test_an_image_that_one_may_not_look_at_is_unknown(account):
    account.stubbed["ecr"] = stub("ecr", describe_images="AccessDeniedException")
    assert account.examine(image=f"{REGISTRY}/embedtune:1")["image"].state == "unknown"


def test_quotas_for_spot_are_others(server):
    """Many pages long is their list, and each instance type has several."""
    spot = "ml.g5.2xlarge for spot training job usage"
    pages = [quota("ml.g5.2xlarge for endpoint usage", 1.0)], [quota(USAGE, 1.0), quota(spot, 0.0)]
    account = Account(service_quotas=quotas(*pages), pricing=no_prices())
    found = account.examine(spot=True)["quota"]
    assert (found.state, found.found) == ("missing", f"0 for {spot}, of 1 needed")
    account = Account(service_quotas=quotas(*pages), pricing=no_prices())
    assert account.examine()["quota"] == Finding("quota", "ok", f"1 for {USAGE}")


def test_a_quota_that_nobody_changed_is_among_the_defaults(server):
    lists = stub(
        "service-quotas",
        ("list_service_quotas", {"Quotas": []}),
        ("list_aws_default_service_quotas", {"Quotas": [quota(USAGE, 0.0)]}),
    )
    account = Account(service_quotas=lists, pricing=no_prices())
    assert account.examine()["quota"] == NOTHING[8]


def test_a_quota_that_cannot_be_found_or_read_is_unknown(server):
    lists = stub(
        "service-quotas",
        ("list_service_quotas", {"Quotas": []}),
        ("list_aws_default_service_quotas", {"Quotas": []}),
    )
    found = Account(service_quotas=lists, pricing=no_prices()).examine()["quota"]
    assert found == Finding(
        "quota", "unknown", f"There is no quota of the name `{USAGE}`; see {CONSOLE}"
    )
    lists = stub("service-quotas", list_service_quotas="AccessDeniedException")
    found = Account(service_quotas=lists, pricing=no_prices()).examine()["quota"]
    assert (found.state, found.fix) == ("unknown", None)


def test_an_unknown_price_hinders_nobody(server):
    account = Account(service_quotas=quotas([quota(USAGE, 1.0)]), pricing=no_prices())
    found = account.examine("ml.p5.48xlarge")["price"]
    assert found.state == "unknown"
    assert found.found.startswith("no price is known for ml.p5.48xlarge")


# The backends of this machine.


def test_a_process_needs_the_jobs_packages(monkeypatch):
    monkeypatch.setattr(engine, "DEVICES", ())
    assert doctor.examine_process() == [
        Finding(
            "packages", "ok", "torch, sentence_transformers, datasets and the others are installed"
        ),
        Finding("GPU", "skipped", "NVIDIA's driver shows none; the job will do without"),
    ]
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.examine_process()[0] == Finding(
        "packages", "missing", "not installed: torch, datasets", "`pip install 'embedtune[train]'`"
    )


def test_a_sound_machine_exits_with_0(monkeypatch):
    monkeypatch.setattr(engine, "DEVICES", ())
    done = CliRunner().invoke(command, ["--backend", "process"])
    assert done.exit_code == 0, done.output
    assert "To do" not in done.stdout


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without Docker and GPU."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(engine, "DEVICES", ())
    return tmp_path


def test_a_container_needs_an_engine_first(machine):
    assert doctor.examine_docker("embedtune") == [
        Finding(
            "engine",
            "missing",
            "`docker` is not installed here; install Docker, or use `--backend process`",
            "install Docker, `sudo systemctl start docker`; `--backend process` needs none",
        ),
        Finding("image", "skipped", "needs the engine"),
        Finding("GPU", "skipped", "needs the engine"),
    ]


# An engine without images.
EMPTY = """case "$1" in
version) echo 28.2.1 ;;
info) echo '{"runc": {}}' ;;
*) echo 'Error response from daemon: No such image: x' >&2; exit 1 ;;
esac"""


def test_an_image_that_is_not_here_is_built_or_pulled(machine):
    install_docker(machine, EMPTY)
    assert doctor.examine_docker("embedtune")[1] == Finding(
        "image",
        "missing",
        "there is no image `embedtune` here",
        "`embedtune image build`, or `--image` with another",
    )
    assert doctor.examine_docker("ghcr.io/me/embedtune")[1].state == "unknown"


def test_a_machine_with_all_for_a_container(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "DEVICES", (str(tmp_path),))
    nvidia = EMPTY.replace('"runc"', '"nvidia"').replace("*)", "image) echo sha256:1 ;;\n*)")
    install_docker(machine, nvidia)
    assert doctor.examine_docker("embedtune") == [
        Finding("engine", "ok", "Docker 28.2.1 answers"),
        Finding("image", "ok", "sha256:1"),
        Finding("GPU", "ok", "NVIDIA's driver shows a GPU, and the engine has its runtime"),
    ]


def test_a_gpu_without_the_engines_runtime_is_unknown(machine, monkeypatch, tmp_path):
    """Newer engines can hand it out all the same."""
    monkeypatch.setattr(engine, "DEVICES", (str(tmp_path),))
    install_docker(machine, EMPTY)
    found = doctor.examine_docker("embedtune")[2]
    assert found.state == "unknown"
    assert "`nvidia-ctk runtime configure --runtime=docker`" in found.found


SMALL = (
    "4 GPUs would hardly pay: about 0.7 min of work instead of 2.0 min on one GPU, after 4 min "
    "until the job starts; 70% of their time would be work (derived, not measured)"
)


def test_several_gpus_are_doubted_where_they_do_not_pay():
    """Without a job the article's tells; of one GPU there is nothing to say."""
    assert doctor.examine_gpus("ml.g5.2xlarge", 1, None) == []
    assert doctor.examine_gpus("ml.g5.12xlarge", 1, None) == [
        Finding("GPUs", "doubtful", f"for 6,300 pairs and bge-base-en-v1.5, {SMALL}")
    ]
    assert doctor.examine_gpus("ml.trn1.2xlarge", 2, None) == [
        Finding("GPUs", "skipped", "data or model cannot be sized from here")
    ]


def test_several_gpus_are_judged_by_the_job(account, monkeypatch, tmp_path):
    """A job with an hour of work for one GPU is worth four; it is no reason to fail."""
    monkeypatch.setattr("launcher.aws.open_session", lambda *_: account)
    account.stubbed["service-quotas"] = quotas([])
    row = json.dumps({"question": "why " * 50, "context": "because " * 50}) + "\n"
    (tmp_path / "pairs.jsonl").write_text(row * 2_000)
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "model.safetensors").open("wb") as weights:
        weights.truncate(4_000_000_000)
    fields = {"data": {"source": str(tmp_path / "pairs.jsonl")}, "training": {"epochs": 10}}
    model = {"model": {"base": str(tmp_path / "model")}}
    (tmp_path / "job.yaml").write_text(json.dumps(fields | model))
    options = [str(tmp_path / "job.yaml"), "--instance-type", "ml.g5.12xlarge"]
    done = CliRunner(env={"COLUMNS": "400"}).invoke(command, options, standalone_mode=False)
    assert re.search(
        r"│ GPUs +│ ok +│ 4 GPUs would take about \d+\.\d min; scaled by ", done.stdout
    )
