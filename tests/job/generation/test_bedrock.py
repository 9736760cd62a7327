"""The client of Amazon Bedrock: one request says what is wrong, and what to do about it.

AWS's texts are those of public bug reports; nobody has run this against the real Bedrock.
"""

import logging

import pytest
from llm_server import llm_server

from job.core.errors import BackendError
from job.generation.llm import retries
from job.generation.llm.kinds import open_llm
from job.generation.llm.protocol import Answer, Settings
from job.spec.schema import GenerationSpec

SETTINGS = Settings(0.5, 7, 60)
TEXT = "- natural: a question\n\nText:\ntell1 the tell2"
MESSAGES = [{"role": "user", "content": TEXT}]
NOVA = "amazon.nova-lite-v1:0"
GOOD = Answer("natural: What is the ask1 ask2?", 100, 50, without=("seed",))
PROFILE = "arn:aws:bedrock:us-west-2:123456789012:inference-profile/us.amazon.nova-lite-v1:0"


@pytest.fixture(autouse=True)
def account(monkeypatch):
    """Keys and a region; returns the function that sets and unsets variables."""
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.0)
    given = {
        "AWS_ACCESS_KEY_ID": "AKIAKEY",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_REGION": "eu-west-1",
    }

    def change(**variables):
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    change(**given)
    return change


@pytest.fixture
def opened(account):
    """Open a model at a server; returns the function that asks it."""

    def model(server, name=NOVA, **fields):
        account(AWS_ENDPOINT_URL_BEDROCK_RUNTIME=server.endpoint)
        return open_llm(f"bedrock:{name}", GenerationSpec(llm=f"bedrock:{name}", **fields))

    return model


