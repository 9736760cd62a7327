"""Backend `sagemaker`: the job as a SageMaker training job, its inputs staged to the bucket.

A run that is taken up again becomes the job `RUN-2`, `RUN-3` …: the names of jobs are unique for
ever. Checkpoints and results are the run's, whatever its job is called.
"""

import re
import sys
import time
from typing import Any, TextIO

import click

from job.errors import BackendError, OutOfMemory, Stopped, TimeLimit
from job.places import Place, open_place
from job.workspace import write_atomically
from launcher import aws, site
from launcher.artefacts import bring_home
from launcher.cloud_logs import CloudLog
from launcher.cost import Price, actual, price_of
from launcher.ledger import note_launch, write_receipt
from launcher.live import Live
from launcher.plan import Plan, local_folder
from launcher.runs import Run
from launcher.sdk import create_training_job
from launcher.staging import upload
from launcher.training_job import ARTEFACTS, build_request, channels, check_plan, staging
from launcher.validation import check_request

OPTIONS = {
    "image", "instance_type", "instances", "volume_gb", "spot", "max_runtime", "max_wait",
    "keep_alive", "input_mode", "isolate", "subnet", "security_group", "volume_kms_key",
    "hf_token_secret", "tag", "env", "role", "stack", "profile", "region", "max_cost",
    "stop_on_interrupt",
}  # fmt: skip
ENDED = ("Completed", "Failed", "Stopped")
PAUSE_SECONDS, LAST_PAUSE_SECONDS = 2.0, 1.0
# CloudWatch shows the last lines a little after the job's end.
LAST_LOOKS = 3
KILLED = 137
# What SageMaker says, and what to do about it; the first that fits.
EXPLANATIONS = {
    "CapacityError": "There is no such machine free: launch the name again later, or give more "
    "than one `--instance-type`.",
    "ResourceLimitExceeded": "The quota is too small: `embedtune doctor` says how to raise it.",
    "Data download failed": "SageMaker could not read the data: do they exist, and may the role "
    "read that bucket (`embedtune infra deploy --data-bucket`)?",
    "Cannot pull": "SageMaker could not fetch the image: `embedtune image push`.",
    "no basic auth credentials": "The role may not read the image's repository.",
    "sts:AssumeRole": "SageMaker may not act as this role: `embedtune doctor`.",
}  # fmt: skip


# A job's own failure, as SageMaker tells it; its code is the container's.
OWN_FAILURE = re.compile(r"AlgorithmError: (.*?),? exit code: (\d+)", re.DOTALL)


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
    text = plan.spec.to_json()
    _keep_spec(Run(plan.folder, plan.destination), text)
    _spec_place(request["create_training_job"], plan.spec.output.kms_key).write("job.json", text)
    for address, source in request["staging"].items():
        upload(open_place(address, plan.spec.output.kms_key), source, plan.spec.model)


def submit(plan: Plan, request: dict[str, Any], *, detach: bool) -> int:
    session = aws.open_session(plan.machine.profile, request["region"])
    document = request["create_training_job"]
    document["TrainingJobName"] = _free_name(session, plan.name)
    price = site.complete(session, plan, document)
    prepare(plan, request)
    with aws.explained(f"starting the training job {document['TrainingJobName']}"):
        create_training_job(session, document)
    run = Run(plan.folder, plan.destination)
    _note(run, document, request["region"], plan.machine.profile, price)
    click.echo(f"Training job {document['TrainingJobName']} in {request['region']}", err=True)
    if detach:
        return 0
    return follow(run, attached=True, stop_on_interrupt=plan.machine.stop_on_interrupt)


