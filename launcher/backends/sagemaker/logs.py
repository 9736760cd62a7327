"""A training job's log lines, from CloudWatch, and its status changes: each once, in order."""

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from launcher.aws import sessions as aws
from launcher.aws.pricing import similar_types
from launcher.backends.sagemaker.job_outcome import ENDED
from launcher.live.drawing import Status
from launcher.live.view import View

GROUP = "/aws/sagemaker/TrainingJobs"
PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 1.0
# CloudWatch shows the last lines shortly after the job's end.
LAST_POLLS = 3
# States before the job's program runs, and those that are billed.
WAITING = ("Starting", "LaunchingMLInstances", "PreparingTrainingStack", "Pending", "Interrupted",
           "Restarting", "Downloading", "DownloadingTrainingImage")  # fmt: skip
BILLED = ("Downloading", "Training", "Uploading")
# A machine usually starts within 2 to 6 minutes. After this time in these states, other instance
# types are worth a try. AWS advises against decisions by the messages.
FOR_CAPACITY, PATIENCE = ("Starting", "Pending", "Restarting"), timedelta(minutes=10)


class CloudLog:
    """Reads a job's log incrementally; `client` is a boto3 client of the service `logs`.

    After Ctrl-C, reading continues at the next unread line.
    """

    def __init__(self, client: Any, job: str) -> None:  # noqa: ANN401  boto3's have no type
        self._client = client
        self._job = job
        # The position in each stream, and lines that are read but not yet yielded.
        self._tokens: dict[str, str] = {}
        self._pending: deque[str] = deque()
        # The changes that are shown, the last one with its message and advice.
        self._changes_seen, self._last = 0, ("", "")

    def new_lines(self) -> Iterator[str]:
        """Yield new lines; with several hosts, each line starts with the host's name.

        If the caller stops early, the next call yields the remaining lines.
        """
        streams = list(self._streams())
        own = f"{self._job}/"
        hosts = {name: name.removeprefix(own).rpartition("-")[0] for name in streams}
        # A spot host and its replacement have the same name.
        several = len(set(hosts.values())) > 1
        for stream in streams:
            self._read(stream, f"{hosts[stream]}: " if several else "")
        while self._pending:
            yield self._pending.popleft()

    def _streams(self) -> Iterator[str]:
        from botocore.exceptions import ClientError

        try:
            query = {"logGroupName": GROUP, "logStreamNamePrefix": f"{self._job}/"}
            for stream in aws.paginate(self._client, "describe_log_streams", "logStreams", **query):
                yield stream["logStreamName"]
        except ClientError as error:
            # The first log line of an account's first job creates the group.
            if aws.error_code(error) != "ResourceNotFoundException":
                raise

    def _read(self, stream: str, prefix: str) -> None:
        while True:
            position = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            answer = self._client.get_log_events(
                logGroupName=GROUP, logStreamName=stream, startFromHead=True, **position
            )
            self._pending += [prefix + event["message"] for event in answer["events"]]
            # At the end of a stream CloudWatch returns the same token again.
            token = answer["nextForwardToken"]
            if token == self._tokens.get(stream):
                return
            self._tokens[stream] = token

    def follow(self, sagemaker: Any, view: View) -> None:  # noqa: ANN401
        """Show new log lines and status changes until the job has ended."""
        polls_after_end = 0
        with aws.translate_errors(f"following the training job {self._job}"):
            while True:
                found = sagemaker.describe_training_job(TrainingJobName=self._job)
                self._show_new(view, found)
                polls_after_end += found["TrainingJobStatus"] in ENDED
                if polls_after_end > LAST_POLLS:
                    return
                time.sleep(LAST_PAUSE_SECONDS if polls_after_end else PAUSE_SECONDS)

    def _show_new(self, view: View, found: dict[str, Any]) -> None:
        statuses = list(_statuses(found, datetime.now(UTC)))
        if statuses:
            # While a job waits, only the message of its last status changes.
            last = (statuses[-1].message, statuses[-1].advice)
            is_news = len(statuses) == self._changes_seen and last != self._last
            for status in statuses[-1:] if is_news else statuses[self._changes_seen :]:
                view.show_status(status)
            self._changes_seen, self._last = len(statuses), last
        for line in self.new_lines():
            view.print_line(line)


def current_status(found: dict[str, Any]) -> str:
    """Return the status of a described job and its message in one line, with any advice."""
    status = list(_statuses(found, datetime.now(UTC)))[-1:]
    return ". ".join(part.rstrip(".") for s in status for part in (s.text, s.advice) if part)


def _statuses(found: dict[str, Any], now: datetime) -> Iterator[Status]:
    """Yield the statuses that a described job has had."""
    billed_since, changes = None, found.get("SecondaryStatusTransitions", [])
    for change in changes:
        name, since = change["Status"], change.get("StartTime") or now
        if name in BILLED:
            billed_since = billed_since or since
        is_last = change is changes[-1] and found["TrainingJobStatus"] not in ENDED
        waits_long = is_last and name in FOR_CAPACITY and now - since > PATIENCE
        yield Status(
            name,
            change.get("StatusMessage", ""),
            since,
            billed_since=billed_since,
            is_waiting=name in WAITING,
            advice=_other_machines(found) if waits_long else "",
        )


def _other_machines(found: dict[str, Any]) -> str:
    """Return what to do about a job that gets no machine."""
    resources = found["ResourceConfig"]
    wanted = [r["InstanceType"] for r in resources.get("InstancePreferences", [resources])]
    options = [f"--instance-type {kind}" for kind in [*wanted, *similar_types(wanted)]]
    spot = ", without `--spot`" if found.get("EnableManagedSpotTraining") else ""
    return f"To try other machines, stop the run and launch it again{spot}: `{' '.join(options)}`"
