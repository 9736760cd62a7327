"""Reading CloudWatch as AWS responds: empty pages, several streams, no log group yet."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from launcher.backends.sagemaker.logs import GROUP, CloudLog, _statuses, current_status

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


CAPACITY = "Insufficient capacity error from EC2 while launching instances, retrying!"


def described(*changes, status="InProgress", **resources):
    """Return a job's description; a change is a status, a message and its age in minutes."""
    keys, now = ("Status", "StatusMessage", "StartTime"), datetime.now(UTC)
    found = [
        dict(zip(keys, (a, b, now - timedelta(minutes=c)), strict=True)) for a, b, c in changes
    ]
    kind = resources or {"InstanceType": "ml.g5.2xlarge"}
    return {
        "TrainingJobStatus": status, "SecondaryStatusTransitions": found, "ResourceConfig": kind,
    }  # fmt: skip


class Shown:
    """A view that keeps what it shows."""

    def __init__(self):
        self.statuses = []

    def show_status(self, status):
        self.statuses.append(status.text)

    def print_line(self, line):
        self.statuses.append(line)


def test_a_status_is_shown_again_if_its_message_changes(monkeypatch):
    """While a job waits for capacity, nothing else changes."""
    monkeypatch.setattr(CloudLog, "new_lines", lambda _: [])
    log, view = CloudLog(None, "first"), Shown()
    first, second = ("Starting", "Launching requested ML instances", 1), ("Starting", CAPACITY, 1)
    training = ("Training", "", 0)
    for changes in ([first], [first], [second], [second], [first], [first, training]):
        log._show_new(view, described(*changes))
    assert view.statuses == [
        "Starting: Launching requested ML instances",
        f"Starting: {CAPACITY}",
        "Starting: Launching requested ML instances",
        "Training",
    ]


@pytest.mark.parametrize(
    ("changes", "fields", "advice"),
    [
        ([("Starting", CAPACITY, 9)], {}, ""),
        ([("Starting", CAPACITY, 11)], {}, "`--instance-type ml.g5.2xlarge --instance-type ml.g6."),
        # Whatever the message says: AWS may change it.
        ([("Pending", "", 11)], {}, "stop the run and launch it again"),
        ([("Starting", CAPACITY, 20), ("Downloading", "", 12)], {}, ""),
        ([("Starting", "", 20), ("Failed", "", 12)], {"status": "Failed"}, ""),
        ([("Starting", CAPACITY, 20)], {"InstanceType": "ml.odd"}, "`--instance-type ml.odd`"),
        (
            [("Starting", CAPACITY, 20)],
            {"InstancePreferences": [{"InstanceType": "ml.g6.xlarge"}]},
            "--instance-type ml.g6.xlarge --instance-type ml.g6.2xlarge",
        ),
    ],
)
def test_a_long_wait_gets_advice(changes, fields, advice):
    """After ten minutes, in states in which a job may wait for capacity."""
    *_, last = _statuses(described(*changes, **fields), datetime.now(UTC))
    assert bool(last.advice) == bool(advice)
    assert advice in last.advice


def test_the_current_status_is_one_line():
    found = described(("Starting", "Preparing the instances for training.", 1))
    assert current_status(found) == "Starting: Preparing the instances for training"
    assert current_status(described()) == ""
