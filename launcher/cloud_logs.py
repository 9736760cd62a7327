"""A training job's log lines, from CloudWatch, and its statuses: each once, in their order."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from launcher import aws
from launcher.ending import ENDED
from launcher.live import Live

GROUP = "/aws/sagemaker/TrainingJobs"
PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 1.0
# CloudWatch shows the last lines a little after the job's end.
LAST_LOOKS = 3


class CloudLog:
    """What a job has said since it was last asked; `client` is one of the service `logs`."""

    def __init__(self, client: Any, job: str) -> None:  # noqa: ANN401  boto3's have no type
        self._client = client
        self._job = job
        # Where each stream was read to, and what was read and not yet taken.
        self._tokens: dict[str, str] = {}
        self._waiting: deque[str] = deque()

    def new_lines(self) -> Iterator[str]:
        """Yield what is new; with several hosts, each line after its host's name.

        Whoever stops taking them, after Ctrl-C, gets the rest the next time.
        """
        streams = list(self._streams())
        hosts = {stream: self._host_of(stream) for stream in streams}
        # A host that was taken away and its successor have the same name.
        several = len(set(hosts.values())) > 1
        for stream in streams:
            self._read(stream, f"{hosts[stream]}: " if several else "")
        while self._waiting:
            yield self._waiting.popleft()

    def _host_of(self, stream: str) -> str:
        return stream.removeprefix(f"{self._job}/").rpartition("-")[0]

    def _streams(self) -> Iterator[str]:
        from botocore.exceptions import ClientError

        try:
            pages = self._client.get_paginator("describe_log_streams").paginate(
                logGroupName=GROUP, logStreamNamePrefix=f"{self._job}/"
            )
            for page in pages:
                yield from (stream["logStreamName"] for stream in page["logStreams"])
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


class Follower:
    """Follows a job to its end; after an interruption of ours it goes on where it was."""

    def __init__(self, job: str, sagemaker: Any, logs: Any) -> None:  # noqa: ANN401
        """Take the job's name and clients of two services."""
        self._job = job
        self._sagemaker = sagemaker
        self._log = CloudLog(logs, job)
        self._changes_seen = 0

    def show(self, to: TextIO) -> None:
        """Show what is new until the job has ended."""
        looks = 0
        with aws.explained(f"following the training job {self._job}"), Live(to) as live:
            while True:
                looks += self._show_news(live) in ENDED
                if looks > LAST_LOOKS:
                    return
                time.sleep(LAST_PAUSE_SECONDS if looks else PAUSE_SECONDS)

    def _show_news(self, live: Live) -> str:
        found = self._sagemaker.describe_training_job(TrainingJobName=self._job)
        changes = found.get("SecondaryStatusTransitions", [])
        for change in changes[self._changes_seen :]:
            self._changes_seen += 1
            live.say(f"-- {change['Status']}: {change.get('StatusMessage', '')}".rstrip(": "))
        for line in self._log.new_lines():
            live.say(line)
        return str(found["TrainingJobStatus"])
