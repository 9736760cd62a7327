"""Amazon Bedrock's models by name: which one is meant, and what a role needs to ask it."""

import os

import boto3
import pytest
from botocore.stub import Stubber

from job.core.errors import BackendError
from launcher.aws.account import require_models
from launcher.aws.bedrock_models import foundation_model, geography, model_arns
from launcher.aws.stack import stack_parameters

NOVA = "amazon.nova-lite-v1:0"
ARN = f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}"
PROFILE = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{NOVA}"
OWN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"


@pytest.mark.parametrize(
    ("name", "model", "place"),
    [
        (NOVA, NOVA, None),
        (f"us.{NOVA}", NOVA, "us"),
        (f"us-gov.{NOVA}", NOVA, "us-gov"),
        (f"global.{NOVA}", NOVA, "global"),
        # A dot in the model's own name.
        ("xai.grok-4.3", "xai.grok-4.3", None),
        ("us.xai.grok-4.3", "xai.grok-4.3", "us"),
        (ARN, NOVA, None),
        (PROFILE, NOVA, "us"),
        (OWN, None, None),
        ("arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc", None, None),
    ],
)
def test_a_name_says_which_model_and_where(name, model, place):
    assert (foundation_model(name), geography(name)) == (model, place)


class Session(boto3.Session):
    """Returns one stubbed client."""

    def __init__(self, stubbed, region):
        super().__init__("test", "test", region_name=region)
        self.stubbed = stubbed

    def client(self, service_name, **_):
        assert service_name == "bedrock"
        return self.stubbed


@pytest.fixture
def bedrock(monkeypatch):
    """A session in a region and the stub of its client."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    client = boto3.client("bedrock", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        yield lambda region="us-east-1": Session(client, region), stub
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("region", "partition"),
    [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_a_model_is_one_resource_of_the_stacks_region(bedrock, region, partition):
    session, _ = bedrock
    expected = [f"arn:{partition}:bedrock:{region}::foundation-model/{NOVA}"]
    assert model_arns(session(region), NOVA) == expected
    assert model_arns(session(region), ARN) == [ARN]


def answer(stub, name, arn, *models):
    """Plant Bedrock's description of an inference profile."""
    found = {
        "inferenceProfileName": "a name",
        "inferenceProfileArn": arn,
        "inferenceProfileId": arn.rpartition("/")[2],
        "models": [{"modelArn": each} for each in models],
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
    }
    stub.add_response("get_inference_profile", found, {"inferenceProfileIdentifier": name})


@pytest.mark.parametrize(("name", "arn"), [(f"us.{NOVA}", PROFILE), (PROFILE, PROFILE), (OWN, OWN)])
def test_a_profile_is_itself_and_its_models_where_it_may_send_requests(bedrock, name, arn):
    session, stub = bedrock
    models = (ARN, ARN.replace("us-east-1", "us-west-2"), ARN.replace("us-east-1", ""))
    answer(stub, name, arn, *models)
    assert model_arns(session(), name) == [arn, *models]


def test_a_profile_that_does_not_exist_is_refused(bedrock):
    session, stub = bedrock
    stub.add_client_error("get_inference_profile", "ResourceNotFoundException", "No such.", 404)
    with pytest.raises(BackendError, match=r"`us\.nobody\.nothing` failed: AWS reports: No such"):
        model_arns(session(), "us.nobody.nothing")


def test_the_stack_gets_each_resource_once_and_an_empty_name_clears_them(bedrock):
    session, stub = bedrock
    answer(stub, f"us.{NOVA}", PROFILE, ARN)
    given = {"data_buckets": (), "bedrock_model": (NOVA, f"us.{NOVA}")}
    found = stack_parameters(session(), given)
    assert found == {"BedrockModelArns": f"{ARN},{PROFILE}"}
    assert stack_parameters(session(), given | {"bedrock_model": ("",)}) == {"BedrockModelArns": ""}
    assert stack_parameters(session(), given | {"bedrock_model": ()}) == {}


@pytest.mark.parametrize("name", [NOVA, ARN, f"us.{NOVA}", PROFILE])
def test_a_role_may_ask_what_its_stack_was_given_by_any_name(name):
    require_models([name], [ARN, PROFILE], "embedtune")


def test_a_model_that_the_role_may_not_ask_is_refused_with_the_command_for_all_models():
    with pytest.raises(BackendError) as caught:
        require_models([NOVA, "other.model"], [ARN], "mine")
    assert "may not ask `bedrock:other.model`" in str(caught.value)
    command = f"`embedtune infra deploy --stack mine --bedrock-model {NOVA} --bedrock-model other."
    assert command in str(caught.value)
