"""AWS on 127.0.0.1: SageMaker that really runs training jobs, and moto for all other services.

    with SageMaker() as server:
        server.s3.bucket("box")
        role, image = server.add_role("trainer"), server.add_image("embedtune", "1")
        subprocess.run(launch, env=server.environment(tmp_path), check=True)
        server.wait("first")
        assert server.jobs["first"].exit_codes == [0]

Each job runs in a thread and a subprocess or, with `executor=Docker(image)`, in a container. Other
options of a test are in `sagemaker_host.Settings`. moto allows one server per process.
"""

import json
import os
import re
import tempfile
import time
import warnings
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
from sagemaker_rules import INDEXES, Quotas, Refusal, check, check_image, check_role
from sagemaker_transfer import Storage

REGION = "us-east-1"
JOB_KEY = "ASIAJOB"
CREDENTIALS = "/credentials/"
# moto's state of these services is reset between two servers.
SERVICES = ("iam", "sts", "logs", "ecr", "cloudformation", "codebuild", "secretsmanager", "kms",
            "budgets", "sagemaker")  # fmt: skip
LISTED_BY = {"NameContains", "SortOrder", "MaxResults", "NextToken"}
# Variables of the developer's own account and settings.
REMOVED_PREFIXES = ("AWS_", "EMBEDTUNE_", "SAGEMAKER_")
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Call(NamedTuple):
    """A call of an AWS operation; for S3, a method and a path: `GET /bucket/key`."""

    service: str
    operation: str


@dataclass(frozen=True)
class AwsRequest:
    """An AWS request: access key, region, operation and body."""

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
    """The endpoint of all services: SageMaker's server handles a request first, then moto."""

    def __init__(self, answer: Callable[[AwsRequest], Reply | None]):
        super().__init__()
        self._answer = answer

    def _reply(self, environ, body, method, path):
        request = read_request(environ, body, method, path)
        with warnings.catch_warnings():
            if request.call.service == "cloudformation":
                # moto warns about resource types that it skips; that is expected.
                warnings.simplefilter("ignore", UserWarning)
            return self._answer(request) or super()._reply(environ, body, method, path)


