"""A training job on its hosts: start them together, watch them to the end, upload the results.

Several hosts behave like SageMaker's, as far as that is known: a failed host is not replaced and
the others keep running, so the job must end by itself; the results of all hosts are merged, so two
hosts must not leave a file of the same name.
"""

import math
import shutil
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from sagemaker_container import Executor, Network, Process
from sagemaker_job import Job
from sagemaker_machine import Host
from sagemaker_transfer import Mirror, Storage, archive, split

# Between two polls of the containers, their log lines and their checkpoints.
TICK_SECONDS = 0.3


@dataclass
class Settings:
    """Options of a test; everything else is as on AWS, except for the waiting."""

    executor: Executor = field(default_factory=Process)
    grace_seconds: float = 120.0
    # Time until a host starts: the first one, and each one after an interruption.
    starting_seconds: float = 0.0
    # Delay of the last log lines after the job's end.
    log_delay_seconds: float = 0.5
    # Instance types that are not available.
    without_capacity: set[str] = field(default_factory=set)
    # Messages of jobs that wait for capacity, by name; each stays until a description shows it.
    waiting: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Life(threading.Thread):
    """A job from its first host to its last log line."""

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
        self._lives = 0

    def run(self) -> None:
        try:
            self._find_capacity()
            while self.job.ended is None and not self.job.abandoned.is_set():
                self._wait_for_hosts()
                if self.job.ended is None:
                    self._use_hosts()
        except Exception as error:  # noqa: BLE001  a bug of the double must fail the job visibly
            traceback.print_exc()
            self.job.fail(f"InternalServerError: the test server itself failed: {error!r}")

    def _find_capacity(self) -> None:
        """Choose the first of the preferred instance types that is available."""
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

    def _wait_for_hosts(self) -> None:
        for message in self.settings.waiting.get(self.job.name, ()):
            self.job.say(message)
            while message not in self.job.shown and not self.job.stop_reason:
                if self.job.abandoned.wait(0.02):
                    return
        deadline = time.monotonic() + self.settings.starting_seconds
        while time.monotonic() < deadline and not self.job.stop_reason:
            if self.job.abandoned.wait(0.02):
                return
            self.job.enforce_limits()
        if self.job.stop_reason:
            self.job.end("Stopped", self.job.stop_reason, "Training job stopped")

    def _use_hosts(self) -> None:
        job, executor = self.job, self.settings.executor
        self._lives += 1
        life, names = f"{job.name}-{self._lives}", job.host_names
        roots = [self.folder / (f"{life}-{n}" if len(names) > 1 else life) for n in names]
        job.workspaces += roots
        hosts = [Host(job, self.storage, root, n) for root, n in zip(roots, names, strict=True)]
        team = Team(job, self.storage, hosts, self.settings, self.environment)
        job.enter_host()
        name = f"{self.folder.name}-{life}"
        try:
            with executor.network(name, names, isolated=job.is_isolated) as network:
                team.work(network)
            job.leave_host()
            if job.taken.is_set() and job.ended is None:
                self._restart_on_another_host()
        finally:
            # The remaining lines arrive late, as on AWS.
            job.abandoned.wait(self.settings.log_delay_seconds if job.ended else 0)
            team.close()

    def _restart_on_another_host(self) -> None:
        job, is_interruption = self.job, self.job.interrupted.is_set()
        for event in (job.interrupted, job.reclaimed, job.lost, job.taken):
            event.clear()
        if is_interruption:
            job.move("InProgress", "Interrupted", "Training job interrupted")
            job.move("InProgress", "Restarting", "Preparing the instances for training")
        elif job.retries_left:
            job.retries_left -= 1
            job.move("InProgress", "Starting", "Preparing the instances for training")
        else:
            internal = "We encountered an internal error. Please try again."
            job.fail(f"InternalServerError: {internal}")


