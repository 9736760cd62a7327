"""Backend `sagemaker`: the job as a SageMaker training job, its inputs staged to the bucket.

A run that is taken up again becomes the job `RUN-2`, `RUN-3` …: the names of jobs are unique for
ever. Checkpoints and results are the run's, whatever its job is called.
"""

import time
from functools import cached_property
from typing import Any, TextIO

import click

from job.core.errors import BackendError, SpecError
from job.storage.stores import S3Store
from job.storage.workspace import write_atomically
from launcher.aws import sessions
from launcher.aws.pricing import Price, price_of
from launcher.backends.sagemaker import context
from launcher.backends.sagemaker.ending import ENDED, ending, machines
from launcher.backends.sagemaker.job_search import (
    bring_home,
    last_job,
    next_name,
    results_of,
    spec_of,
    spec_place,
)
from launcher.backends.sagemaker.logs import PAUSE_SECONDS, CloudLog
from launcher.backends.sagemaker.sdk import create_training_job
from launcher.backends.sagemaker.training_job import build_request, channels, check_plan, staging
from launcher.backends.sagemaker.validation import check_request
from launcher.plan.plan import Plan, local_folder
from launcher.plan.staging import upload
from launcher.runs.records import record_launch, write_receipt
from launcher.runs.runs import LAUNCH, Run

Description = dict[str, Any]
# boto3's, which loads late.
Session = Any


def request(plan: Plan) -> dict[str, Any]:
    """Build the job's request; asks AWS only for what no option says."""
    check_plan(plan)
    where = context.find(plan.machine)
    document = build_request(plan, where, plan.name)
    check_request(document)
    places = channels(plan, where)
    return {
        "backend": "sagemaker",
        "region": where.region,
        "create_training_job": document,
        "staging": {places[name]: path for name, path in staging(plan).items()},
    }


def submit(plan: Plan, request: dict[str, Any]) -> "Job":
    profile = plan.machine.profile
    session = sessions.open_session(profile, request["region"])
    run, document = Run(plan.folder, plan.destination), request["create_training_job"]
    document["TrainingJobName"] = _free_name(session, run, profile)
    price = context.complete(session, plan, document)
    text, kms_key = plan.spec.to_json(), plan.spec.output.kms_key
    for address, source in request["staging"].items():
        upload(S3Store(address, kms_key), source, plan.spec.model, plan.folder)
    spec_place(document, kms_key).write("job.json", text)
    # Before it is sent: whatever then becomes of this process, the job is found again.
    _note(run, text, document, session, profile, price)
    job = Job(run)
    job.create(document)
    click.echo(f"Training job {document['TrainingJobName']} in {request['region']}", err=True)
    return job


