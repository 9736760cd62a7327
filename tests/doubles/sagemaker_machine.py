"""A training host: fills /opt/ml from S3, runs the container, saves log lines and checkpoints.

It works like SageMaker's hosts: it downloads channels, writes configuration files, sends lines to
CloudWatch, syncs checkpoints in both directions and reads the reason of a failure.
"""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

from sagemaker_container import Executor, Network, ended_within
from sagemaker_job import Job
from sagemaker_transfer import Log, Mirror, Storage, download, download_listed, split

KILLED = 137
OUT_OF_MEMORY = (
    "Please use an instance type with more memory, or reduce the size of job data processed on an "
    "instance."
)


class Host:
    """One machine of a job: a new /opt/ml at `root`, and the container that mounts it."""

    def __init__(self, job: Job, storage: Storage, root: Path, name: str):
        self.job, self.storage, self.root, self.name = job, storage, root, name
        self.code = 0
        self._is_over = False
        self._log: Log | None = None
        self._checkpoints: Mirror | None = None

    def prepare(self, interface: str) -> str | None:
        """Fill /opt/ml; return AWS's error message if a channel is empty."""
        for name in ("input/config", "input/data", "model", "output/data"):
            (self.root / name).mkdir(parents=True)
        if missing := self._download_channels():
            return missing
        self._write_configuration(interface)
        self._restore_checkpoints()
        return None

    def start(self, executor: Executor, environment: dict[str, str], network: Network) -> None:
        self._executor = executor
        self._process = executor.start(self.root, self.name, environment, network)

    def listen(self) -> None:
        assert self._process.stdout
        job = self.job
        self._log = Log(self.storage, f"{job.name}/{self.name}", job.region, self._process.stdout)

    def ended_within(self, seconds: float) -> bool:
        """Wait for the end of the container's first process; then kill the others."""
        if self._is_over or not ended_within(seconds, self._process):
            return self._is_over
        self._clear_up()
        return True

    def send(self, number: signal.Signals) -> None:
        self._executor.send(self._process, number)

    def save(self) -> None:
        if self._log:
            self._log.flush()
        if self._checkpoints:
            self._checkpoints.push()

    def end(self) -> None:
        """Kill what is left of the container, and record its exit code."""
        if not self._is_over:
            self._clear_up()
        code = self._process.wait()
        self.code = code if code >= 0 else 128 - code
        if self._checkpoints:
            self._checkpoints.push()

    def _clear_up(self) -> None:
        self.send(signal.SIGKILL)
        self._is_over = True

    def failure(self) -> str:
        """Return AWS's failure reason: what the container wrote, and its exit code."""
        path = self.root / "output" / "failure"
        text = path.read_text("utf-8", "replace").strip()[:1024] if path.is_file() else ""
        if self.code == KILLED and not text:
            return f"ClientError: {OUT_OF_MEMORY}, exit code: {KILLED}"
        return f"AlgorithmError: {text}, exit code: {self.code}"

    def close(self) -> None:
        if self._log:
            self._log.finish()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.root.with_name(f"{self.root.name}-home"), ignore_errors=True)

    def _download_channels(self) -> str | None:
        """Download all channels; return AWS's error message if one is empty."""
        for channel in self.job.request.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            uri, is_manifest = source["S3Uri"], source["S3DataType"] == "ManifestFile"
            folder = self.root / "input" / "data" / channel["ChannelName"]
            folder.mkdir()
            if not (download_listed if is_manifest else download)(self.storage, uri, folder):
                return (
                    f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" '
                    "given in input data source. Please ensure that the bucket exists in the "
                    f"selected region ({self.job.region}), that objects exist under that S3 "
                    f'prefix, and that the role "{self.job.request["RoleArn"]}" has '
                    f'"s3:ListBucket" permissions on bucket "{split(uri)[0]}".'
                )
        return None

    def _write_configuration(self, interface: str) -> None:
        request, hosts = self.job.request, self.job.host_names
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
                "current_host": self.name,
                "current_instance_type": self.job.instance,
                "current_group_name": "homogeneousCluster",
                "hosts": hosts,
                "instance_groups": [group | {"hosts": hosts}],
                "network_interface_name": interface,
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


def channel_facts(channel: dict[str, Any], mode: str) -> dict[str, str]:
    """Return a channel's entry in inputdataconfig.json."""
    source = channel["DataSource"]["S3DataSource"]
    facts = {
        "TrainingInputMode": channel.get("InputMode", mode),
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    return facts | ({"ContentType": channel["ContentType"]} if "ContentType" in channel else {})
