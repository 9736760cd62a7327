"""Reading CloudWatch as AWS responds: empty pages, several streams, no log group yet."""

from itertools import islice

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from launcher.backends.sagemaker.logs import GROUP, CloudLog

SESSION = boto3.Session("test", "test", region_name="us-east-1")


@pytest.fixture
def logs():
    """A client with stubbed responses, which validates each request against the service's model."""
    client = SESSION.client("logs")
    with Stubber(client) as stubber:
        client.stubber = stubber
        yield client
        stubber.assert_no_pending_responses()
    client.close()


def answer_streams(logs, streams):
    """Add the responses of one stream listing, with one stream per page."""
    asked = {"logGroupName": GROUP, "logStreamNamePrefix": "first/"}
    for number, name in enumerate(streams, 1):
        answer = {"logStreams": [{"logStreamName": f"first/{name}"}]}
        more = {"nextToken": str(number)} if number < len(streams) else {}
        logs.stubber.add_response("describe_log_streams", answer | more, asked)
        asked = asked | more


def answer_events(logs, stream, lines, *, after=None, token):
    """Add the response of one page of a stream from `after` on; `token` starts the next page."""
    asked = {"logGroupName": GROUP, "logStreamName": f"first/{stream}", "startFromHead": True}
    asked |= {"nextToken": after} if after else {}
    events = [{"timestamp": 1, "message": line, "ingestionTime": 1} for line in lines]
    answer = {"events": events, "nextForwardToken": token, "nextBackwardToken": "b"}
    logs.stubber.add_response("get_log_events", answer, asked)


def test_all_pages_are_read_until_the_token_repeats(logs):
    """An empty page may have successors; the next call continues where the last one ended."""
    log = CloudLog(logs, "first")
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["a", "b"], token="f/1")
    answer_events(logs, "algo-1-100", [], after="f/1", token="f/2")
    answer_events(logs, "algo-1-100", ["c"], after="f/2", token="f/3")
    answer_events(logs, "algo-1-100", [], after="f/3", token="f/3")
    # Ctrl-C between two lines: the next call yields the remaining lines first.
    assert list(islice(log.new_lines(), 2)) == ["a", "b"]
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["d"], after="f/3", token="f/4")
    answer_events(logs, "algo-1-100", [], after="f/4", token="f/4")
    assert list(log.new_lines()) == ["c", "d"]


def test_a_missing_log_group_means_no_lines_yet(logs):
    """Other errors are raised."""
    logs.stubber.add_client_error("describe_log_streams", "ResourceNotFoundException")
    assert list(CloudLog(logs, "first").new_lines()) == []
    logs.stubber.add_client_error("describe_log_streams", "AccessDeniedException")
    with pytest.raises(ClientError):
        list(CloudLog(logs, "first").new_lines())
