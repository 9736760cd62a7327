"""A training job's log lines, from CloudWatch, and its statuses: each once, in their order."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from launcher.aws import sessions as aws
from launcher.backends.sagemaker.ending import ENDED
from launcher.runs.live import Live

GROUP = "/aws/sagemaker/TrainingJobs"
PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 1.0
# CloudWatch shows the last lines a little after the job's end.
LAST_LOOKS = 3


class CloudLog:
    """What a job has said since it was last asked; `client` is one of the service `logs`.

    After an interruption of ours it goes on where it was.
    """

    def __init__(self, client: Any, job: str) -> None:  # noqa: ANN401  boto3's have no type
        self._client = client
        self._job = job
        # Where each stream was read to, and what was read and not yet taken.
        self._tokens: dict[str, str] = {}
        self._waiting: deque[str] = deque()
        self._changes_seen = 0

    def new_lines(self) -> Iterator[str]:
        """Yield what is new; with several hosts, each line after its host's name.

        Whoever stops taking them, after Ctrl-C, gets the rest the next time.
        """
        streams = list(self._streams())
        own = f"{self._job}/"
        hosts = {name: name.removeprefix(own).rpartition("-")[0] for name in streams}
        # A host that was taken away and its successor have the same name.
        several = len(set(hosts.values())) > 1
        for stream in streams:
            self._read(stream, f"{hosts[stream]}: " if several else "")
        while self._waiting:
            yield self._waiting.popleft()

    def _streams(self) -> Iterator[str]:
        from botocore.exceptions import ClientError

        try:
            asked = {"logGroupName": GROUP, "logStreamNamePrefix": f"{self._job}/"}
            for stream in aws.listed(self._client, "describe_log_streams", "logStreams", **asked):
                yield stream["logStreamName"]
        except ClientError as error:
            # An account's first job makes the group when it says its first line.
            if aws.error_code(error) != "ResourceNotFoundException":
                raise

    def _read(self, stream: str, prefix: str) -> None:
        while True:
            given = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            answer = self._client.get_log_events(
                logGroupName=GROUP, logStreamName=stream, startFromHead=True, **given
            )
            self._waiting += [prefix + event["message"] for event in answer["events"]]
            # The end is where the next page is this one again.
            token = answer["nextForwardToken"]
            if token == self._tokens.get(stream):
                return
            self._tokens[stream] = token

    def follow(self, sagemaker: Any, to: TextIO) -> None:  # noqa: ANN401
        """Show what is new, statuses as well, until the job has ended."""
        looks = 0
        with aws.explained(f"following the training job {self._job}"), Live(to) as live:
            while True:
                found = sagemaker.describe_training_job(TrainingJobName=self._job)
                self._show_news(live, found.get("SecondaryStatusTransitions", []))
                looks += found["TrainingJobStatus"] in ENDED
                if looks > LAST_LOOKS:
                    return
                time.sleep(LAST_PAUSE_SECONDS if looks else PAUSE_SECONDS)

    def _show_news(self, live: Live, changes: list[dict[str, str]]) -> None:
        for change in changes[self._changes_seen :]:
            self._changes_seen += 1
            live.print_line(
                f"-- {change['Status']}: {change.get('StatusMessage', '')}".rstrip(": ")
            )
        for line in self.new_lines():
            live.print_line(line)