class SageMaker:
    """The control plane; `s3` is its storage, `jobs` contains all jobs by name."""

    def __init__(self, command: list[str] | None = None, **settings: Any):
        self.s3 = Front(self._answer)
        self.settings = Settings(**{"executor": Process(command)} | settings)
        self.quota = Quotas()
        self.jobs: dict[str, Job] = {}
        # Calls of launchers, and calls of jobs; the hosts' own transfers are in neither.
        self.calls: list[Call] = []
        self.job_calls: list[Call] = []
        self._lives: dict[str, Life] = {}
        self._faults: list[Fault] = []
        self._handlers: dict[Call, Callable[[AwsRequest], dict[str, Any] | None]] = {
            Call("sagemaker", "CreateTrainingJob"): self._create,
            Call("sagemaker", "DescribeTrainingJob"): self._describe,
            Call("sagemaker", "ListTrainingJobs"): self._list,
            Call("sagemaker", "StopTrainingJob"): self._stop,
            Call("sagemaker", "UpdateTrainingJob"): self._update,
            Call("servicequotas", "GetServiceQuota"): self._get_quota,
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
        """Return this process's environment, with this server's endpoint and an empty home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(REMOVED_PREFIXES)}
        return kept | self.s3.environment | {"HOME": str(home)} | settings

    def add_role(self, name: str, trusts: str = "sagemaker.amazonaws.com") -> str:
        """Create a role that a service may assume; return its ARN."""
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": trusts},
            "Action": "sts:AssumeRole",
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam = get_backend("iam")[ACCOUNT]["aws"]
        return str(iam.create_role(name, document, "/", None, "", [], None).arn)

    def add_image(self, repository: str, tag: str, media_type: str = MANIFEST_TYPE) -> str:
        """Add an image without layers to the registry; return its URI."""
        ecr = get_backend("ecr")[ACCOUNT][REGION]
        if repository not in ecr.repositories:
            ecr.create_repository(repository, None, None, None, "MUTABLE", [])
        parts = {"manifests": []} if media_type in INDEXES else {"config": {}, "layers": []}
        manifest = {"schemaVersion": 2, "mediaType": media_type, **parts}
        ecr.put_image(repository, json.dumps(manifest | {"tag": tag}), tag)
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{repository}:{tag}"

    def refuse(self, operation: str, code: str, message: str, times: int = 1) -> None:
        """Answer the next calls of an operation with an error."""
        self._faults.append(Fault(operation, Refusal(message, code), times))

    def interrupt(self, name: str) -> None:
        """Announce the end of a job's spot capacity with SIGTERM; `reclaim` or the grace ends it.

        Then another host resumes.
        """
        self.jobs[name].interrupted.set()

    def reclaim(self, name: str) -> None:
        """Take a job's spot capacity away now, after `interrupt`."""
        self.jobs[name].reclaimed.set()

    def lose(self, name: str) -> None:
        """Lose a job's host without a notice, which is an internal error of SageMaker."""
        self.jobs[name].lost.set()

    def wait(self, name: str, timeout: float = 60) -> dict[str, Any]:
        """Wait for a job's end and its last log lines; return its description."""
        self._lives[name].join(timeout)
        if self._lives[name].is_alive():
            message = f"{name} is still {self.jobs[name].secondary} after {timeout} s"
            raise TimeoutError(message)
        return self.jobs[name].describe()

    def _answer(self, request: AwsRequest) -> Reply | None:
        """Answer SageMaker's requests and faults; None passes the request on to moto."""
        if request.call.operation.startswith(f"GET {CREDENTIALS}"):
            return json_reply(credentials(), request)
        (self.job_calls if request.key == JOB_KEY else self.calls).append(request.call)
        try:
            self._strike(request.call.operation)
            handler = self._handlers.get(request.call, lambda _: None)
            answer = handler(request)
        except Refusal as refusal:
            return error_reply(refusal, request)
        return None if answer is None else json_reply(answer, request)

    def _strike(self, operation: str) -> None:
        for fault in self._faults:
            if fault.operation == operation and fault.times:
                fault.times -= 1
                raise fault.refusal

    def _create(self, request: AwsRequest) -> dict[str, Any]:
        document = request.document
        check(document)
        name = document["TrainingJobName"]
        if name in self.jobs:
            message = (
                "Training job names must be unique within an AWS account and region, and a "
                f"training job with this name already exists ({self.jobs[name].arn})"
            )
            raise Refusal(message, "ResourceInUse")
        check_role(document["RoleArn"])
        self._check_output(document["OutputDataConfig"]["S3OutputPath"])
        check_image(document["AlgorithmSpecification"]["TrainingImage"])
        running = [job.request for job in self.jobs.values() if job.ended is None]
        self.quota.check(document, running)
        job = Job(request.body, request.region, ACCOUNT)
        job.keeps_pool = self.quota.allow_pool(document)
        self.jobs[name] = self._start(job)
        return {"TrainingJobArn": self.jobs[name].arn}

    def _check_output(self, uri: str) -> None:
        bucket = uri.split("/")[2]
        if not self.s3.has_bucket(bucket):
            message = f"The bucket {bucket} of OutputDataConfig.S3OutputPath does not exist."
            raise Refusal(message)

    def _start(self, job: Job) -> Job:
        environment = {
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            # AWS uses `…_RELATIVE_URI`, which refers to an Amazon address.
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.s3.endpoint}{CREDENTIALS}{job.name}",
        }
        folder = Path(self._folder.name)
        self._lives[job.name] = Life(job, self.s3, folder, self.settings, environment)
        self._lives[job.name].start()
        return job

    def _job(self, request: AwsRequest) -> Job:
        job = self.jobs.get(request.document["TrainingJobName"])
        if job is None:
            message = "Requested resource not found."
            raise Refusal(message)
        return job

    def _describe(self, request: AwsRequest) -> dict[str, Any]:
        return self._job(request).describe()

    def _list(self, request: AwsRequest) -> dict[str, Any]:
        wanted = request.document
        if wanted.pop("SortBy", "CreationTime") != "CreationTime" or wanted.keys() - LISTED_BY:
            message = "The test server lists jobs by parts of their names and by age only."
            raise Refusal(message)
        part = wanted.get("NameContains", "")
        lines = [job.summary() for name, job in self.jobs.items() if part in name]
        if wanted.get("SortOrder") == "Descending":
            lines.reverse()
        return page("TrainingJobSummaries", lines, wanted, size=10)

    def _stop(self, request: AwsRequest) -> dict[str, Any]:
        job = self._job(request)
        if not job.stop("Stopped"):
            message = (
                f"The request was rejected because the training job is in status {job.status}."
            )
            raise Refusal(message)
        return {}

    def _update(self, request: AwsRequest) -> dict[str, Any]:
        """Change the time that a warm pool is kept; 0 ends it."""
        job, changed = self._job(request), request.document["ResourceConfig"]
        if changed.keys() != {"KeepAlivePeriodInSeconds"} or changed["KeepAlivePeriodInSeconds"]:
            message = "The test server ends warm pools only."
            raise Refusal(message)
        if (job.warm_pool or {}).get("Status") != "Available":
            message = f"The training job {job.name} has no available warm pool."
            raise Refusal(message)
        job.pool_ended = time.time()
        return {"TrainingJobArn": job.arn}

    def _get_quota(self, request: AwsRequest) -> dict[str, Any]:
        code = request.document["QuotaCode"]
        found = [quota for quota in self.quota.described() if quota["QuotaCode"] == code]
        if not found:
            message = f"There is no quota {code}."
            raise Refusal(message, "NoSuchResourceException")
        return {"Quota": found[0]}

    def _list_quotas(self, request: AwsRequest) -> dict[str, Any]:
        return page("Quotas", self.quota.described(), request.document, size=20)


