"""A training job's life on its hosts: /opt/ml filled from S3, the command run, results taken home.

A host does what SageMaker's does: channels and configuration in, lines to CloudWatch, checkpoints
both ways, signals and their grace, results and the reason of a failure out.
"""

import json
import math
import shutil
import signal
import subprocess
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sagemaker_container import Executor, Process, ended_within
from sagemaker_job import Job
from sagemaker_transfer import Log, Mirror, Storage, archive, download, split

# Between two looks at the container, its lines and its checkpoints.
TICK_SECONDS = 0.3


@dataclass
class Settings:
    """What a test may choose; the rest is as on AWS, but for the waiting."""

    executor: Executor = field(default_factory=Process)
    grace_seconds: float = 120.0
    # How long a host lets wait for itself: the first one, and each after an interruption.
    starting_seconds: float = 0.0
    # The last lines arrive so long after the job's end.
    log_delay_seconds: float = 0.5
    keep_workspaces: bool = False
    # Instance types of which there is none left.
    without_capacity: set[str] = field(default_factory=set)


class Life(threading.Thread):
    """A job from its first host to its last line."""

    def __init__(
        self,
        job: Job,
        storage: Storage,
        folder: Path,
        settings: Settings,
        environment: dict[str, str],
    ):
        super().__init__(name=job.name, daemon=True)
        self.job, self.storage, self.folder, self.settings = job, storage, folder, settings
        self.environment = environment
        self._retries = job.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)

    def run(self) -> None:
        try:
            self._find_capacity()
            while self.job.ended is None and not self.job.abandoned.is_set():
                self._wait_for_a_host()
                if self.job.ended is None:
                    self._use_a_host()
        except Exception as error:  # noqa: BLE001  a job never dies in silence
            traceback.print_exc()
            self.job.fail(f"InternalServerError: the test server itself failed: {error!r}")

    def _find_capacity(self) -> None:
        """Take the first of the preferred instance types that is to be had."""
        resources = self.job.request["ResourceConfig"]
        wanted = [r["InstanceType"] for r in resources.get("InstancePreferences", [resources])]
        left = [name for name in wanted if name not in self.settings.without_capacity]
        if left:
            self.job.instance = left[0]
            return
        self.job.fail(
            "CapacityError: Unable to provision requested ML compute capacity. Please retry using "
            "a different ML instance type."
        )

    def _wait_for_a_host(self) -> None:
        deadline = time.monotonic() + self.settings.starting_seconds
        while time.monotonic() < deadline and not self.job.stop_reason:
            if self.job.abandoned.wait(0.02):
                return
            self.job.heed_limits()
        if self.job.stop_reason:
            self.job.end("Stopped", self.job.stop_reason, "Training job stopped")

    def _use_a_host(self) -> None:
        root = self.folder / f"{self.job.name}-{len(self.job.workspaces) + 1}"
        self.job.workspaces.append(root)
        host = Host(self.job, self.storage, root, self.settings, self.environment)
        self.job.enter_host()
        try:
            host.work()
            self.job.leave_host()
            if self.job.interrupted.is_set() and self.job.ended is None:
                self._go_on_elsewhere()
        finally:
            # The lines that were not yet sent come late, as on AWS.
            self.job.abandoned.wait(self.settings.log_delay_seconds if self.job.ended else 0)
            host.close()

    def _go_on_elsewhere(self) -> None:
        self.job.interrupted.clear()
        if not self.job.is_spot and not self._retries:
            internal = "We encountered an internal error. Please try again."
            self.job.fail(f"InternalServerError: {internal}")
            return
        self._retries -= not self.job.is_spot
        self.job.move("InProgress", "Interrupted", "Training job interrupted")
        self.job.move("InProgress", "Restarting", "Preparing the instances for training")


