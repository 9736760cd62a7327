"""AWS on 127.0.0.1 whose SageMaker really runs training jobs; moto answers for all other services.

    with SageMaker() as server:
        server.s3.bucket("box")
        role, image = server.add_role("trainer"), server.add_image("embedtune", "1")
        subprocess.run(launch, env=server.environment(tmp_path), check=True)
        server.wait("first")
        assert server.jobs["first"].exit_codes == [0]

Each job runs in a thread and a subprocess, or, with `executor=Docker(image)`, in a container. What
else a test may choose is in `sagemaker_host.Settings`. moto has room for one server a process.
"""

import json
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from s3_server import Reply
from sagemaker_container import Process
from sagemaker_host import Life, Settings
from sagemaker_job import Job
from sagemaker_rules import Quotas, Refusal, check, check_image, check_role
from sagemaker_transfer import Storage

REGION = "us-east-1"
JOB_KEY = "ASIAJOB"
CREDENTIALS = "/credentials/"
# What moto keeps of these is forgotten between two servers.
SERVICES = ("iam", "sts", "logs", "ecr", "cloudformation", "secretsmanager", "kms", "budgets",
            "sagemaker")  # fmt: skip
LISTED_BY = {"NameContains", "SortOrder", "MaxResults", "NextToken"}
# The caller's own account and choices.
IN_THE_WAY = ("AWS_", "EMBEDTUNE_", "SAGEMAKER_")
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Call(NamedTuple):
    """A request to a service; S3's operations are methods and paths: `GET /bucket/key`."""

    service: str
    operation: str


@dataclass(frozen=True)
class Asked:
    """A request: whose key signed it, for which region, and what it wants."""

    key: str
    region: str
    call: Call
    body: bytes
    is_json: bool

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body or b"{}"))


@dataclass
class Fault:
    operation: str
    refusal: Refusal
    times: int


class Front(Storage):
    """The address of all services: asks us first, and then moto."""

    def __init__(self, answer: Callable[[Asked], Reply | None]):
        super().__init__()
        self._answer = answer

    def _reply(self, environ, body, method, path):
        asked = read_request(environ, body, method, path)
        with warnings.catch_warnings():
            if asked.call.service == "cloudformation":
                # What moto has no resource for it skips, and that is all right.
                warnings.simplefilter("ignore", UserWarning)
            return self._answer(asked) or super()._reply(environ, body, method, path)


