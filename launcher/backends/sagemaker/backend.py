"""Backend `sagemaker`: run the job as a SageMaker training job, with inputs staged to S3.

SageMaker never reuses job names, so a resumed run becomes the job `RUN-2`, `RUN-3` … All jobs of a
run share its checkpoints and results.
"""

import os
import time
from functools import cached_property
from typing import Any

import click

from job.core.errors import BackendError, SpecError, StorageError
from job.storage.aws_session import PROFILE
from job.storage.stores import S3Store
from job.storage.workspace import write_atomically
from launcher.aws import sessions
from launcher.aws.account import options, require_models
from launcher.aws.pricing import Price, price_of
from launcher.backends.sagemaker import context
from launcher.backends.sagemaker.channels import input_folder, manifests, staging
from launcher.backends.sagemaker.job_outcome import ENDED, ending, machines
from launcher.backends.sagemaker.job_search import (
    collect_results,
    last_job,
    next_name,
    read_spec,
    results_store,
    spec_store,
    uploaded_store,
)
from launcher.backends.sagemaker.logs import PAUSE_SECONDS, CloudLog, current_status
from launcher.backends.sagemaker.request_validation import check_request
from launcher.backends.sagemaker.sdk import create_training_job
from launcher.backends.sagemaker.training_job import build_request, check_plan
from launcher.backends.sagemaker.warm_pool import AVAILABLE, end_pool, pool_facts
from launcher.live.view import View
from launcher.plan.plan import Plan, local_folder
from launcher.plan.staging import upload
from launcher.runs.records import record_launch, write_receipt
from launcher.runs.run import LAUNCH, Run

Description = dict[str, Any]
# boto3's, imported lazily.
Session = Any


def request(plan: Plan) -> dict[str, Any]:
    """Build the job's request; reads the stack only for values that no option sets."""
    check_plan(plan)
    stack = context.find_stack(plan.machine)
    if plan.machine.role is None:
        require_models(plan.bedrock_models, stack.bedrock_model_arns, plan.machine.stack)
    document = build_request(plan, stack, plan.name)
    check_request(document)
    folder = input_folder(plan, stack)
    return {
        "backend": "sagemaker",
        "region": stack.region,
        "create_training_job": document,
        "staging": {f"{folder}/{name}/": path for name, path in staging(plan).items()},
        "manifests": manifests(document, plan),
    }


def submit(plan: Plan, request: dict[str, Any]) -> "Job":
    profile = plan.machine.profile
    session = sessions.open_session(profile, request["region"])
    run, document = Run(plan.folder, plan.destination), request["create_training_job"]
    document["TrainingJobName"] = _free_name(session, run, profile)
    price = context.complete_request(session, plan, document)
    text, kms_key = plan.spec.to_json(), plan.spec.output.kms_key
    for uri, source in request["staging"].items():
        upload(S3Store(uri, kms_key), source, plan.spec.model, plan.folder)
    for uri, listed in manifests(document, plan).items():
        S3Store(uri.rpartition("/")[0], kms_key).write(uri.rpartition("/")[2], listed)
    spec_store(document, kms_key).write("job.json", text)
    # Before the request is sent, so that the job is found even if this process is killed.
    _record(run, text, document, session, profile, price)
    job = Job(run)
    job.create(document)
    click.echo(f"Training job {document['TrainingJobName']} in {request['region']}", err=True)
    return job