class Host:
    """One machine that works for a job: a fresh /opt/ml at `root`, and the container on it."""

    def __init__(
        self,
        job: Job,
        storage: Storage,
        root: Path,
        settings: Settings,
        environment: dict[str, str],
    ):
        self.job, self.storage, self.root, self.settings = job, storage, root, settings
        self.environment = environment
        self._log: Log | None = None
        self._checkpoints: Mirror | None = None

    def work(self) -> None:
        """Go on with the job until it has ended, or this host is taken away."""
        job = self.job
        job.move("InProgress", "Downloading", "Downloading the training image")
        for name in ("input/config", "input/data", "model", "output/data"):
            (self.root / name).mkdir(parents=True)
        missing = self._download_channels()
        if missing:
            job.fail(missing)
            return
        self._write_configuration()
        self._restore_checkpoints()
        code = self._train() if not job.stop_reason else 0
        if job.abandoned.is_set() or (job.interrupted.is_set() and not job.stop_reason):
            return
        self._upload(code)
        if job.stop_reason:
            job.end("Stopped", job.stop_reason, "Training job stopped")
        elif code == 0:
            job.end("Completed", "Completed", "Training job completed")
        else:
            job.fail(f"AlgorithmError: {self._failure()}, exit code: {code}")

    def close(self) -> None:
        """Send the last lines, and leave nothing."""
        if self._log:
            self._log.finish()
        if not self.settings.keep_workspaces:
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.root.with_name(f"{self.root.name}-home"), ignore_errors=True)

    def _download_channels(self) -> str | None:
        """Fetch all input; return what AWS says where there is none."""
        for channel in self.job.request.get("InputDataConfig", []):
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            folder = self.root / "input" / "data" / channel["ChannelName"]
            folder.mkdir()
            if not download(self.storage, uri, folder):
                return (
                    f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" '
                    "given in input data source. Please ensure that the bucket exists in the "
                    f"selected region ({self.job.region}), that objects exist under that S3 "
                    f'prefix, and that the role "{self.job.request["RoleArn"]}" has '
                    f'"s3:ListBucket" permissions on bucket "{split(uri)[0]}".'
                )
        return None

    def _write_configuration(self) -> None:
        request = self.job.request
        mode = request["AlgorithmSpecification"]["TrainingInputMode"]
        channels = {
            channel["ChannelName"]: channel_facts(channel, mode)
            for channel in request.get("InputDataConfig", [])
        }
        group = {"instance_group_name": "homogeneousCluster", "instance_type": self.job.instance}
        documents = {
            "hyperparameters": request.get("HyperParameters", {}),
            "inputdataconfig": channels,
            "resourceconfig": {
                "current_host": "algo-1",
                "current_instance_type": self.job.instance,
                "current_group_name": "homogeneousCluster",
                "hosts": ["algo-1"],
                "instance_groups": [group | {"hosts": ["algo-1"]}],
                "network_interface_name": "eth0",
            },
        }
        if "CheckpointConfig" in request:
            local = {"LocalPath": self.job.checkpoint_folder}
            documents["checkpointconfig"] = request["CheckpointConfig"] | local
        for name, document in documents.items():
            path = self.root / "input" / "config" / f"{name}.json"
            path.write_text(json.dumps(document), "utf-8")

    def _restore_checkpoints(self) -> None:
        config = self.job.request.get("CheckpointConfig")
        if config:
            folder = self.root / Path(self.job.checkpoint_folder).relative_to("/opt/ml")
            folder.mkdir(parents=True, exist_ok=True)
            self._checkpoints = Mirror(self.storage, folder, config["S3Uri"])
            self._checkpoints.restore()

    def _train(self) -> int:
        """Run the container to its end; return its exit code."""
        executor, job = self.settings.executor, self.job
        process = executor.start(self.root, self._environment(), isolated=job.is_isolated)
        assert process.stdout
        downloaded = "Training image download completed. Training in progress."
        job.move("InProgress", "Training", downloaded)
        self._log = Log(self.storage, job.name, job.region, process.stdout)
        try:
            self._watch(process, self._log)
        finally:
            # A container's other processes end with its first.
            executor.send(process, signal.SIGKILL)
            code = process.wait()
        self._save_checkpoints()
        job.exit_codes.append(code if code >= 0 else 128 - code)
        return job.exit_codes[-1]

    def _watch(self, process: subprocess.Popen[bytes], log: Log) -> None:
        """Save what the container says and keeps, until it ends: by itself, asked to or killed."""
        terminated = math.inf
        while not ended_within(TICK_SECONDS, process):
            log.flush()
            self._save_checkpoints()
            if self._must_end() and terminated == math.inf:
                self.settings.executor.send(process, signal.SIGTERM)
                terminated = time.monotonic()
            overdue = time.monotonic() - terminated > self.settings.grace_seconds
            if overdue or self.job.abandoned.is_set():
                self.settings.executor.send(process, signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        job = self.job
        ours = {
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": job.arn,
            "AWS_REGION": job.region,
            # The machine that plays the host may have credentials of its own.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        reachable = {} if job.is_isolated else self.environment
        return ours | reachable | job.request.get("Environment", {})

    def _must_end(self) -> bool:
        self.job.heed_limits()
        return bool(self.job.stop_reason) or self.job.interrupted.is_set()

    def _save_checkpoints(self) -> None:
        if self._checkpoints:
            self._checkpoints.push()

    def _upload(self, code: int) -> None:
        """Take the results home; after a failure those of the data folder only."""
        if code == 0 or self.job.stop_reason:
            self.job.move("InProgress", "Uploading", "Uploading generated training model")
            self.job.artifacts = self._upload_folder("model", "model/", "model.tar.gz")
        self._upload_folder("output/data", "data/", "output.tar.gz")

    def _upload_folder(self, name: str, prefix: str, archive_name: str) -> str | None:
        """Upload a folder's files, or an archive of them; return where they are then."""
        folder, config = self.root / name, self.job.request["OutputDataConfig"]
        if not any(folder.iterdir()):
            return None
        target = f"{config['S3OutputPath'].rstrip('/')}/{self.job.name}/output"
        if config.get("CompressionType") == "NONE":
            Mirror(self.storage, folder, f"{target}/{prefix}").push()
            return f"{target}/{prefix}"
        self.storage.put(*split(f"{target}/{archive_name}"), archive(folder))
        return f"{target}/{archive_name}"

    def _failure(self) -> str:
        path = self.root / "output" / "failure"
        return path.read_text("utf-8", "replace").strip()[:1024] if path.is_file() else ""


def channel_facts(channel: dict[str, Any], mode: str) -> dict[str, str]:
    """Return a channel's entry in inputdataconfig.json."""
    source = channel["DataSource"]["S3DataSource"]
    facts = {
        "TrainingInputMode": channel.get("InputMode", mode),
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    return facts | ({"ContentType": channel["ContentType"]} if "ContentType" in channel else {})