class Job:
    """The latest training job of a run."""

    def __init__(self, run: Run) -> None:
        self._run, self._launch = run, run.launch or {}
        self._name = str(self._launch["job"])
        # What reads its results goes by the profile and to the region that it was launched with.
        sessions.use(self._launch["profile"], self._launch["region"])

    @cached_property
    def _session(self) -> Session:
        return sessions.open_session(self._launch["profile"], self._launch["region"])

    def create(self, document: Description) -> None:
        """Start the job; one that was refused leaves no note."""
        try:
            with sessions.explained(f"starting the training job {self._name}"):
                create_training_job(self._session, document)
        except BackendError as error:
            # The SDK reads the job that it has made, and may fail in that alone.
            status = f"`embedtune status {self._run.name}`"
            msg = f"{error} Whether it was started all the same: {status}."
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
            where = f"in {self._session.region_name}"
            click.echo(f"SageMaker knows no training job {self._name} of yours {where}.", err=True)
            return False
        if found["TrainingJobStatus"] not in ENDED:
            return True
        self._note_end(found)
        return False

    def read_log(self) -> str:
        with sessions.explained(f"reading the log of {self._name}"):
            log = CloudLog(sessions.client(self._session, "logs"), self._name)
            text = "".join(f"{line}\n" for line in log.new_lines())
        if not text and (found := self._describe()):
            said = [found["SecondaryStatus"], found.get("FailureReason", "")]
            click.echo(f"No line yet. SageMaker says: {'. '.join(filter(None, said))}", err=True)
        return text

    def follow_logs(self, to: TextIO, *, stop_on_interrupt: bool) -> None:
        sagemaker = sessions.client(self._session, "sagemaker")
        log = CloudLog(sessions.client(self._session, "logs"), self._name)
        try:
            try:
                log.follow(sagemaker, to)
            except KeyboardInterrupt:
                if not stop_on_interrupt:
                    raise
                self._ask_to_stop()
                log.follow(sagemaker, to)
        except BackendError as error:
            again = f"to follow it again: `embedtune logs {self._run.name} --follow`"
            msg = f"{error} The job itself is not affected; {again}."
            raise BackendError(msg) from None

    def stop(self) -> None:
        self._ask_to_stop()
        while self.refresh():
            time.sleep(PAUSE_SECONDS)

    def outcome(self) -> int:
        """Say what the job cost, and why it failed, if it did."""
        found = self._describe()
        if found is None:
            msg = f"SageMaker does not know the training job {self._name} any more."
            raise BackendError(msg)
        receipt = self._note_end(found)
        if receipt["usd"] is not None:
            billed = f"{receipt['billable_seconds']} s billed"
            click.echo(f"Cost: ${receipt['usd']:.4f}, {billed}", err=True)
        code, why = ending(found)
        if code:
            click.echo(f"Error: {why}", err=True)
        return code

    def _note_end(self, found: Description) -> dict[str, Any]:
        """Note what SageMaker billed; bring an isolated job's results home."""
        if found["TrainingJobStatus"] == "Completed" and found.get("EnableNetworkIsolation"):
            kms_key = found["OutputDataConfig"].get("KmsKeyId")
            bring_home(self._run, found["TrainingJobName"], kms_key)
        billable, price = found.get("BillableTimeInSeconds", 0), self._price(found)
        usd = price.usd(billable * machines(found)[1])
        return write_receipt(
            self._run,
            ending(found)[0],
            found.get("TrainingTimeInSeconds", 0),
            usd=None if usd is None else round(usd, 4),
            billable_seconds=billable,
            job=found["TrainingJobName"],
            status=found["SecondaryStatus"],
            reason=found.get("FailureReason"),
            price_basis=price.basis,
        )

    def _price(self, found: Description) -> Price:
        """Return the price that the launch knew, if it was of the machines that were used."""
        kind, _ = machines(found)
        if kind in ("", self._launch.get("instance_type")):
            basis = self._launch.get("price_basis", "")
            return Price(self._launch.get("price_per_hour"), basis)
        return price_of(kind, self._session.region_name, self._session)

    def _ask_to_stop(self) -> None:
        if self.refresh():
            with sessions.explained(f"stopping the training job {self._name}"):
                client = sessions.client(self._session, "sagemaker")
                client.stop_training_job(TrainingJobName=self._name)

    def _describe(self) -> Description | None:
        """Ask how the job is; nothing where AWS knows none, as it was never started."""
        from botocore.exceptions import ClientError

        with sessions.explained(f"looking at the training job {self._name}"):
            client = sessions.client(self._session, "sagemaker")
            try:
                found: Description = client.describe_training_job(TrainingJobName=self._name)
            except ClientError as error:
                if "not found" in sessions.error_message(error):
                    return None
                raise
        return found


def find_run(name: str) -> Run | None:
    """Find a run by its jobs, wherever it was launched; nothing where AWS knows none."""
    try:
        session = sessions.open_session()
    except BackendError:
        # Nobody has set up AWS here.
        return None
    try:
        with sessions.explained(f"looking for jobs of the run {name}"):
            if session.get_credentials() is None:
                return None
            found, _ = last_job(sessions.client(session, "sagemaker"), name)
    except BackendError as error:
        click.echo(f"SageMaker's jobs are not known: {error}", err=True)
        return None
    if found is None:
        return None
    sessions.use(None, session.region_name)
    place = results_of(found)
    run = Run(local_folder(place.uri) / name, place)
    return run if _take_up(run, found, session, None) else None


def _free_name(session: Session, run: Run, profile: str | None) -> str:
    """Return the name of a run's next job; refuse while one is at work."""
    with sessions.explained(f"looking for jobs of the run {run.name}"):
        last, taken = last_job(sessions.client(session, "sagemaker"), run.name)
    if last and (place := results_of(last).uri) != run.store.uri:
        msg = f"A run called `{run.name}` has its results in `{place}`: give another `--name`."
        raise SpecError(msg)
    if last and last["TrainingJobStatus"] not in ENDED:
        job = last["TrainingJobName"]
        if (run.launch or {}).get("job") != job:
            _take_up(run, last, session, profile)
        msg = f"The run `{run.name}` is under way as {job}: `embedtune logs {run.name} --follow`."
        raise BackendError(msg)
    return next_name(run.name, taken)


def _take_up(run: Run, found: Description, session: Session, profile: str | None) -> bool:
    """Note a job that was launched elsewhere, unless nothing says any more what it was to do."""
    if (text := spec_of(found)) is None:
        return False
    price = price_of(machines(found)[0], session.region_name, session)
    _note(run, text, found, session, profile, price)
    return True


def _note(
    run: Run, spec: str, document: Description, session: Session, profile: str | None, price: Price
) -> None:
    """Note where the job is, and keep the spec here: by it the run is taken up by its name."""
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
        price_per_hour=price.usd_per_hour,
        price_basis=price.basis,
    )
