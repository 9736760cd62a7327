"""The session, and every refusal of AWS in one line that says what to do."""

import pytest
from botocore import exceptions as botocore
from botocore.exceptions import ClientError

from job.errors import BackendError
from launcher.aws import client, error_code, explained, open_session

PROFILES = """\
[profile here]
region = eu-west-1

[profile nowhere]
output = json
"""


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """Profiles and keys of nobody."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(PROFILES)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.mark.parametrize(
    ("profile", "region", "variables", "expected"),
    [
        ("here", None, {}, "eu-west-1"),
        (None, None, {"AWS_PROFILE": "here"}, "eu-west-1"),
        ("here", None, {"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        # boto3 alone does not know this one, the AWS CLI does.
        ("here", None, {"AWS_REGION": "ca-central-1"}, "ca-central-1"),
        ("here", "eu-north-1", {"AWS_REGION": "ca-central-1"}, "eu-north-1"),
    ],
)
def test_the_region_is_the_nearest_that_was_given(
    profile, region, variables, expected, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_session(profile, region).region_name == expected


def test_without_a_region_it_says_where_to_set_one():
    with pytest.raises(BackendError) as told:
        open_session("nowhere")
    assert str(told.value) == (
        "No AWS region is set: give `--region us-east-1`, or set AWS_REGION or the profile's."
    )


@pytest.mark.parametrize("variables", [{}, {"AWS_PROFILE": "gone"}])
def test_of_an_unknown_profile_it_names_the_known_ones(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError) as told:
        open_session(None if variables else "gone")
    assert str(told.value) == (
        "The config profile (gone) could not be found; there are `here`, `nowhere`. "
        "Set `--profile` or AWS_PROFILE."
    )


def test_a_client_tries_again_unless_the_user_said_how_often(monkeypatch):
    session = open_session(region="eu-west-1")
    retries = client(session, "sts").meta.config.retries
    assert retries == {"total_max_attempts": 5, "mode": "standard"}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    session = open_session(region="eu-west-1")
    assert client(session, "sts").meta.config.retries["total_max_attempts"] == 2


def test_a_client_goes_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = client(open_session(region="eu-west-1"), "sts")
    assert here.meta.endpoint_url == "http://127.0.0.1:9"
    assert client(open_session(region="eu-west-1"), "sts", "us-east-1").meta.region_name == (
        "us-east-1"
    )


@pytest.mark.parametrize(
    ("endpoint", "region", "line"),
    [
        (
            "localhost:4566",
            "eu-west-1",
            (
                "The AWS endpoint is no address (Invalid endpoint: localhost:4566); "
                "AWS_ENDPOINT_URL needs `http://…`."
            ),
        ),
        (
            None,
            "not a region",
            (
                "Opening AWS's service `sts` failed: Provided region_name 'not a region' "
                "doesn't match a supported format (InvalidRegionError)."
            ),
        ),
    ],
)
def test_an_address_that_is_none_is_told(endpoint, region, line, monkeypatch):
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BackendError) as told:
        client(open_session(region=region), "sts")
    assert str(told.value) == line


def refusal(code, message="It said so.", operation="DescribeStacks"):
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


EXPIRED = (
    "Reading the stack `x` failed: the credentials have expired; log in again: `aws sso login`, "
    "or however you get your credentials."
)
LOST = (
    "Reading the stack `x` failed: the login has expired or is missing; log in again: "
    "`aws sso login`, or however you get your credentials ({})."
)
DENIED = (
    "Reading the stack `x` failed: these credentials lack the right to `{}` ({}); "
    "`embedtune doctor` shows whose they are and what launching needs."
)
UNKNOWN = (
    "Reading the stack `x` failed: AWS does not know these credentials; check them by "
    "`aws sts get-caller-identity` ({})."
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (refusal("ExpiredToken"), EXPIRED),
        (refusal("ExpiredTokenException"), EXPIRED),
        (refusal("TokenRefreshRequired"), EXPIRED),
        (botocore.SSOTokenLoadError(error_msg="no"), LOST.format("SSOTokenLoadError")),
        (botocore.UnauthorizedSSOTokenError(), LOST.format("UnauthorizedSSOTokenError")),
        (botocore.LoginRefreshRequired(), LOST.format("LoginRefreshRequired")),
        (
            refusal(
                "AccessDenied",
                "User: arn:aws:iam::1:user/me is not authorized to perform: "
                "cloudformation:DescribeStacks on resource: arn:…",
            ),
            DENIED.format("cloudformation:DescribeStacks", "AccessDenied"),
        ),
        # S3 tells only that access is denied; the operation is what we know.
        (
            refusal("AccessDenied", "Access Denied", "PutObject"),
            DENIED.format("PutObject", "AccessDenied"),
        ),
        (
            refusal("AccessDeniedException", "User is not authorized to perform: ecr:PutImage."),
            DENIED.format("ecr:PutImage", "AccessDeniedException"),
        ),
        # What comes with it would repeat a part of the signature.
        (
            refusal("SignatureDoesNotMatch", "The canonical string is SECRET"),
            UNKNOWN.format("SignatureDoesNotMatch"),
        ),
        (refusal("InvalidClientTokenId"), UNKNOWN.format("InvalidClientTokenId")),
        (
            refusal("ThrottlingException", "Rate exceeded"),
            (
                "Reading the stack `x` failed: AWS asks for fewer requests, and went on doing so; "
                "try again in a minute (ThrottlingException)."
            ),
        ),
        (
            refusal("ValidationError", "Template\n  format error."),
            "Reading the stack `x` failed: AWS says Template format error (ValidationError).",
        ),
        (
            botocore.NoCredentialsError(),
            (
                "Reading the stack `x` failed: no AWS credentials were found; log in "
                "(`aws sso login`), or set AWS_PROFILE, `--profile`, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY."
            ),
        ),
        (
            botocore.EndpointConnectionError(endpoint_url="https://sts.nix.amazonaws.com"),
            (
                "Reading the stack `x` failed: AWS does not answer (Could not connect to the "
                'endpoint URL: "https://sts.nix.amazonaws.com"); check the region and the network.'
            ),
        ),
        (
            botocore.CredentialRetrievalError(provider="process", error_msg="exit 1"),
            (
                "Reading the stack `x` failed: the credentials could not be fetched (Error when "
                "retrieving credentials from process: exit 1); log in again: `aws sso login`, or "
                "however you get your credentials."
            ),
        ),
        (
            botocore.ParamValidationError(report="too short"),
            (
                "Reading the stack `x` failed: Parameter validation failed: too short "
                "(ParamValidationError)."
            ),
        ),
    ],
    ids=lambda value: error_code(value) if isinstance(value, Exception) else "",
)
def test_each_refusal_is_one_line(error, line):
    with pytest.raises(BackendError) as told, explained("reading the stack `x`"):
        raise error
    assert str(told.value) == line


def test_what_answers_but_is_not_aws_is_told_so():
    """A proxy's page, or the port of something else."""
    from botocore.parsers import ResponseParserError

    with pytest.raises(BackendError, match="what answered is not AWS"), explained("asking"):
        raise ResponseParserError


def test_our_own_errors_and_bugs_pass_as_they_are():
    for error in (BackendError("ours"), KeyError("a bug")):
        with pytest.raises(type(error)) as told, explained("asking"):
            raise error
        assert told.value is error


def test_the_code_of_an_error():
    assert error_code(refusal("Throttling")) == "Throttling"
    assert error_code(ClientError({}, "x")) == "ClientError"
    assert error_code(botocore.NoRegionError()) == "NoRegionError"