def follow(run: Run, *, attached: bool = False, stop_on_interrupt: bool = False) -> int:
    """Show status and log until the job ends; returns its exit code.

    Ctrl-C leaves the job running, unless it is to be stopped.
    """
    to = sys.stderr if attached else sys.stdout
    try:
        try:
            return _outcome(run, _watch(run, to))
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                raise
            stop(run)
            return _outcome(run, _watch(run, to))
    except KeyboardInterrupt:
        how = f"embedtune logs {run.name} --follow; to end it: embedtune stop {run.name}"
        click.echo(f"The job goes on. To follow it: {how}", err=True)
        raise click.exceptions.Exit(0) from None
    except BackendError as error:
        msg = f"{error} The job goes on; to follow it again: `embedtune logs {run.name} --follow`."
        raise BackendError(msg) from None


def stop(run: Run) -> None:
    name = _job(run)
    with aws.explained(f"stopping the training job {name}"):
        sagemaker = aws.client(_session(run), "sagemaker")
        if sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] not in ENDED:
            sagemaker.stop_training_job(TrainingJobName=name)
        while (
            sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] not in ENDED
        ):
            time.sleep(PAUSE_SECONDS)
    settle(run)


def is_running(run: Run) -> bool:
    return _describe(run)["TrainingJobStatus"] not in ENDED


