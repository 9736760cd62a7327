"""CloudWatch as AWS answers it: pages, empty ones among them, several streams, no group yet."""

from itertools import islice

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from launcher.backends.sagemaker.logs import GROUP, CloudLog

SESSION = boto3.Session("test", "test", region_name="us-east-1")


@pytest.fixture
def logs():
    """A client that answers as it was told, and checks each request against the service's model."""
    client = SESSION.client("logs")
    with Stubber(client) as stubber:
        client.stubber = stubber
        yield client
        stubber.assert_no_pending_responses()
    client.close()


def answer_streams(logs, streams):
    """Answer one listing of streams, each on a page of its own."""
    asked = {"logGroupName": GROUP, "logStreamNamePrefix": "first/"}
    for number, name in enumerate(streams, 1):
        answer = {"logStreams": [{"logStreamName": f"first/{name}"}]}
        more = {"nextToken": str(number)} if number < len(streams) else {}
        logs.stubber.add_response("describe_log_streams", answer | more, asked)
        asked = asked | more


def answer_events(logs, stream, lines, *, after=None, token):
    """Answer one reading of a stream, from `after` on; the next one is to begin at `token`."""
    asked = {"logGroupName": GROUP, "logStreamName": f"first/{stream}", "startFromHead": True}
    asked |= {"nextToken": after} if after else {}
    events = [{"timestamp": 1, "message": line, "ingestionTime": 1} for line in lines]
    answer = {"events": events, "nextForwardToken": token, "nextBackwardToken": "b"}
    logs.stubber.add_response("get_log_events", answer, asked)


def test_all_pages_are_read_until_one_is_the_same_again(logs):
    """A page may be empty with more behind it; the next look begins where the last one ended."""
    log = CloudLog(logs, "first")
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["a", "b"], token="f/1")
    answer_events(logs, "algo-1-100", [], after="f/1", token="f/2")
    answer_events(logs, "algo-1-100", ["c"], after="f/2", token="f/3")
    answer_events(logs, "algo-1-100", [], after="f/3", token="f/3")
    # Ctrl-C strikes between two lines: what was not taken comes first the next time.
    assert list(islice(log.new_lines(), 2)) == ["a", "b"]
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["d"], after="f/3", token="f/4")
    answer_events(logs, "algo-1-100", [], after="f/4", token="f/4")
    assert list(log.new_lines()) == ["c", "d"]


def test_before_an_accounts_first_line_there_is_no_group(logs):
    """Other refusals are not passed over."""
    logs.stubber.add_client_error("describe_log_streams", "ResourceNotFoundException")
    assert list(CloudLog(logs, "first").new_lines()) == []
    logs.stubber.add_client_error("describe_log_streams", "AccessDeniedException")
    with pytest.raises(ClientError):
        list(CloudLog(logs, "first").new_lines())