@dataclass(frozen=True)
class Team:
    """All current hosts of a job."""

    job: Job
    storage: Storage
    hosts: list[Host]
    settings: Settings
    environment: dict[str, str]

    def work(self, network: Network) -> None:
        """Run the job until it ends, or until these hosts are interrupted."""
        job = self.job
        job.move("InProgress", "Downloading", "Downloading the training image")
        for host in self.hosts:
            if missing := host.prepare(network.interface):
                job.fail(missing)
                return
        code = self._train(network) if not job.stop_reason else 0
        if job.abandoned.is_set() or (job.taken.is_set() and not job.stop_reason):
            return
        self._upload(code)
        if job.stop_reason:
            job.end("Stopped", job.stop_reason, "Training job stopped")
        elif code == 0:
            job.end("Completed", "Completed", "Training job completed")
        else:
            job.fail(self._failed().failure())

    def close(self) -> None:
        """Send the last lines and delete the hosts' files."""
        for host in self.hosts:
            host.close()

    def _train(self, network: Network) -> int:
        """Run the containers to their end; return the exit code of the first that failed."""
        job = self.job
        environment = self._environment() | network.environment
        for host in self.hosts:
            host.start(self.settings.executor, environment, network)
        downloaded = "Training image download completed. Training in progress."
        job.move("InProgress", "Training", downloaded)
        for host in self.hosts:
            host.listen()
        try:
            self._watch()
        finally:
            for host in self.hosts:
                host.end()
        job.host_codes.append({host.name: host.code for host in self.hosts})
        job.exit_codes.append(self._failed().code)
        return job.exit_codes[-1]

    def _failed(self) -> Host:
        """Return the first host that failed, or the first host; AWS's choice is not known."""
        return next((host for host in self.hosts if host.code), self.hosts[0])

    def _watch(self) -> None:
        """Save log lines and checkpoints until the containers end, are stopped or killed."""
        terminated = math.inf
        while not self._ended_within(TICK_SECONDS):
            for host in self.hosts:
                host.save()
            running = [host for host in self.hosts if not host.ended_within(0)]
            if self._must_end() and terminated == math.inf:
                terminated = time.monotonic()
                for host in running:
                    host.send(signal.SIGTERM)
            overdue = time.monotonic() - terminated > self.settings.grace_seconds
            events = (self.job.reclaimed, self.job.lost, self.job.abandoned)
            if overdue or any(event.is_set() for event in events):
                # A container that ends by itself before this has failed or completed.
                if running and (self.job.interrupted.is_set() or self.job.lost.is_set()):
                    self.job.taken.set()
                for host in running:
                    host.send(signal.SIGKILL)

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        # Poll all hosts, even after one that is still running.
        left = [h for h in self.hosts if not h.ended_within(max(0.0, deadline - time.monotonic()))]
        return not left

    def _environment(self) -> dict[str, str]:
        job = self.job
        variables = {
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": job.arn,
            # The machine that runs the tests may have credentials.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        endpoints = {} if job.is_isolated else self.environment
        return variables | endpoints | job.request.get("Environment", {})

    def _must_end(self) -> bool:
        self.job.enforce_limits()
        return bool(self.job.stop_reason) or self.job.interrupted.is_set()

    def _upload(self, code: int) -> None:
        """Upload the results; after a failure only the data folder."""
        if code == 0 or self.job.stop_reason:
            self.job.move("InProgress", "Uploading", "Uploading generated training model")
            self.job.artifacts = self._upload_folder("model", "model/", "model.tar.gz")
        self._upload_folder("output/data", "data/", "output.tar.gz")

    def _upload_folder(self, name: str, prefix: str, archive_name: str) -> str | None:
        """Upload a folder's files, or an archive of them; return the URI."""
        folder, config = self._gathered(name), self.job.request["OutputDataConfig"]
        files = [path for path in folder.rglob("*") if path.is_file()]
        if not files:
            return None
        target = f"{config['S3OutputPath'].rstrip('/')}/{self.job.name}/output"
        self.job.uploaded += [f"{target}/{path.relative_to(folder.parent)}" for path in files]
        if config.get("CompressionType") == "NONE":
            Mirror(self.storage, folder, f"{target}/{prefix}").push()
            return f"{target}/{prefix}"
        self.storage.put(*split(f"{target}/{archive_name}"), archive(folder))
        return f"{target}/{archive_name}"

    def _gathered(self, name: str) -> Path:
        """Merge the files of all hosts into the first host's folder."""
        target = self.hosts[0].root / name
        for host in self.hosts[1:]:
            source = host.root / name
            for path in (path for path in source.rglob("*") if path.is_file()):
                copy = target / path.relative_to(source)
                if copy.exists():
                    message = f"two hosts have left a file {name}/{path.relative_to(source)}"
                    raise FileExistsError(message)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        return target