class Job:
    """The latest training job of a run."""

    def __init__(self, run: Run) -> None:
        self._run, self._launch = run, run.launch or {}
        self._name = str(self._launch["job"])
        self.status = ""
        # Results are read with the profile and region of the launch.
        sessions.set_environment(self._launch["profile"], self._launch["region"])

    @cached_property
    def _session(self) -> Session:
        return sessions.open_session(self._launch["profile"], self._launch["region"])

    def create(self, document: Description) -> None:
        """Start the job; if AWS refuses it, delete its launch record."""
        try:
            with sessions.translate_errors(f"starting the training job {self._name}"):
                create_training_job(self._session, document)
        except BackendError as error:
            # The SDK describes the job after creating it; only that second call may have failed.
            status = f"`embedtune status {self._run.name}`"
            msg = f"{error} The job may have been started: check {status}."
            try:
                found = self._describe()
            except BackendError:
                raise BackendError(msg) from None
            if found is None:
                (self._run.workspace.root / LAUNCH).unlink()
                raise

    def refresh(self) -> bool:
        found = self._describe()
        if found is None:
            region = self._session.region_name
            click.echo(f"There is no training job {self._name} in {region}.", err=True)
            return False
        if found["TrainingJobStatus"] not in ENDED:
            self.status = current_status(found)
            return True
        self._record_end(found)
        return False

    def read_log(self) -> str:
        with sessions.translate_errors(f"reading the log of {self._name}"):
            log = CloudLog(sessions.client(self._session, "logs"), self._name)
            text = "".join(f"{line}\n" for line in log.new_lines())
        if not text and (found := self._describe()):
            status = [current_status(found), found.get("FailureReason", "")]
            click.echo(f"No log lines yet. Status: {'. '.join(filter(None, status))}", err=True)
        return text

    def follow_logs(self, view: View, *, stop_on_interrupt: bool) -> None:
        sagemaker = sessions.client(self._session, "sagemaker")
        log = CloudLog(sessions.client(self._session, "logs"), self._name)
        try:
            try:
                log.follow(sagemaker, view)
            except KeyboardInterrupt:
                if not stop_on_interrupt:
                    raise
                view.show_stopping()
                self._ask_to_stop()
                log.follow(sagemaker, view)
        except BackendError as error:
            logs = f"`embedtune logs {self._run.name} --follow`"
            msg = f"{error} The job keeps running; follow its log again with {logs}."
            raise BackendError(msg) from None

    def stop(self) -> None:
        self._ask_to_stop()
        while self.refresh():
            time.sleep(PAUSE_SECONDS)

    def end_pool(self) -> str:
        """End the job's warm pool, if it has one, and say so."""
        if self.refresh():
            return f"The job {self._name} is running; stop it before its warm pool."
        pool = (self._run.receipt or {}).get("warm_pool") or {"status": "None"}
        if user := pool.get("reused_by"):
            return f"The machines of {self._name} are used by the job {user} now."
        if pool["status"] != AVAILABLE:
            return f"The job {self._name} keeps no machines. Warm pool: {pool['status']}."
        end_pool(self._session, self._name)
        self.refresh()
        return f"The warm pool of {self._name} has been ended; `embedtune status` has its cost."

    def outcome(self) -> int:
        """Print the job's cost and the reason of a failure; return its exit code."""
        found = self._describe()
        if found is None:
            msg = f"There is no training job {self._name} in {self._session.region_name}."
            raise BackendError(msg)
        receipt = self._record_end(found)
        if receipt["usd"] is not None:
            billed = f"{receipt['billable_seconds']} s billed"
            click.echo(
                f"Cost: ${receipt['usd']:.4f}, {billed} ({receipt['price_basis']})", err=True
            )
        code, reason = ending(found)
        if code:
            click.echo(f"Error: {reason}", err=True)
        return code

    def _record_end(self, found: Description) -> dict[str, Any]:
        """Copy results that only SageMaker has; write the receipt with what it billed.

        If the copy fails, there is no receipt yet, so that the next command copies again.
        """
        code = ending(found)[0]
        is_complete = self._collect(found, code)
        billable, price = found.get("BillableTimeInSeconds", 0), self._price(found)
        usd = price.usd(billable * machines(found)[1])
        receipt = write_receipt(
            self._run,
            code,
            found.get("TrainingTimeInSeconds", 0),
            usd=None if usd is None else round(usd, 4),
            billable_seconds=billable,
            job=found["TrainingJobName"],
            status=found["SecondaryStatus"],
            reason=found.get("FailureReason"),
            price_basis=price.basis,
            warm_pool=pool_facts(found, price),
        )
        if not is_complete:
            msg = f"SageMaker has stored no complete results in `{uploaded_store(found).uri}`."
            if code == 0:
                raise StorageError(msg)
            click.echo(msg, err=True)
        return receipt

    def _collect(self, found: Description, code: int) -> bool:
        """Copy results that the job could not publish; return whether none are missing."""
        if code == 0 and found.get("EnableNetworkIsolation"):
            return collect_results(self._run, found)
        if code != StorageError.exit_code:
            return True
        try:
            return collect_results(self._run, found)
        except StorageError as error:
            where = f"`{uploaded_store(found).uri}`"
            click.echo(f"What the job left is in {where} only: {error}", err=True)
            return True

    def _price(self, found: Description) -> Price:
        """Return the price recorded at launch, unless SageMaker chose another instance type."""
        kind, _ = machines(found)
        if kind in ("", self._launch.get("instance_type")):
            basis = self._launch.get("price_basis", "")
            return Price(self._launch.get("price_per_hour"), basis)
        return price_of(kind, self._session.region_name, self._session)

    def _ask_to_stop(self) -> None:
        if self.refresh():
            with sessions.translate_errors(f"stopping the training job {self._name}"):
                client = sessions.client(self._session, "sagemaker")
                client.stop_training_job(TrainingJobName=self._name)

    def _describe(self) -> Description | None:
        """Describe the job; None if it does not exist."""
        from botocore.exceptions import ClientError

        with sessions.translate_errors(f"describing the training job {self._name}"):
            client = sessions.client(self._session, "sagemaker")
            try:
                found: Description = client.describe_training_job(TrainingJobName=self._name)
            except ClientError as error:
                if "not found" in sessions.error_message(error):
                    return None
                raise
        return found


