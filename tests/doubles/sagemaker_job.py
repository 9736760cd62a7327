"""A training job's state: its request, its progress, and its description as in SageMaker."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

DEFAULT_RUNTIME_SECONDS = 86_400
# The length limit of `FailureReason`: with a long text, the exit code at its end is lost.
FAILURE_CHARACTERS = 1024
SWITCHES = (
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
)


class Job:
    """One training job: its request and its current state."""

    def __init__(self, body: bytes, region: str, account: str):
        self.body = body
        self.request: dict[str, Any] = json.loads(body)
        self.name: str = self.request["TrainingJobName"]
        self.region = region
        self.arn = f"arn:aws:sagemaker:{region}:{account}:training-job/{self.name.lower()}"
        self.created = self.modified = time.time()
        self.started: float | None = None
        self.ended: float | None = None
        self.transitions: list[dict[str, Any]] = []
        self.failure_reason: str | None = None
        self.artifacts: str | None = None
        self.instance: str | None = None
        # For each attempt: the exit code, and the codes of its hosts by name.
        self.exit_codes: list[int] = []
        self.host_codes: list[dict[str, int]] = []
        # For each attempt in order: the workspaces of all its hosts.
        self.workspaces: list[Path] = []
        # The final secondary status of a stopping job: `Stopped`, `MaxRuntimeExceeded` …
        self.stop_reason: str | None = None
        # A notice that spot capacity ends, and its end; the loss of a host without a notice.
        self.interrupted, self.reclaimed = threading.Event(), threading.Event()
        self.lost = threading.Event()
        # Whether its containers were killed because of that.
        self.taken = threading.Event()
        self.abandoned = threading.Event()
        self.retries_left: int = self.request.get("RetryStrategy", {}).get(
            "MaximumRetryAttempts", 0
        )
        # Status messages that a description has shown.
        self.shown: set[str] = set()
        # The URIs of the uploaded results.
        self.uploaded: list[str] = []
        # Whether the account's quota lets it keep machines, and when a user ended these.
        self.keeps_pool = True
        self.pool_ended: float = math.inf
        self._billed_seconds = 0.0
        self._on_host_since: float | None = None
        self._lock = threading.RLock()
        self.move("InProgress", "Starting", "Preparing the instances for training")

    @property
    def is_isolated(self) -> bool:
        return bool(self.request.get("EnableNetworkIsolation"))

    @property
    def is_spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def host_names(self) -> list[str]:
        """The names of its hosts, as many as requested of the chosen instance type."""
        resources = self.request["ResourceConfig"]
        wanted = resources.get("InstancePreferences", [resources])
        count = next(r["InstanceCount"] for r in wanted if r["InstanceType"] == self.instance)
        return [f"algo-{number}" for number in range(1, count + 1)]

    @property
    def checkpoint_folder(self) -> str:
        config = self.request.get("CheckpointConfig", {})
        return str(config.get("LocalPath", "/opt/ml/checkpoints"))

    @property
    def _limits(self) -> dict[str, Any]:
        given = self.request.get("StoppingCondition", {})
        return {"MaxRuntimeInSeconds": DEFAULT_RUNTIME_SECONDS} | given

    def enforce_limits(self) -> None:
        """Stop the job if it exceeds its maximum runtime or its maximum wait time."""
        if self.billed_seconds > self._limits["MaxRuntimeInSeconds"]:
            self.stop("MaxRuntimeExceeded")
        if time.time() - self.created > self._limits.get("MaxWaitTimeInSeconds", math.inf):
            self.stop("MaxWaitTimeExceeded")

    def move(self, status: str, secondary: str, message: str) -> None:
        """Enter a stage; a stopping job stays `Stopping` through its remaining stages."""
        with self._lock:
            now = time.time()
            if self.stop_reason and status == "InProgress":
                status = "Stopping"
            if self.transitions:
                self.transitions[-1]["EndTime"] = now
            entry = {"Status": secondary, "StartTime": now, "StatusMessage": message}
            self.transitions.append(entry)
            self.status, self.secondary, self.modified = status, secondary, now

    def say(self, message: str) -> None:
        """Change the message of the current stage."""
        with self._lock:
            self.transitions[-1]["StatusMessage"] = message

    def end(self, status: str, secondary: str, message: str) -> None:
        with self._lock:
            self.leave_host()
            self.move(status, secondary, message)
            self.ended = self.transitions[-1]["EndTime"] = self.modified

    def fail(self, reason: str) -> None:
        with self._lock:
            self.failure_reason = reason[:FAILURE_CHARACTERS]
            self.end("Failed", "Failed", "Training job failed")

    def stop(self, reason: str) -> bool:
        """Stop the job with `reason` as final secondary status; False if it has ended."""
        with self._lock:
            if self.ended is None and self.stop_reason is None:
                self.stop_reason = reason
                self.move("Stopping", "Stopping", "Stopping the training job")
            return self.ended is None

    def enter_host(self) -> None:
        with self._lock:
            self._on_host_since = time.time()
            self.started = self.started or self._on_host_since

    def leave_host(self) -> None:
        with self._lock:
            self._billed_seconds, self._on_host_since = self.billed_seconds, None

    @property
    def billed_seconds(self) -> float:
        since = self._on_host_since
        return self._billed_seconds + (time.time() - since if since else 0.0)

    def describe(self) -> dict[str, Any]:
        """Return the response of `DescribeTrainingJob`: the request and the state."""
        with self._lock:
            given = {name: value for name, value in self.request.items() if name != "Tags"}
            answer = dict.fromkeys(SWITCHES, False) | given | self.summary()
            answer["SecondaryStatusTransitions"] = [dict(entry) for entry in self.transitions]
            self.shown.add(self.transitions[-1]["StatusMessage"])
            answer["StoppingCondition"] = self._limits
            if self.instance and "InstancePreferences" in self.request["ResourceConfig"]:
                chosen = {
                    "SelectedInstanceType": self.instance,
                    "SelectedInstanceCount": len(self.host_names),
                }
                answer["ResourceConfig"] = self.request["ResourceConfig"] | chosen
            if self.started:
                answer["TrainingStartTime"] = self.started
            if self.started and self.ended:
                answer["TrainingTimeInSeconds"] = math.ceil(self.ended - self.started)
                answer["BillableTimeInSeconds"] = math.ceil(self._billed_seconds)
            if self.failure_reason:
                answer["FailureReason"] = self.failure_reason
            if pool := self.warm_pool:
                answer["WarmPoolStatus"] = pool
            if self.artifacts:
                answer["ModelArtifacts"] = {"S3ModelArtifacts": self.artifacts}
            return answer

    @property
    def warm_pool(self) -> dict[str, Any] | None:
        """`WarmPoolStatus`: machines are billed until their time is over or a user ends them."""
        seconds = self.request["ResourceConfig"].get("KeepAlivePeriodInSeconds")
        if not seconds or not self.keeps_pool:
            return None
        if self.ended is None:
            return {"Status": "InUse"}
        end = min(self.ended + seconds, self.pool_ended)
        billed = math.ceil(min(end, time.time()) - self.ended)
        status = "Terminated" if time.time() >= end else "Available"
        return {"Status": status, "ResourceRetainedBillableTimeInSeconds": billed}

    def summary(self) -> dict[str, Any]:
        """Return its entry in `ListTrainingJobs`."""
        with self._lock:
            line = {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "CreationTime": self.created,
                "LastModifiedTime": self.modified,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
            }
            return line | ({"TrainingEndTime": self.ended} if self.ended else {})