class SageMaker:
    """The control plane; `s3` is its storage, `jobs` is what became of each request."""

    def __init__(self, command: list[str] | None = None, **settings: Any):
        self.s3 = Front(self._answer)
        self.settings = Settings(**{"executor": Process(command)} | settings)
        self.quota = Quotas()
        self.jobs: dict[str, Job] = {}
        # What launchers ask of any service, and what jobs do; the hosts' own part is in neither.
        self.calls: list[Call] = []
        self.job_calls: list[Call] = []
        self._lives: dict[str, Life] = {}
        self._faults: list[Fault] = []
        self._handlers: dict[Call, Callable[[Asked], dict[str, Any] | None]] = {
            Call("sagemaker", "CreateTrainingJob"): self._create,
            Call("sagemaker", "DescribeTrainingJob"): self._describe,
            Call("sagemaker", "ListTrainingJobs"): self._list,
            Call("sagemaker", "StopTrainingJob"): self._stop,
            Call("servicequotas", "ListServiceQuotas"): self._list_quotas,
            Call("pricing", "GetProducts"): deny,
        }

    def __enter__(self) -> "SageMaker":
        forget()
        self._folder = tempfile.TemporaryDirectory("-sagemaker", ignore_cleanup_errors=True)
        self.s3.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs.values():
            job.abandoned.set()
        for life in self._lives.values():
            life.join()
        self.s3.__exit__()
        self._folder.cleanup()
        forget()

    def environment(self, home: Path, **settings: str) -> dict[str, str]:
        """Return this process's environment, led to this server and to a home without logins."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(IN_THE_WAY)}
        return kept | self.s3.environment | {"HOME": str(home)} | settings

    def add_role(self, name: str, trusts: str = "sagemaker.amazonaws.com") -> str:
        """Make a role that a service may assume; return its ARN."""
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": trusts},
            "Action": "sts:AssumeRole",
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam = get_backend("iam")[ACCOUNT]["aws"]
        return str(iam.create_role(name, document, "/", None, "", [], None).arn)

    def add_image(self, repository: str, tag: str) -> str:
        """Push an image, as far as the registry can tell; return its URI."""
        ecr = get_backend("ecr")[ACCOUNT][REGION]
        if repository not in ecr.repositories:
            ecr.create_repository(repository, None, None, None, "MUTABLE", [])
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {}, "layers": []}
        ecr.put_image(repository, json.dumps(manifest | {"tag": tag}), tag)
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{repository}:{tag}"

    def refuse(self, operation: str, code: str, message: str, times: int = 1) -> None:
        """Answer the next calls of an operation with an error."""
        self._faults.append(Fault(operation, Refusal(message, code), times))

    def interrupt(self, name: str) -> None:
        """Take a job's host away, as spot capacity is: SIGTERM, and another host goes on."""
        self.jobs[name].interrupted.set()

    def wait(self, name: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until nothing more happens to a job, its last lines included; describe it."""
        self._lives[name].join(timeout)
        if self._lives[name].is_alive():
            message = f"{name} is still {self.jobs[name].secondary} after {timeout} s"
            raise TimeoutError(message)
        return self.jobs[name].describe()

    def _answer(self, asked: Asked) -> Reply | None:
        """Answer what is ours; None leaves it to moto."""
        if asked.call.operation.startswith(f"GET {CREDENTIALS}"):
            return json_reply(credentials(), asked)
        (self.job_calls if asked.key == JOB_KEY else self.calls).append(asked.call)
        try:
            self._strike(asked.call.operation)
            handler = self._handlers.get(asked.call, lambda _: None)
            answer = handler(asked)
        except Refusal as refusal:
            return error_reply(refusal, asked)
        return None if answer is None else json_reply(answer, asked)

    def _strike(self, operation: str) -> None:
        for fault in self._faults:
            if fault.operation == operation and fault.times:
                fault.times -= 1
                raise fault.refusal

    def _create(self, asked: Asked) -> dict[str, Any]:
        request = asked.document
        check(request)
        name = request["TrainingJobName"]
        if name in self.jobs:
            message = (
                "Training job names must be unique within an AWS account and region, and a "
                f"training job with this name already exists ({self.jobs[name].arn})"
            )
            raise Refusal(message, "ResourceInUse")
        check_role(request["RoleArn"])
        self._check_output(request["OutputDataConfig"]["S3OutputPath"])
        check_image(request["AlgorithmSpecification"]["TrainingImage"])
        running = [job.request for job in self.jobs.values() if job.ended is None]
        self.quota.check(request, running)
        self.jobs[name] = self._start(Job(asked.body, asked.region, ACCOUNT))
        return {"TrainingJobArn": self.jobs[name].arn}

    def _check_output(self, uri: str) -> None:
        bucket = uri.split("/")[2]
        if not self.s3.has_bucket(bucket):
            message = f"The bucket {bucket} of OutputDataConfig.S3OutputPath does not exist."
            raise Refusal(message)

    def _start(self, job: Job) -> Job:
        environment = {
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            # Where AWS has `…_RELATIVE_URI`, which means an address of Amazon's.
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.s3.endpoint}{CREDENTIALS}{job.name}",
        }
        folder = Path(self._folder.name)
        self._lives[job.name] = Life(job, self.s3, folder, self.settings, environment)
        self._lives[job.name].start()
        return job

    def _job(self, asked: Asked) -> Job:
        job = self.jobs.get(asked.document["TrainingJobName"])
        if job is None:
            message = "Requested resource not found."
            raise Refusal(message)
        return job

    def _describe(self, asked: Asked) -> dict[str, Any]:
        return self._job(asked).describe()

    def _list(self, asked: Asked) -> dict[str, Any]:
        wanted = asked.document
        if wanted.pop("SortBy", "CreationTime") != "CreationTime" or wanted.keys() - LISTED_BY:
            message = "The test server lists jobs by parts of their names and by age only."
            raise Refusal(message)
        part = wanted.get("NameContains", "")
        lines = [job.summary() for name, job in self.jobs.items() if part in name]
        if wanted.get("SortOrder") == "Descending":
            lines.reverse()
        return page("TrainingJobSummaries", lines, wanted, size=10)

    def _stop(self, asked: Asked) -> dict[str, Any]:
        job = self._job(asked)
        if not job.stop("Stopped"):
            message = (
                f"The request was rejected because the training job is in status {job.status}."
            )
            raise Refusal(message)
        return {}

    def _list_quotas(self, asked: Asked) -> dict[str, Any]:
        quotas = [
            {
                "ServiceCode": "sagemaker",
                "QuotaName": name,
                "QuotaCode": f"L-{zlib.crc32(name.encode()):08X}",
                "Value": value,
                "Unit": "None",
                "Adjustable": True,
                "GlobalQuota": False,
            }
            for name, value in self.quota.named().items()
        ]
        return page("Quotas", quotas, asked.document, size=100)


def read_request(environ: dict[str, Any], body: bytes, method: str, path: str) -> Asked:
    """Tell service and operation, as far as a request in any of AWS's protocols says them."""
    scope = r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/"
    found = re.search(scope, environ.get("HTTP_AUTHORIZATION", ""))
    key, region, service = found.groups() if found else ("", REGION, "s3")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    action = parse_qs(body.decode("latin-1")).get("Action", [""])[0] if service != "s3" else ""
    operation = target.rpartition(".")[2] or action or f"{method} {path}"
    return Asked(key, region, Call(service, operation), body, bool(target))


def forget() -> None:
    for service in SERVICES:
        get_backend(service)[ACCOUNT].reset()


def deny(asked: Asked) -> None:
    """Refuse what moto would answer with a crash."""
    action = ":".join(asked.call)
    message = f"User: arn:aws:iam::{ACCOUNT}:user/test is not authorized to perform: {action}"
    raise Refusal(message, "AccessDeniedException")


def page(name: str, items: list[Any], wanted: dict[str, Any], size: int) -> dict[str, Any]:
    start = int(wanted.get("NextToken", 0))
    end = start + wanted.get("MaxResults", size)
    return {name: items[start:end]} | ({"NextToken": str(end)} if end < len(items) else {})


def credentials() -> dict[str, str]:
    """Return what the endpoint of containers tells a job: keys of its role."""
    return {
        "AccessKeyId": JOB_KEY,
        "SecretAccessKey": "test",
        "Token": "test",
        "Expiration": "2099-01-01T00:00:00Z",
    }


def json_reply(document: dict[str, Any], asked: Asked, status: str = "200 OK") -> Reply:
    kind = "application/x-amz-json-1.1" if asked.is_json else "application/json"
    return Reply(status, [("Content-Type", kind)], json.dumps(document).encode("utf-8"))


def error_reply(refusal: Refusal, asked: Asked) -> Reply:
    if asked.is_json:
        fields = {"__type": refusal.code, "message": str(refusal)}
        return json_reply(fields, asked, status="400 Bad Request")
    message = escape(str(refusal))
    inner = f"<Error><Code>{refusal.code}</Code><Message>{message}</Message></Error>"
    xml = inner if asked.call.service == "s3" else f"<ErrorResponse>{inner}</ErrorResponse>"
    return Reply("400 Bad Request", [("Content-Type", "text/xml")], xml.encode("utf-8"))