def settle(run: Run) -> None:
    """Note what SageMaker billed, once the job has ended; bring an isolated job's results home."""
    found = _describe(run)
    if found["TrainingJobStatus"] not in ENDED:
        return
    if found["TrainingJobStatus"] == "Completed" and found.get("EnableNetworkIsolation"):
        bring_home(run, found["TrainingJobName"])
    billable = found.get("BillableTimeInSeconds", 0)
    launch = run.launch or {}
    price = Price(launch.get("price_per_hour"), launch.get("price_basis", ""))
    usd = actual(price, billable, found["ResourceConfig"].get("InstanceCount", 1))
    write_receipt(
        run,
        exit_code(found),
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
        for line in CloudLog(aws.client(_session(run), "logs"), _job(run)).new_lines():
            click.echo(line)
    return True


def run_called(name: str) -> Run | None:
    """Find a run by its jobs' tag, wherever it was launched; nothing where AWS knows none."""
    try:
        session = aws.open_session()
        with aws.explained(f"looking for jobs of the run {name}"):
            sagemaker = aws.client(session, "sagemaker")
            if not (jobs := _jobs_of(sagemaker, name)):
                return None
            found = sagemaker.describe_training_job(TrainingJobName=jobs[-1])
    except BackendError:
        return None
    place = open_place(found["OutputDataConfig"]["S3OutputPath"].removesuffix(f"/{ARTEFACTS}"))
    run = Run(local_folder(place.uri) / name, place)
    _keep_spec(run, _spec_place(found).read("job.json") or "")
    kind = found["ResourceConfig"].get("InstanceType", "")
    _note(run, found, session.region_name, None, price_of(kind, session.region_name, session))
    return run


def exit_code(found: dict[str, Any]) -> int:
    """Read the container's code back from what SageMaker says of a job that has ended."""
    status, detail = found["TrainingJobStatus"], found["SecondaryStatus"]
    if status == "Completed":
        return 0
    if detail in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        return TimeLimit.exit_code
    if status == "Stopped":
        return Stopped.exit_code
    own = OWN_FAILURE.search(found.get("FailureReason", ""))
    if own is None:
        return BackendError.exit_code
    return OutOfMemory.exit_code if int(own[2]) == KILLED else int(own[2])


def _watch(run: Run, to: TextIO) -> dict[str, Any]:
    """Print each status and line once, until the job has ended; returns its description."""
    name, session = _job(run), _session(run)
    log = CloudLog(aws.client(session, "logs"), name)
    seen, looks = 0, 0
    with aws.explained(f"following the training job {name}"), Live(to) as live:
        while True:
            found = _describe(run)
            changes = found.get("SecondaryStatusTransitions", [])
            for change in changes[seen:]:
                live.say(f"-- {change['Status']}: {change.get('StatusMessage', '')}".rstrip(": "))
            seen = len(changes)
            for line in log.new_lines():
                live.say(line)
            if found["TrainingJobStatus"] in ENDED:
                looks += 1
            if looks > LAST_LOOKS:
                return found
            time.sleep(PAUSE_SECONDS if not looks else LAST_PAUSE_SECONDS)


def _outcome(run: Run, found: dict[str, Any]) -> int:
    """Say what the job cost, and in words why it failed, if it did."""
    settle(run)
    receipt = run.receipt or {}
    if (usd := receipt.get("usd")) is not None:
        click.echo(f"Cost: ${usd:.4f}, {receipt['billable_seconds']} s billed", err=True)
    code, reason = exit_code(found), found.get("FailureReason", "")
    if code == TimeLimit.exit_code:
        msg = (
            f"The job's time was up ({found['SecondaryStatus']}). Launch the run's name again with "
            "a longer `--max-runtime` to go on from its checkpoint."
        )
        raise TimeLimit(msg)
    if code == BackendError.exit_code:
        advice = next((text for key, text in EXPLANATIONS.items() if key in reason), "")
        msg = f"{advice} SageMaker says: {reason}".strip()
        raise BackendError(msg)
    if code:
        click.echo(f"SageMaker says: {found['SecondaryStatus']}. {reason}".rstrip(), err=True)
    return code


def _note(
    run: Run, document: dict[str, Any], region: str, profile: str | None, price: Price
) -> None:
    run.workspace.root.mkdir(parents=True, exist_ok=True)
    note_launch(
        run,
        {"backend": "sagemaker"},
        job=document["TrainingJobName"],
        region=region,
        profile=profile,
        price_per_hour=price.usd_per_hour,
        price_basis=price.basis,
    )


def _keep_spec(run: Run, text: str) -> None:
    """Keep the spec here: it says where the results are, and takes the run up by its name."""
    path = run.workspace.job_spec
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _spec_place(document: dict[str, Any], kms_key: str | None = None) -> Place:
    """Return where a job's spec lies, from its request or its description."""
    given = document["InputDataConfig"]
    (spec,) = (channel for channel in given if channel["ChannelName"] == "spec")
    return open_place(spec["DataSource"]["S3DataSource"]["S3Uri"], kms_key)


def _free_name(session: Any, run: str) -> str:  # noqa: ANN401  boto3's session
    """Return the name of a run's next job; refuse while one is at work."""
    with aws.explained(f"looking for jobs of the run {run}"):
        sagemaker = aws.client(session, "sagemaker")
        jobs = _jobs_of(sagemaker, run)
        if not jobs:
            return run
        last = sagemaker.describe_training_job(TrainingJobName=jobs[-1])
    if last["TrainingJobStatus"] not in ENDED:
        msg = f"The run `{run}` is under way as {jobs[-1]}: `embedtune logs {run} --follow`."
        raise BackendError(msg)
    return f"{run}-{_number(jobs[-1], run) + 1}"


def _jobs_of(sagemaker: Any, run: str) -> list[str]:  # noqa: ANN401
    """List a run's jobs, the first one first."""
    pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains=run)
    names = [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]
    own = [name for name in names if re.fullmatch(rf"{re.escape(run)}(-\d+)?", name)]
    return sorted(own, key=lambda name: _number(name, run))


def _number(job: str, run: str) -> int:
    return int(job.removeprefix(run).removeprefix("-") or 1)


def _job(run: Run) -> str:
    return str((run.launch or {})["job"])


def _session(run: Run) -> Any:  # noqa: ANN401
    launch = run.launch or {}
    return aws.open_session(launch["profile"], launch["region"])


def _describe(run: Run) -> dict[str, Any]:
    with aws.explained(f"looking at the training job {_job(run)}"):
        client = aws.client(_session(run), "sagemaker")
        found: dict[str, Any] = client.describe_training_job(TrainingJobName=_job(run))
    return found
