"""CloudWatch as AWS answers it: pages, empty ones among them, several streams, no group yet."""

from itertools import islice

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from launcher.cloud_logs import GROUP, CloudLog

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


def answer_streams(logs, *pages):
    """Answer one listing of streams, in so many pages."""
    asked = {"logGroupName": GROUP, "logStreamNamePrefix": "first/"}
    for number, page in enumerate(pages):
        more = {"nextToken": str(number + 1)} if number + 1 < len(pages) else {}
        token = {"nextToken": str(number)} if number else {}
        streams = [{"logStreamName": f"first/{name}"} for name in page]
        answer = {"logStreams": streams} | more
        logs.stubber.add_response("describe_log_streams", answer, asked | token)


def answer_events(logs, stream, lines, *, after=None, token):
    """Answer one reading of a stream, from `after` on; the next one is to begin at `token`."""
    asked = {"logGroupName": GROUP, "logStreamName": f"first/{stream}", "startFromHead": True}
    asked |= {"nextToken": after} if after else {}
    events = [{"timestamp": 1, "message": line, "ingestionTime": 1} for line in lines]
    answer = {"events": events, "nextForwardToken": token, "nextBackwardToken": "b"}
    logs.stubber.add_response("get_log_events", answer, asked)


def test_all_pages_are_read_until_one_is_the_same_again(logs):
    """A page may be empty with more behind it; only its own token says that it is the last."""
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["a", "b"], token="f/1")
    answer_events(logs, "algo-1-100", [], after="f/1", token="f/2")
    answer_events(logs, "algo-1-100", ["c"], after="f/2", token="f/3")
    answer_events(logs, "algo-1-100", [], after="f/3", token="f/3")
    assert list(CloudLog(logs, "first").new_lines()) == ["a", "b", "c"]


def test_the_next_look_begins_where_the_last_one_ended(logs):
    log = CloudLog(logs, "first")
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["a"], token="f/1")
    answer_events(logs, "algo-1-100", [], after="f/1", token="f/1")
    assert list(log.new_lines()) == ["a"]
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["b"], after="f/1", token="f/2")
    answer_events(logs, "algo-1-100", [], after="f/2", token="f/2")
    assert list(log.new_lines()) == ["b"]


def test_the_lines_of_several_hosts_follow_their_names(logs):
    """Streams come in pages as well."""
    answer_streams(logs, ["algo-1-100"], ["algo-2-101"])
    for stream in ("algo-1-100", "algo-2-101"):
        answer_events(logs, stream, [f"of {stream}"], token="f/1")
        answer_events(logs, stream, [], after="f/1", token="f/1")
    assert list(CloudLog(logs, "first").new_lines()) == [
        "algo-1: of algo-1-100",
        "algo-2: of algo-2-101",
    ]


def test_a_host_and_the_one_that_took_its_place_are_one(logs):
    """After an interruption a spot job has two streams, and still no need of names."""
    answer_streams(logs, ["algo-1-100", "algo-1-200"])
    for stream in ("algo-1-100", "algo-1-200"):
        answer_events(logs, stream, [f"of {stream}"], token="f/1")
        answer_events(logs, stream, [], after="f/1", token="f/1")
    assert list(CloudLog(logs, "first").new_lines()) == ["of algo-1-100", "of algo-1-200"]


def test_lines_that_were_read_and_not_taken_come_first_the_next_time(logs):
    """Ctrl-C strikes between two lines."""
    log = CloudLog(logs, "first")
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["a", "b", "c"], token="f/1")
    answer_events(logs, "algo-1-100", [], after="f/1", token="f/1")
    assert list(islice(log.new_lines(), 1)) == ["a"]
    answer_streams(logs, ["algo-1-100"])
    answer_events(logs, "algo-1-100", ["d"], after="f/1", token="f/2")
    answer_events(logs, "algo-1-100", [], after="f/2", token="f/2")
    assert list(log.new_lines()) == ["b", "c", "d"]


def test_before_an_accounts_first_line_there_is_no_group(logs):
    logs.stubber.add_client_error("describe_log_streams", "ResourceNotFoundException")
    assert list(CloudLog(logs, "first").new_lines()) == []


def test_other_refusals_are_not_passed_over(logs):
    logs.stubber.add_client_error("describe_log_streams", "AccessDeniedException")
    with pytest.raises(ClientError):
        list(CloudLog(logs, "first").new_lines())