def read_request(environ: dict[str, Any], body: bytes, method: str, path: str) -> AwsRequest:
    """Parse a request of any of AWS's protocols into service, operation and body."""
    scope = r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/"
    found = re.search(scope, environ.get("HTTP_AUTHORIZATION", ""))
    key, region, service = found.groups() if found else ("", REGION, "s3")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    action = parse_qs(body.decode("latin-1")).get("Action", [""])[0] if service != "s3" else ""
    operation = target.rpartition(".")[2] or action or f"{method} {path}"
    return AwsRequest(key, region, Call(service, operation), body, bool(target))


def forget() -> None:
    for service in SERVICES:
        get_backend(service)[ACCOUNT].reset()


def deny(request: AwsRequest) -> None:
    """Refuse a call on which moto would crash."""
    action = ":".join(request.call)
    message = f"User: arn:aws:iam::{ACCOUNT}:user/test is not authorized to perform: {action}"
    raise Refusal(message, "AccessDeniedException")


def page(name: str, items: list[Any], wanted: dict[str, Any], size: int) -> dict[str, Any]:
    start = int(wanted.get("NextToken", 0))
    end = start + wanted.get("MaxResults", size)
    return {name: items[start:end]} | ({"NextToken": str(end)} if end < len(items) else {})


def credentials() -> dict[str, str]:
    """Return what the container credentials endpoint returns: keys of the job's role."""
    return {
        "AccessKeyId": JOB_KEY,
        "SecretAccessKey": "test",
        "Token": "test",
        "Expiration": "2099-01-01T00:00:00Z",
    }


def json_reply(document: dict[str, Any], request: AwsRequest, status: str = "200 OK") -> Reply:
    kind = "application/x-amz-json-1.1" if request.is_json else "application/json"
    return Reply(status, [("Content-Type", kind)], json.dumps(document).encode("utf-8"))


def error_reply(refusal: Refusal, request: AwsRequest) -> Reply:
    if request.is_json:
        fields = {"__type": refusal.code, "message": str(refusal)}
        return json_reply(fields, request, status="400 Bad Request")
    message = escape(str(refusal))
    inner = f"<Error><Code>{refusal.code}</Code><Message>{message}</Message></Error>"
    xml = inner if request.call.service == "s3" else f"<ErrorResponse>{inner}</ErrorResponse>"
    return Reply("400 Bad Request", [("Content-Type", "text/xml")], xml.encode("utf-8"))
