"""Sessions and clients; every AWS error becomes one line with advice."""

import pytest
from botocore import exceptions as botocore
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from job.core.errors import BackendError
from launcher.aws.sessions import client, error_code, open_session, translate_errors

PROFILES = "[profile here]\nregion = eu-west-1\n\n[profile nowhere]\noutput = json\n"


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """Use fake profiles and keys only."""
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
        # The AWS CLI reads this variable, boto3 does not.
        ("here", None, {"AWS_REGION": "ca-central-1"}, "ca-central-1"),
        ("here", "eu-north-1", {"AWS_REGION": "ca-central-1"}, "eu-north-1"),
    ],
)
def test_the_region_is_that_of_the_option_the_variable_or_the_profile(
    profile, region, variables, expected, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_session(profile, region).region_name == expected


@pytest.mark.parametrize(
    ("profile", "parts"),
    [("nowhere", ["`--region us-east-1`", "AWS_REGION"]), ("gone", ["gone", "`here`, `nowhere`"])],
)
def test_a_missing_region_or_profile_is_one_line_with_the_settings(profile, parts):
    with pytest.raises(BackendError) as raised:
        open_session(profile)
    assert all(part in str(raised.value) for part in parts)


def test_a_client_retries_unless_the_user_set_the_attempts(monkeypatch):
    session = open_session(region="eu-west-1")
    retries = client(session, "sts").meta.config.retries
    assert retries == {"total_max_attempts": 5, "mode": "standard"}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = client(open_session(region="eu-west-1"), "sts")
    assert here.meta.config.retries["total_max_attempts"] == 2
    assert here.meta.endpoint_url == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("endpoint", "region", "part"),
    [("localhost:4566", "eu-west-1", "localhost:4566"), (None, "not a region", "'not a region'")],
)
def test_an_invalid_endpoint_or_region_is_named(endpoint, region, part, monkeypatch):
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BackendError) as raised:
        client(open_session(region=region), "sts")
    assert part in str(raised.value)


def refusal(code, message="Some reason.", operation="DescribeStacks"):
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


# Parts of the messages.
EXPIRED, LOST, DENIED = "credentials have expired", "login has expired", "lack the permission "
KEYS, UNREACHED = "does not accept these credentials", "does not respond"


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (refusal("ExpiredTokenException"), EXPIRED),
        (refusal("TokenRefreshRequired"), EXPIRED),
        (botocore.SSOTokenLoadError(error_msg="no"), LOST),
        (botocore.LoginRefreshRequired(), LOST),
        (
            refusal("AccessDenied", "User: me is not authorized to perform: iam:GetRole on x"),
            f"{DENIED}`iam:GetRole`",
        ),
        # S3's message does not name the permission, so the operation is shown.
        (refusal("AccessDenied", "Access Denied", "PutObject"), f"{DENIED}`PutObject`"),
        # AWS's message repeats parts of the signature.
        (refusal("SignatureDoesNotMatch", "The canonical string is PLANTED"), KEYS),
        (refusal("ThrottlingException", "Rate exceeded"), "try again in a minute"),
        (refusal("ValidationError", "Template\n  format error."), "Template format error"),
        (botocore.NoCredentialsError(), "`aws sso login`"),
        (botocore.EndpointConnectionError(endpoint_url="https://sts.nix"), UNREACHED),
        (botocore.CredentialRetrievalError(provider="process", error_msg="exit 1"), "exit 1"),
        (botocore.ParamValidationError(report="too short"), "too short"),
        # The page of a proxy, or another service on that port.
        (ResponseParserError(), "the response is not from AWS"),
    ],
    ids=lambda value: error_code(value) if isinstance(value, Exception) else "",
)
def test_each_aws_error_is_one_line(error, part):
    with pytest.raises(BackendError) as raised, translate_errors("reading the stack `x`"):
        raise error
    line = str(raised.value)
    assert line.startswith("Reading the stack `x` failed: ")
    assert part in line
    assert "\n" not in line
    assert "PLANTED" not in line


def test_our_own_errors_and_bugs_pass_unchanged():
    for error in (BackendError("ours"), KeyError("a bug")):
        with pytest.raises(type(error)) as raised, translate_errors("asking"):
            raise error
        assert raised.value is error
