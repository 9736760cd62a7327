"""AWS CodeBuild over moto: it really runs a project's buildspec, in a shell.

    with stack_server() as environment, builds(tmp_path) as service:
        …                               # deploy the stack, start a build
        service.docker_calls()

By default `docker` and `aws` are stand-ins that record their calls, check what they are given and,
for `docker push`, add an image to moto's ECR. With `builds(folder, registry=…)`, `docker` is the
real one and ECR's host is a registry on loopback.

It is as strict as CodeBuild where that can break a build: variables of a request replace all of
the project's; the source is read, the log written and the image pushed only if the role permits it;
the archive's files lose their permissions; a failed command ends its phase; `post_build` runs after
a failed `build` but not after a failed `pre_build` (user guide, "Build phase transitions"); without
privileged mode there is no Docker daemon; the log starts late, and its last lines follow the end.
"""

import contextlib
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import threading
import time
import urllib.request
import uuid
import zipfile
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.backends import get_backend
from moto.codebuild.exceptions import ResourceNotFoundException
from moto.codebuild.responses import CodeBuildResponse
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult

STANDINS = Path(__file__).with_name("codebuild_machine")
ORDER = ("install", "pre_build", "build", "post_build")
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
TICK_SECONDS = 0.02


class AccountLimitExceeded(JsonRESTError):
    def __init__(self):
        message = "Cannot have more than 0 builds in queue for the account"
        super().__init__("AccountLimitExceededException", message)


@contextlib.contextmanager
def builds(folder, **settings):
    """Serve StartBuild, BatchGetBuilds and StopBuild in moto; yield the `BuildService`."""
    service = BuildService(folder, **settings)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_build", "batch_get_builds", "stop_build"):
            handle = getattr(service, name)
            patch.setattr(CodeBuildResponse, name, lambda given, handle=handle: handle(given))
        try:
            yield service
        finally:
            service.close()


class BuildService:
    """All builds of one test; its attributes make builds fail in the ways that AWS has."""

    def __init__(self, folder: Path, registry: str | None = None):
        self.folder, self.registry = folder, registry
        self.builds: dict[str, Build] = {}
        # Text that `docker build` prints before it fails, or None.
        self.build_error: str | None = None
        self.is_slow = False
        self.has_quota = True
        self.timeout_seconds: float | None = None

    def docker_calls(self) -> list[list[str]]:
        """Return the arguments of all calls of `docker`."""
        path = self.folder / "calls"
        return [shlex.split(line) for line in path.read_text().splitlines()]

    def start_build(self, response: Any) -> ActionResult:
        name = response._get_param("projectName")
        projects = response.codebuild_backend.codebuild_projects
        if name not in projects:
            message = f"Project cannot be found: {name}"
            raise ResourceNotFoundException(message)
        if not self.has_quota:
            raise AccountLimitExceeded
        given = response._get_param("environmentVariablesOverride") or []
        build = Build(
            self,
            projects[name].project_metadata,
            response._get_param("sourceLocationOverride"),
            {variable["name"]: variable["value"] for variable in given},
            response.current_account,
            response.region,
        )
        self.builds[build.id] = build
        build.thread.start()
        return ActionResult({"build": build.describe()})

    def batch_get_builds(self, response: Any) -> ActionResult:
        wanted = [self.builds[name] for name in response._get_param("ids") if name in self.builds]
        answer = ActionResult({"builds": [build.describe() for build in wanted]})
        for build in wanted:
            build.described.set()
        return answer

    def stop_build(self, response: Any) -> ActionResult:
        build = self.builds[response._get_param("id")]
        build.stopped.set()
        return ActionResult({"build": build.describe()})

    def close(self) -> None:
        for build in self.builds.values():
            build.stopped.set()
            build.thread.join()