def test_a_request_has_the_messages_and_what_converse_knows_of_the_settings(opened):
    with llm_server() as server:
        system = {"role": "system", "content": "Be brief."}
        assert opened(server)([system, *MESSAGES], SETTINGS) == GOOD
    ((path, headers, body),) = server.requests
    assert path == "/model/amazon.nova-lite-v1%3A0/converse"
    assert body == {
        "messages": [{"role": "user", "content": [{"text": TEXT}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 60, "temperature": 0.5},
    }
    assert "/eu-west-1/bedrock/aws4_request" in headers["Authorization"]


def test_the_region_of_an_arn_wins(opened):
    with llm_server() as server:
        opened(server, PROFILE)(MESSAGES, SETTINGS)
    ((path, headers, _),) = server.requests
    assert "inference-profile%2Fus.amazon.nova-lite" in path
    assert "/us-west-2/bedrock/" in headers["Authorization"]


def test_an_api_key_of_bedrock_is_used_without_other_credentials(opened, account):
    """botocore sends it to a server with TLS only, which the one of this test is not."""
    account(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_BEARER_TOKEN_BEDROCK="abc")
    with llm_server() as server, pytest.raises(BackendError, match=r"Bearer .* requires an HTTPS"):
        opened(server)(MESSAGES, SETTINGS)


DENIED = "User: arn:aws:sts::123456789012:assumed-role/job/x is not authorized to perform: "
DENIED += (
    "bedrock:InvokeModel on resource: arn:aws:bedrock:eu-west-1::foundation-model/x because no"
)
DENIED += " identity-based policy allows the bedrock:InvokeModel action"
ON_DEMAND = f"Invocation of model ID {NOVA} with on-demand throughput isn’t supported. Retry your "
ON_DEMAND += "request with the ID or ARN of an inference profile that contains this model."
MARKETPLACE = "Model access is denied due to IAM user or service role is not authorized to perform "
MARKETPLACE += "the required AWS Marketplace actions (aws-marketplace:ViewSubscriptions)"
LIMIT = "The maximum tokens you requested exceeds the model limit of 4096. Try again with a lower"


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        ("400", ON_DEMAND, "such as `bedrock:eu.amazon.nova-lite-v1:0`"),
        ("400", "The provided model identifier is invalid.", "list-foundation-models --region eu-"),
        ("400", LIMIT, "`generation.max_output_tokens`"),
        ("400", "Operation not allowed", "console"),
        ("401", "You don't have access to the model with the specified model ID.", "Enable the mo"),
        ("401", DENIED, f"`embedtune infra deploy --bedrock-model {NOVA}`"),
        ("401", MARKETPLACE, "subscribe to it in AWS Marketplace"),
        ("401", "Model access is denied due to INVALID_PAYMENT_INSTRUMENT", "AWS Marketplace"),
        ("404", "Could not resolve the foundation model from the provided model", "Check the id"),
        ("404", "Model use case details have not been submitted for this account.", "Submit your"),
        ("404", "This model version has reached the end of its life.", "Choose a newer model"),
        ("429", "Too many tokens per day, please wait before trying again.", "Service Quotas"),
    ],
)
def test_what_all_requests_would_meet_ends_the_run_at_the_first_one(opened, status, text, remedy):
    with llm_server(lambda *_: status, error=text) as server, pytest.raises(BackendError) as caught:
        opened(server)(MESSAGES, SETTINGS)
    assert len(server.requests) == 1
    assert text.rstrip(".") in str(caught.value)
    assert f"`bedrock:{NOVA}`" in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("region", "profile"),
    [
        ("us-gov-west-1", "us-gov."),
        ("us-east-1", "us."),
        ("ap-south-1", "apac."),
        ("sa-east-1", "global."),
    ],
)
def test_the_advised_profile_is_that_of_the_region(opened, account, region, profile):
    account(AWS_REGION=region)
    with (
        llm_server(lambda *_: "400", error=ON_DEMAND) as server,
        pytest.raises(BackendError) as caught,
    ):
        opened(server)(MESSAGES, SETTINGS)
    assert f"`bedrock:{profile}{NOVA}`" in str(caught.value)


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_refused_credentials_are_named_and_aws_text_is_not_shown(opened, code):
    said = "The request signature AKIAKEY does not match"
    with (
        llm_server(lambda *_: "401", error=said, code=code) as server,
        pytest.raises(BackendError, match=rf"the credentials \({code}\); log in again") as caught,
    ):
        opened(server)(MESSAGES, SETTINGS)
    assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials were f"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials were found"),
        ({"AWS_REGION": None}, "No AWS region is set.*AWS_REGION"),
        ({"AWS_REGION": "eu west"}, "eu west"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_PROFILE": "gone"}, "gone"),
    ],
)
def test_a_missing_account_is_named_before_any_request(opened, account, variables, message):
    account(**variables)
    with llm_server() as server, pytest.raises(BackendError, match=message):
        opened(server)(MESSAGES, SETTINGS)
    assert server.requests == []


def test_an_endpoint_that_is_no_url_is_named(account):
    account(AWS_ENDPOINT_URL_BEDROCK_RUNTIME="localhost")
    with pytest.raises(BackendError, match="AWS_ENDPOINT_URL_BEDROCK_RUNTIME"):
        open_llm(f"bedrock:{NOVA}", GenerationSpec())


@pytest.mark.parametrize(
    "said",
    [
        "The model returned the following errors: `temperature` is deprecated for this model.",
        "Malformed input request: #: extraneous key [temperature] is not permitted",
        "This model doesn't support the temperature field.",
    ],
)
def test_a_temperature_that_the_model_does_not_take_is_sent_once(opened, caplog, said):
    """The answers, and so the journal and the report, name what was left out."""

    def fault(_, body):
        return "400" if "temperature" in body["inferenceConfig"] else None

    with llm_server(fault, error=said) as server, caplog.at_level(logging.WARNING, "embedtune"):
        model = opened(server)
        answers = [model(MESSAGES, SETTINGS) for _ in range(2)]
    assert [answer.without for answer in answers] == [("seed", "temperature")] * 2
    sent = [body["inferenceConfig"] for _, _, body in server.requests]
    assert sent == [{"maxTokens": 60, "temperature": 0.5}, {"maxTokens": 60}, {"maxTokens": 60}]
    assert caplog.text.count("takes no temperature") == 1


def test_a_fault_of_the_model_costs_one_chunk_only(opened):
    with llm_server(lambda *_: "424") as server:
        found = opened(server)(MESSAGES, SETTINGS)
    assert found.refusal == "HTTP 424: fault 424"
