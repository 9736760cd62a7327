"""A training job followed to its end: each status and line once, over interruptions of ours."""

import time
from typing import Any, TextIO

from launcher import aws
from launcher.cloud_logs import CloudLog
from launcher.ending import ENDED
from launcher.live import Live

PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 1.0
# CloudWatch shows the last lines a little after the job's end.
LAST_LOOKS = 3


class Following:
    def __init__(self, job: str, sagemaker: Any, logs: Any, to: TextIO) -> None:  # noqa: ANN401
        """Take the job's name, clients of two services, and where its lines go."""
        self._job = job
        self._sagemaker = sagemaker
        self._log = CloudLog(logs, job)
        self._to = to
        self._changes_seen = 0

    def until_end(self) -> dict[str, Any]:
        """Show what is new until the job has ended; returns its description."""
        looks = 0
        with aws.explained(f"following the training job {self._job}"), Live(self._to) as live:
            while True:
                found = self._show_news(live)
                looks += found["TrainingJobStatus"] in ENDED
                if looks > LAST_LOOKS:
                    return found
                time.sleep(LAST_PAUSE_SECONDS if looks else PAUSE_SECONDS)

    def _show_news(self, live: Live) -> dict[str, Any]:
        found: dict[str, Any] = self._sagemaker.describe_training_job(TrainingJobName=self._job)
        changes = found.get("SecondaryStatusTransitions", [])
        for change in changes[self._changes_seen :]:
            self._changes_seen += 1
            live.say(f"-- {change['Status']}: {change.get('StatusMessage', '')}".rstrip(": "))
        for line in self._log.new_lines():
            live.say(line)
        return found
