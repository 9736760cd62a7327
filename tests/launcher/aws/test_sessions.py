"""The session, and every refusal of AWS in one line that says what to do."""

import pytest
from botocore import exceptions as botocore
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from job.core.errors import BackendError
from launcher.aws.sessions import client, error_code, open_session, translate_errors

PROFILES = "[profile here]\nregion = eu-west-1\n\n[profile nowhere]\noutput = json\n"


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


@pytest.mark.parametrize(
    ("profile", "parts"),
    [("nowhere", ["`--region us-east-1`", "AWS_REGION"]), ("gone", ["gone", "`here`, `nowhere`"])],
)
def test_without_a_region_or_a_profile_it_says_how_to_name_one(profile, parts):
    with pytest.raises(BackendError) as told:
        open_session(profile)
    assert all(part in str(told.value) for part in parts)


def test_a_client_tries_again_unless_the_user_said_how_often(monkeypatch):
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
def test_an_address_that_is_none_is_told(endpoint, region, part, monkeypatch):
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BackendError) as told:
        client(open_session(region=region), "sts")
    assert part in str(told.value)


def refusal(code, message="It said so.", operation="DescribeStacks"):
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


# What a person has to do, or what AWS said.
EXPIRED, LOST, DENIED = "credentials have expired", "login has expired", "lack the right to "
KEYS, UNREACHED = "does not know these credentials", "does not answer"


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
        # S3 tells only that access is denied; the operation is what we know.
        (refusal("AccessDenied", "Access Denied", "PutObject"), f"{DENIED}`PutObject`"),
        # What comes with it would repeat a part of the signature.
        (refusal("SignatureDoesNotMatch", "The canonical string is PLANTED"), KEYS),
        (refusal("ThrottlingException", "Rate exceeded"), "try again in a minute"),
        (refusal("ValidationError", "Template\n  format error."), "Template format error"),
        (botocore.NoCredentialsError(), "`aws sso login`"),
        (botocore.EndpointConnectionError(endpoint_url="https://sts.nix"), UNREACHED),
        (botocore.CredentialRetrievalError(provider="process", error_msg="exit 1"), "exit 1"),
        (botocore.ParamValidationError(report="too short"), "too short"),
        # A proxy's page, or the port of something else.
        (ResponseParserError(), "what answered is not AWS"),
    ],
    ids=lambda value: error_code(value) if isinstance(value, Exception) else "",
)
def test_each_refusal_is_one_line(error, part):
    with pytest.raises(BackendError) as told, translate_errors("reading the stack `x`"):
        raise error
    line = str(told.value)
    assert line.startswith("Reading the stack `x` failed: ")
    assert part in line
    assert "\n" not in line
    assert "PLANTED" not in line


def test_our_own_errors_and_bugs_pass_as_they_are():
    for error in (BackendError("ours"), KeyError("a bug")):
        with pytest.raises(type(error)) as told, translate_errors("asking"):
            raise error
        assert told.value is error
