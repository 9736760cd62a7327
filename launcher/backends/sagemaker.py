"""Backend `sagemaker`: the job as a SageMaker training job, its inputs staged to the bucket.

A run that is taken up again becomes the job `RUN-2`, `RUN-3` …: the names of jobs are unique for
ever. Checkpoints and results are the run's, whatever its job is called.
"""

import sys
import time
from typing import Any

import click

from job.errors import BackendError, SpecError
from job.places import S3Place
from job.workspace import write_atomically
from launcher import aws, site
from launcher.artefacts import bring_home
from launcher.cloud_logs import CloudLog
from launcher.cost import Price, actual, price_of
from launcher.ending import ENDED, ending, machines
from launcher.following import PAUSE_SECONDS, Following
from launcher.job_search import last_job, next_name, results_of, spec_of, spec_place
from launcher.ledger import note_launch, write_receipt
from launcher.plan import Plan, local_folder
from launcher.runs import LAUNCH, Run
from launcher.sdk import create_training_job
from launcher.staging import upload
from launcher.training_job import build_request, channels, check_plan, staging
from launcher.validation import check_request

OPTIONS = {
    "image", "instance_type", "instances", "volume_gb", "spot", "max_runtime", "max_wait",
    "keep_alive", "input_mode", "isolate", "subnet", "security_group", "volume_kms_key",
    "hf_token_secret", "tag", "env", "role", "stack", "profile", "region", "max_cost",
    "stop_on_interrupt",
}  # fmt: skip


def request(plan: Plan) -> dict[str, Any]:
    """Build the job's request; asks AWS only for what no option says."""
    check_plan(plan)
    where = site.find(plan.machine)
    document = build_request(plan, where, plan.name)
    check_request(document)
    places = channels(plan, where)
    return {
        "backend": "sagemaker",
        "region": where.region,
        "create_training_job": document,
        "staging": {places[name]: path for name, path in staging(plan).items()},
    }


def prepare(plan: Plan, request: dict[str, Any]) -> None:
    """Upload the spec and what the job reads from this machine; keep the spec here as well."""
    text, kms_key = plan.spec.to_json(), plan.spec.output.kms_key
    for address, source in request["staging"].items():
        upload(S3Place(address, kms_key), source, plan.spec.model, plan.folder)
    spec_place(request["create_training_job"], kms_key).write("job.json", text)
    _keep_spec(Run(plan.folder, plan.destination), text)


def submit(plan: Plan, request: dict[str, Any], *, detach: bool) -> int:
    session = aws.open_session(plan.machine.profile, request["region"])
    run, document = Run(plan.folder, plan.destination), request["create_training_job"]
    document["TrainingJobName"] = _free_name(session, run, plan.machine.profile)
    price = site.complete(session, plan, document)
    prepare(plan, request)
    # Before it is sent: whatever then becomes of this process, the job is found again.
    _note(run, document, session, plan.machine.profile, price)
    _create(run, session, document)
    click.echo(f"Training job {document['TrainingJobName']} in {request['region']}", err=True)
    if detach:
        return 0
    return follow(run, attached=True, stop_on_interrupt=plan.machine.stop_on_interrupt)


def _create(run: Run, session: Any, document: dict[str, Any]) -> None:  # noqa: ANN401  boto3's
    """Start the job; one that was refused leaves no note."""
    try:
        with aws.explained(f"starting the training job {document['TrainingJobName']}"):
            create_training_job(session, document)
    except BackendError as error:
        # The SDK reads the job that it has made, and may fail in that alone.
        msg = f"{error} Whether it was started all the same: `embedtune status {run.name}`."
        try:
            found = _describe(run)
        except BackendError:
            raise BackendError(msg) from None
        if found is None:
            (run.workspace.root / LAUNCH).unlink()
            raise


def follow(run: Run, *, attached: bool = False, stop_on_interrupt: bool = False) -> int:
    """Show status and log until the job ends; returns its exit code.

    Ctrl-C leaves the job running, unless it is to be stopped.
    """
    session, name = _session(run), _job(run)
    clients = aws.client(session, "sagemaker"), aws.client(session, "logs")
    following = Following(name, *clients, sys.stderr if attached else sys.stdout)
    again, state = f"embedtune logs {run.name} --follow", "The job goes on"
    try:
        try:
            found = following.until_end()
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                raise
            _ask_to_stop(run)
            state = "The job is being stopped"
            found = following.until_end()
    except KeyboardInterrupt:
        how = f"{again}; to end it: embedtune stop {run.name}"
        click.echo(f"{state}. To follow it: {how}", err=True)
        raise click.exceptions.Exit(0) from None
    except BackendError as error:
        msg = f"{error} The job itself is not affected; to follow it again: `{again}`."
        raise BackendError(msg) from None
    return _outcome(run, found)


def stop(run: Run) -> None:
    _ask_to_stop(run)
    while is_running(run):
        time.sleep(PAUSE_SECONDS)
    settle(run)


def is_running(run: Run) -> bool:
    found = _describe(run)
    return found is not None and found["TrainingJobStatus"] not in ENDED