@dataclass
class Build:
    service: BuildService
    project: dict[str, Any]
    location: str
    variables: dict[str, str]
    account: str
    region: str
    phases: list[dict[str, Any]] = field(default_factory=list)
    status: str = "IN_PROGRESS"
    stream: str | None = None

    def __post_init__(self) -> None:
        self.id = f"{self.project['name']}:{uuid.uuid4()}"
        self.stopped = threading.Event()
        self.described = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.started = time.time()
        self._pending: list[str] = []
        self._enter("QUEUED")

    def describe(self) -> dict[str, Any]:
        group = self.project["logsConfig"]["cloudWatchLogs"]["groupName"]
        logs = {"deepLink": f"https://logs.example/{self.id}"}
        if self.stream:
            logs |= {"groupName": group, "streamName": self.stream}
        return {
            "id": self.id,
            "projectName": self.project["name"],
            "buildStatus": self.status,
            "buildComplete": self.status != "IN_PROGRESS",
            "currentPhase": self.phases[-1]["phaseType"],
            "phases": [dict(phase) for phase in self.phases],
            "logs": logs,
        }

    def _run(self) -> None:
        try:
            status = self._work()
        except Exception as error:  # noqa: BLE001  a fault of this double must fail the build visibly
            self._end_phase("FAULT", f"the test server itself failed: {error!r}")
            status = "FAULT"
        self._enter("COMPLETED")
        self.status = status
        # The last lines arrive late.
        time.sleep(5 * TICK_SECONDS)
        self._flush()

    def _work(self) -> str:
        self._enter("PROVISIONING")
        # A machine takes a while: at least one request sees this phase.
        self.described.clear()
        self.described.wait(10)
        self._enter("DOWNLOAD_SOURCE")
        self._open_log()
        home = self.service.folder / self.id.replace(":", "-")
        if refusal := self._download(home / "src"):
            self._end_phase("FAILED", f"CLIENT_ERROR: {refusal}")
            return "FAILED"
        spec = yaml.safe_load(self.project["source"]["buildspec"])
        assert float(spec["version"]) == 0.2
        failed = None
        for name in ORDER:
            if failed and (failed, name) != ("build", "post_build"):
                continue
            self._enter(name.upper())
            ended = self._run_phase(home, spec, name)
            if ended != "SUCCEEDED":
                if ended in ("STOPPED", "TIMED_OUT"):
                    return ended
                failed = failed or name
        self._enter("FINALIZING")
        return "FAILED" if failed else "SUCCEEDED"

    def _enter(self, phase: str) -> None:
        if self.phases:
            self.phases[-1].setdefault("phaseStatus", "SUCCEEDED")
        self.phases.append({"phaseType": phase, "startTime": time.time()})
        self._flush()

    def _end_phase(self, status: str, message: str) -> None:
        context = {"statusCode": status, "message": message}
        self.phases[-1] |= {"phaseStatus": status, "contexts": [context]}

    def _open_log(self) -> None:
        group = self.project["logsConfig"]["cloudWatchLogs"]["groupName"]
        arn = f"arn:aws:logs:{self.region}:{self.account}:log-group:{group}:log-stream:x"
        if self._may("logs:CreateLogStream", arn) and self._may("logs:PutLogEvents", arn):
            self.stream = self.id.partition(":")[2]
            get_backend("logs")[self.account][self.region].create_log_stream(group, self.stream)

    def _download(self, folder: Path) -> str | None:
        bucket, _, key = self.location.partition("/")
        if not self._may("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}"):
            return f"AccessDenied: Access Denied for primary source: {self.location}"
        found = get_backend("s3")[self.account]["aws"].get_object(bucket, key)
        if found is None:
            return "NoSuchKey: The specified key does not exist. for primary source"
        with zipfile.ZipFile(io.BytesIO(found.value)) as archive:
            archive.extractall(folder)
        return None

    def _run_phase(self, home: Path, spec: dict[str, Any], name: str) -> str:
        """Run the commands of a phase in one shell, with the variables of the phases before."""
        commands = spec["phases"].get(name, {}).get("commands", [])
        state, script = home / "state", home / f"{name}.sh"
        lines = ["cd src", f"[ ! -f {state} ] || . {state}"]
        for command in commands:
            shown = shlex.quote(f"[Container] Running command {command}")
            lines += [f"echo {shown}", command, "code=$?"]
            failed = shlex.quote(f"Error while executing command: {command}. Reason: exit status ")
            lines += [f'[ "$code" = 0 ] || {{ echo {failed}"$code" >{home}/error; exit 1; }}']
        script.write_text("\n".join([*lines, f"export -p >{state}"]) + "\n")
        process = subprocess.Popen(
            ["sh", str(script)],
            cwd=home,
            env=self._environment(home, spec),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=[process], daemon=True)
        reader.start()
        ended = self._wait(process)
        reader.join()
        process.stdout.close()
        self._add_pushed_images(home)
        if ended != "SUCCEEDED":
            error = home / "error"
            text = error.read_text().strip() if error.exists() else f"build {ended.lower()}"
            self._end_phase(ended, f"COMMAND_EXECUTION_ERROR: {text}")
        self._pending.append(f"[Container] Phase complete: {name.upper()} State: {ended}")
        return ended

    def _wait(self, process: "subprocess.Popen[str]") -> str:
        limit = self.service.timeout_seconds or 60 * self.project["timeoutInMinutes"]
        while process.poll() is None:
            late = time.time() - self.started > limit
            if late or self.stopped.is_set():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return "TIMED_OUT" if late else "STOPPED"
            self._flush()
            time.sleep(TICK_SECONDS)
        return "SUCCEEDED" if process.returncode == 0 else "FAILED"

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout:
            self._pending.append(line.rstrip("\n") or " ")

    def _flush(self) -> None:
        lines, self._pending = self._pending, []
        if self.stream and lines:
            group = self.project["logsConfig"]["cloudWatchLogs"]["groupName"]
            now = int(time.time() * 1000)
            # CodeBuild's messages end in a line break.
            events = [{"timestamp": now, "message": f"{line}\n"} for line in lines]
            get_backend("logs")[self.account][self.region].put_log_events(
                group, self.stream, events
            )

    def _environment(self, home: Path, spec: dict[str, Any]) -> dict[str, str]:
        """Return the build's variables: none of this machine's, except what `docker` needs."""
        service = self.service
        for name, exists in (("slow", service.is_slow), ("unprivileged", not self._privileged)):
            (home / name).touch() if exists else None
        if service.build_error is not None:
            (home / "build-error").write_text(service.build_error)
        own = {
            "PATH": f"{STANDINS}:{os.environ['PATH']}",
            "HOME": str(home),
            "CODEBUILD_BUILD_ID": self.id,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "MACHINE": str(home),
            "CALLS": str(service.folder / "calls"),
        }
        if service.registry:
            own["REGISTRY"] = service.registry
            own |= {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
        return own | spec.get("env", {}).get("variables", {}) | self.variables

    @property
    def _privileged(self) -> bool:
        return bool(self.project["environment"].get("privilegedMode"))

    def _add_pushed_images(self, home: Path) -> None:
        """Add what `docker` pushed to moto's ECR, with the real manifest if there is one."""
        pushed = home / "pushed"
        for reference in pushed.read_text().split() if pushed.exists() else ():
            registry, _, rest = reference.partition("/")
            repository, _, tag = rest.partition(":")
            ecr = get_backend("ecr")[self.account][self.region]
            arn = f"arn:aws:ecr:{self.region}:{self.account}:repository/{repository}"
            assert registry == f"{self.account}.dkr.ecr.{self.region}.amazonaws.com"
            assert self._may("ecr:PutImage", arn), f"the role may not push to {arn}"
            manifest = self._manifest(repository, tag)
            digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
            ecr.put_image(repository, manifest, tag, MANIFEST_TYPE, digest)
        pushed.unlink(missing_ok=True)

    def _manifest(self, repository: str, tag: str) -> str:
        if not self.service.registry:
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {}, "layers": []}
            return json.dumps(manifest | {"tag": tag})
        request = urllib.request.Request(
            f"http://{self.service.registry}/v2/{repository}/manifests/{tag}",
            headers={"Accept": MANIFEST_TYPE},
        )
        with urllib.request.urlopen(request) as answer:
            return str(answer.read().decode())

    def _may(self, action: str, arn: str) -> bool:
        """Whether the inline policies of the project's role allow an action."""
        iam = get_backend("iam")[self.account]["aws"]
        role = iam.get_role(self.project["serviceRole"].rpartition("/")[2])
        for document in role.policies.values():
            text = document if isinstance(document, str) else json.dumps(document)
            for statement in json.loads(text)["Statement"]:
                actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
                if action in actions and any(fnmatchcase(arn, each) for each in resources):
                    return True
        return False


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
