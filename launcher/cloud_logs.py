"""The log lines of a training job, from CloudWatch: each once, in the order of its stream."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from launcher import aws

GROUP = "/aws/sagemaker/TrainingJobs"


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