def settle(run: Run) -> None:
    """Note what SageMaker billed, once the job has ended; bring an isolated job's results home."""
    found = _describe(run)
    if found is None:
        where = _session(run).region_name
        click.echo(f"SageMaker knows no training job {_job(run)} of yours in {where}.", err=True)
        return
    if found["TrainingJobStatus"] not in ENDED:
        return
    if found["TrainingJobStatus"] == "Completed" and found.get("EnableNetworkIsolation"):
        bring_home(run, found["TrainingJobName"], found["OutputDataConfig"].get("KmsKeyId"))
    billable, price = found.get("BillableTimeInSeconds", 0), _price(run, found)
    usd = actual(price, billable, machines(found)[1])
    write_receipt(
        run,
        ending(found)[0],
        found.get("TrainingTimeInSeconds", 0),
        usd=None if usd is None else round(usd, 4),
        billable_seconds=billable,
        job=found["TrainingJobName"],
        status=found["SecondaryStatus"],
        reason=found.get("FailureReason"),
        price_basis=price.basis,
    )


def show_log(run: Run) -> bool:
    with aws.explained(f"reading the log of {_job(run)}"):
        lines = list(CloudLog(aws.client(_session(run), "logs"), _job(run)).new_lines())
    for line in lines:
        click.echo(line)
    found = _describe(run)
    if found and not lines:
        said = [found["SecondaryStatus"], found.get("FailureReason", "")]
        click.echo(f"No line yet. SageMaker says: {'. '.join(filter(None, said))}", err=True)
    return bool(lines)


def run_called(name: str) -> Run | None:
    """Find a run by its jobs, wherever it was launched; nothing where AWS knows none."""
    try:
        session = aws.open_session()
    except BackendError:
        # Nobody has set up AWS here.
        return None
    try:
        with aws.explained(f"looking for jobs of the run {name}"):
            if session.get_credentials() is None:
                return None
            found, _ = last_job(aws.client(session, "sagemaker"), name)
    except BackendError as error:
        click.echo(f"SageMaker's jobs are not known: {error}", err=True)
        return None
    if found is None:
        return None
    aws.use(None, session.region_name)
    place = results_of(found)
    run = Run(local_folder(place.uri) / name, place)
    return run if _take_up(run, found, session, None) else None


def _outcome(run: Run, found: dict[str, Any]) -> int:
    """Say what the job cost, and why it failed, if it did."""
    settle(run)
    receipt = run.receipt or {}
    if (usd := receipt.get("usd")) is not None:
        click.echo(f"Cost: ${usd:.4f}, {receipt['billable_seconds']} s billed", err=True)
    code, why = ending(found)
    if code:
        click.echo(f"Error: {why}", err=True)
    return code


def _price(run: Run, found: dict[str, Any]) -> Price:
    """Return the price that the launch knew, if it was of the machines that were used."""
    launch, (kind, _) = run.launch or {}, machines(found)
    if kind in ("", launch.get("instance_type")):
        return Price(launch.get("price_per_hour"), launch.get("price_basis", ""))
    session = _session(run)
    return price_of(kind, session.region_name, session)


def _take_up(run: Run, found: dict[str, Any], session: Any, profile: str | None) -> bool:  # noqa: ANN401
    """Note a job that was launched elsewhere, unless nothing says any more what it was to do."""
    if (text := spec_of(found)) is None:
        return False
    _keep_spec(run, text)
    kind, _ = machines(found)
    price = price_of(kind, session.region_name, session)
    _note(run, found, session, profile, price)
    return True


def _note(
    run: Run,
    document: dict[str, Any],
    session: Any,  # noqa: ANN401
    profile: str | None,
    price: Price,
) -> None:
    run.workspace.root.mkdir(parents=True, exist_ok=True)
    note_launch(
        run,
        {"backend": "sagemaker"},
        job=document["TrainingJobName"],
        region=session.region_name,
        profile=profile,
        instance_type=machines(document)[0],
        price_per_hour=price.usd_per_hour,
        price_basis=price.basis,
    )


def _keep_spec(run: Run, text: str) -> None:
    """Keep the spec here: it says where the results are, and takes the run up by its name."""
    path = run.workspace.job_spec
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _free_name(session: Any, run: Run, profile: str | None) -> str:  # noqa: ANN401  boto3's session
    """Return the name of a run's next job; refuse while one is at work."""
    with aws.explained(f"looking for jobs of the run {run.name}"):
        last, taken = last_job(aws.client(session, "sagemaker"), run.name)
    if last and (place := results_of(last).uri) != run.place.uri:
        msg = f"A run called `{run.name}` has its results in `{place}`: give another `--name`."
        raise SpecError(msg)
    if last and last["TrainingJobStatus"] not in ENDED:
        job = last["TrainingJobName"]
        if (run.launch or {}).get("job") != job:
            _take_up(run, last, session, profile)
        msg = f"The run `{run.name}` is under way as {job}: `embedtune logs {run.name} --follow`."
        raise BackendError(msg)
    return next_name(run.name, taken)


def _ask_to_stop(run: Run) -> None:
    if is_running(run):
        with aws.explained(f"stopping the training job {_job(run)}"):
            aws.client(_session(run), "sagemaker").stop_training_job(TrainingJobName=_job(run))


def _job(run: Run) -> str:
    return str((run.launch or {})["job"])


def _session(run: Run) -> Any:  # noqa: ANN401
    """Open the session that the run was launched with; what reads S3 goes by it as well."""
    launch = run.launch or {}
    session = aws.open_session(launch["profile"], launch["region"])
    aws.use(launch["profile"], launch["region"])
    return session


def _describe(run: Run) -> dict[str, Any] | None:
    """Ask how the run's job is; nothing where AWS knows no such job, as it was never started."""
    from botocore.exceptions import ClientError

    with aws.explained(f"looking at the training job {_job(run)}"):
        client = aws.client(_session(run), "sagemaker")
        try:
            found: dict[str, Any] = client.describe_training_job(TrainingJobName=_job(run))
        except ClientError as error:
            if "not found" in aws.error_message(error):
                return None
            raise
    return found
