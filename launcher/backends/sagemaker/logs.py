"""A training job's log lines, from CloudWatch, and its status changes: each once, in order."""

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from launcher.aws import sessions as aws
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
        self._changes_seen = 0

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
                self._show_new(view, found.get("SecondaryStatusTransitions", []))
                polls_after_end += found["TrainingJobStatus"] in ENDED
                if polls_after_end > LAST_POLLS:
                    return
                time.sleep(LAST_PAUSE_SECONDS if polls_after_end else PAUSE_SECONDS)

    def _show_new(self, view: View, changes: list[dict[str, Any]]) -> None:
        for number, change in enumerate(changes[self._changes_seen :], self._changes_seen):
            self._changes_seen += 1
            view.show_status(_status(change, changes[: number + 1]))
        for line in self.new_lines():
            view.print_line(line)


def _status(change: dict[str, Any], so_far: list[dict[str, Any]]) -> Status:
    billed = [each["StartTime"] for each in so_far if each["Status"] in BILLED]
    return Status(
        change["Status"],
        change.get("StatusMessage", ""),
        change.get("StartTime") or datetime.now(UTC),
        billed_since=billed[0] if billed else None,
        is_waiting=change["Status"] in WAITING,
    )