def find_run(name: str) -> Run | None:
    """Find a run by its training jobs, no matter where it was launched."""
    try:
        session = sessions.open_session()
    except BackendError as error:
        if sessions.chosen_profile():
            raise
        # Without a profile, AWS is not configured.
        if any(map(os.environ.get, PROFILE)):
            click.echo(f"SageMaker's jobs cannot be listed: {error}", err=True)
        return None
    try:
        with sessions.translate_errors(f"listing jobs of the run {name}"):
            if session.get_credentials() is None:
                return None
            found, _ = last_job(sessions.client(session, "sagemaker"), name)
    except BackendError as error:
        click.echo(f"SageMaker's jobs cannot be listed: {error}", err=True)
        return None
    if found is None:
        return None
    sessions.set_environment(None, session.region_name)
    results = results_store(found)
    run = Run(local_folder(results.uri) / name, results)
    profile = sessions.chosen_profile()
    return run if _adopt_job(run, found, session, profile) else None


def _free_name(session: Session, run: Run, profile: str | None) -> str:
    """Return the name of a run's next job; raise if a job is running."""
    with sessions.translate_errors(f"listing jobs of the run {run.name}"):
        last, taken = last_job(sessions.client(session, "sagemaker"), run.name)
    if last and (uri := results_store(last).uri) != run.store.uri:
        msg = f"Another run `{run.name}` has its results in `{uri}`: choose another `--name`."
        raise SpecError(msg)
    if last and last["TrainingJobStatus"] not in ENDED:
        job = last["TrainingJobName"]
        if (run.launch or {}).get("job") != job:
            _adopt_job(run, last, session, profile)
        msg = f"The run `{run.name}` is in progress as {job}: `embedtune logs {run.name} --follow`."
        raise BackendError(msg)
    if last and (last.get("WarmPoolStatus") or {}).get("Status") == AVAILABLE:
        # `stop --pool` ends that of the latest job only.
        job = last["TrainingJobName"]
        end = f"aws sagemaker update-training-job --training-job-name {job}{options(session)}"
        click.echo(
            f"{job} keeps its machines, at their price, for the rest of its --keep-alive, unless "
            f"this job is similar enough to take them over; to end it: {end} --resource-config "
            "KeepAlivePeriodInSeconds=0",
            err=True,
        )
    return next_name(run.name, taken)


def _adopt_job(run: Run, found: Description, session: Session, profile: str | None) -> bool:
    """Record a job that was launched elsewhere; return False if its spec no longer exists."""
    if (text := read_spec(found)) is None:
        return False
    price = price_of(machines(found)[0], session.region_name, session)
    _record(run, text, found, session, profile, price)
    return True


def _record(
    run: Run, spec: str, document: Description, session: Session, profile: str | None, price: Price
) -> None:
    """Record the job and save its spec locally, so that the run can be resumed by its name."""
    path = run.workspace.job_spec
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, spec)
    record_launch(
        run,
        {"backend": "sagemaker"},
        job=document["TrainingJobName"],
        region=session.region_name,
        profile=profile,
        instance_type=machines(document)[0],
        instances=machines(document)[1],
        price_per_hour=price.usd_per_hour,
        price_basis=price.basis,
        price_region=price.region,
    )
