"""Builds on AWS CodeBuild: start one, follow its log, stop it."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError, BuildFailed, Stopped
from launcher.aws import sessions
from launcher.aws.account import options

if TYPE_CHECKING:
    import boto3

Answer = dict[str, Any]
Show = Callable[[str], None]
# CloudWatch shows the last lines shortly after the build's end.
PAUSE_SECONDS, LAST_PAUSE_SECONDS, LAST_POLLS = 3.0, 1.0, 3
# New accounts may have a quota of zero.
NO_CAPACITY = (
    "This account may not run more builds now ({reason}): wait for others to end, or ask AWS for a "
    "higher quota `Concurrently running builds for Linux/Medium environment` of CodeBuild."
)


def build_request(project: str, location: str, variables: dict[str, str]) -> Answer:
    """Return the `StartBuild` request; `location` is `bucket/key` of the source's archive."""
    return {
        "projectName": project,
        "sourceLocationOverride": location,
        "environmentVariablesOverride": [
            {"name": name, "value": value, "type": "PLAINTEXT"}
            for name, value in sorted(variables.items())
        ],
    }


def run_build(session: "boto3.Session", request: Answer, show: Show) -> None:
    """Run a build and show its log; Ctrl-C stops it.

    Raises `BuildFailed` if it fails, `Stopped` if it is stopped, and `BackendError` if AWS refuses
    it or cannot be asked about it.
    """
    build = _Build(session, _start(session, request))
    show(f"Build {build.id}; Ctrl-C stops it")
    try:
        build.follow(show)
    except KeyboardInterrupt:
        show("Stopping the build …")
        build.stop(show)
    except BackendError as error:
        msg = f"{error} The build continues; to stop it: {build.stop_command}."
        raise BackendError(msg) from None


def _start(session: "boto3.Session", request: Answer) -> str:
    from botocore.exceptions import ClientError

    client = sessions.client(session, "codebuild")
    with sessions.translate_errors("starting the build"):
        try:
            return str(client.start_build(**request)["build"]["id"])
        except ClientError as error:
            if sessions.error_code(error) != "AccountLimitExceededException":
                raise
            msg = NO_CAPACITY.format(reason=sessions.error_message(error))
            raise BackendError(msg) from None


class _Build:
    """A started build; following it again continues after the last line that was shown."""

    def __init__(self, session: "boto3.Session", build_id: str) -> None:
        self.id = build_id
        self.stop_command = f"`aws codebuild stop-build --id {build_id}{options(session)}`"
        self._client = sessions.client(session, "codebuild")
        self._logs = sessions.client(session, "logs")
        self._phase = ""
        self._token: str | None = None

    def follow(self, show: Show) -> None:
        """Show phases and log lines until the build has ended; raise unless it succeeded."""
        polls_after_end = 0
        with sessions.translate_errors(f"following the build {self.id}"):
            while True:
                found = self._client.batch_get_builds(ids=[self.id])["builds"][0]
                self._show_new(found, show)
                polls_after_end += bool(found["buildComplete"])
                if polls_after_end > LAST_POLLS:
                    break
                time.sleep(LAST_PAUSE_SECONDS if polls_after_end else PAUSE_SECONDS)
        self._require_success(found)

    def stop(self, show: Show) -> None:
        """Stop it and wait for its end; says how to stop it if this fails or is interrupted."""
        try:
            with sessions.translate_errors(f"stopping the build {self.id}"):
                self._client.stop_build(id=self.id)
            self.follow(show)
        except (BackendError, KeyboardInterrupt) as error:
            reason = str(error) or "Interrupted."
            msg = f"{reason} The build may continue; to stop it: {self.stop_command}."
            raise BackendError(msg) from None

    def _show_new(self, found: Answer, show: Show) -> None:
        # The log shows the phases from INSTALL on.
        if found["currentPhase"] != self._phase and self._token is None:
            self._phase = found["currentPhase"]
            show(f"{self._phase.lower().replace('_', ' ')} …")
        for line in self._new_lines(found.get("logs", {})):
            show(line)

    def _new_lines(self, logs: Answer) -> Iterator[str]:
        from botocore.exceptions import ClientError

        # Until the build runs, its stream has no name or does not exist.
        while logs.get("streamName"):
            position = {"nextToken": self._token} if self._token else {}
            stream = {"logGroupName": logs["groupName"], "logStreamName": logs["streamName"]}
            try:
                answer = self._logs.get_log_events(**stream, startFromHead=True, **position)
            except ClientError as error:
                if sessions.error_code(error) != "ResourceNotFoundException":
                    raise
                return
            yield from (event["message"].rstrip("\n") for event in answer["events"])
            # At the end of a stream CloudWatch returns the same token again.
            before, self._token = self._token, answer["nextForwardToken"]
            if self._token == before:
                return

    def _require_success(self, found: Answer) -> None:
        status = found["buildStatus"]
        if status == "SUCCEEDED":
            return
        if status == "STOPPED":
            msg = f"The build {self.id} was stopped."
            raise Stopped(msg)
        link = found.get("logs", {}).get("deepLink")
        msg = f"The build {self.id} ended with {status}: {_reason(found)}."
        raise BuildFailed(f"{msg} Its log: {link}" if link else msg)


def _reason(found: Answer) -> str:
    """Return the first phase that did not succeed, and AWS's explanation."""
    for phase in found.get("phases", []):
        if phase.get("phaseStatus", "SUCCEEDED") != "SUCCEEDED":
            texts = [context.get("message", "") for context in phase.get("contexts", [])]
            return ", ".join([f"in the phase {phase['phaseType']}", *filter(None, texts)])
    return "AWS gives no reason"
