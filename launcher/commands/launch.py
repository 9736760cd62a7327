"""`embedtune launch`: runs the job of a job file and options."""

import json
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from job.core.errors import BackendError, Interrupted, SpecError, Stopped
from job.spec.pairs_options import LLM
from launcher.commands.machine import machine_options
from launcher.commands.options import (
    OUTPUT_SOURCES,
    print_report,
    require_option,
    view_options,
)
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    from job.spec.schema import JobSpec
    from launcher.live.view import Style
    from launcher.plan.plan import Plan
    from launcher.runs.run import Run

WAYS_TO_BEGIN = """\
Nothing to launch yet. Four ways to begin:

  with a file of pairs (question, context)
    embedtune launch --data pairs.jsonl

  with documents only; a language model writes the questions
    embedtune launch --documents docs/ --llm openai:gpt-4o-mini

  with a job file, which sets everything
    embedtune init --data pairs.jsonl
    embedtune launch job.yaml

  with the demo: real pairs, a small model, no account, a few minutes
    embedtune launch --data builtin:aws-docs --model builtin:minilm \\
      --set data.limit=1500 --set training.epochs=2

All options: embedtune launch --help"""


@click.command()
@click.argument(
    "job_file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--data", help="Pairs: a path, s3://…, a Hub id or builtin:aws-docs.")
@click.option("--documents", help="Documents instead of pairs: --llm writes the questions.")
@click.option(
    "--llm",
    metavar=LLM,
    help="Language model for --documents: openai:MODEL or bedrock:MODEL, or local:MODEL, which the "
    "job loads.",
)
@click.option("--llm-url", metavar="URL", help="Its server with OpenAI's API.")
@click.option("--model", help="Base model: a Hub id, a folder, s3://… or builtin:minilm.")
@click.option(
    "--output", help=f"Where to write results: a folder or s3://bucket/prefix.  {OUTPUT_SOURCES}"
)
@click.option(
    "--preset",
    type=click.Choice(["quick", "balanced", "best"]),
    help="quick takes minutes, balanced is the default, best averages five trainings.",
)
@click.option("--name", help="Name of the run; the name of an unfinished run resumes it.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 20),
    help="Train so many times, for a mean lift whose interval covers other trainings too.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set any spec field, such as training.epochs=3; may be repeated.",
)
@machine_options()
@require_option
@view_options
@click.option("--detach", is_flag=True, help="docker, sagemaker: start the job and return.")
@click.option("--dry-run", is_flag=True, help="Print spec and request as JSON; submit nothing.")
def launch(
    job_file: Path | None,
    data: str | None,
    documents: str | None,
    llm: str | None,
    llm_url: str | None,
    model: str | None,
    output: str | None,
    preset: str | None,
    name: str | None,
    seeds: int | None,
    settings: tuple[str, ...],
    requirements: tuple[str, ...],
    style: "Style | None",
    *,
    detach: bool,
    dry_run: bool,
    **options: Any,  # noqa: ANN401  the fields of MachineOptions, as `machine_options` names them
) -> None:
    """Run the job of JOB_FILE, options, or both (options override)."""
    if _is_empty(click.get_current_context()):
        click.echo(WAYS_TO_BEGIN, err=True)
        sys.exit(click.UsageError.exit_code)
    from launcher.backends.registry import load_backend
    from launcher.plan.plan import Plan
    from launcher.plan.run_names import check_name, new_name
    from launcher.runs.requirements import parse_requirement, require
    from launcher.runs.run import Run

    required = list(map(parse_requirement, requirements))
    machine = MachineOptions(**options)
    if unsupported := ", ".join(machine.unsupported()):
        msg = f"`--backend {machine.backend}` does not accept {unsupported}."
        raise click.UsageError(msg)
    given = {"data.source": data, "model.base": model, "output.uri": output, "preset": preset}
    given |= {"data.documents": documents, "generation.llm": llm, "generation.llm_url": llm_url}
    spec = _build_spec(job_file, given | {"training.seeds": seeds}, settings, name, machine)
    plan = Plan(check_name(name or new_name(spec.model.base)), spec, machine)
    request = load_backend(machine.backend).request(plan)
    run = Run(plan.folder, plan.destination)
    if dry_run:
        _show_request(plan, run, request)
        return
    _check_spec_of(run, spec)
    if run.is_finished:
        click.echo(f"The run {run.name} has already finished; nothing was changed.", err=True)
    else:
        _run(plan, run, request, style or "auto", detach=detach)
        if detach:
            return
    finished = Run(plan.folder, plan.destination)
    print_report(finished)
    require(finished.report(), required)


def _is_empty(context: click.Context) -> bool:
    """Return whether a command got neither arguments nor options."""
    given = map(context.get_parameter_source, context.params)
    return not any(source is ParameterSource.COMMANDLINE for source in given)


def _show_request(plan: "Plan", run: "Run", request: dict[str, Any]) -> None:
    if "command" in request and not run.is_finished:
        from launcher.backends.docker import backend as docker

        # Prepare the workspace, so that the printed command can be run as it is.
        _check_spec_of(run, plan.spec)
        docker.prepare(plan, request)
    spec = plan.spec.model_dump(mode="json")
    click.echo(json.dumps({"spec": spec, "request": request}, indent=2))


def _run(
    plan: "Plan", run: "Run", request: dict[str, Any], style: "Style", *, detach: bool
) -> None:
    """Submit the job and, unless detached, follow it; exits with its code if it fails."""
    from launcher.backends.registry import load_backend
    from launcher.lookup import follow, sigterm_as_interrupt

    machine = plan.machine
    if detach and machine.backend == "process":
        msg = "`--detach` does not work with `--backend process`: the job ends with its launcher."
        raise BackendError(msg)
    if style != "quiet":
        click.echo(f"Run {run.name}; results will be in {run.store.uri}", err=True)
    with sigterm_as_interrupt():
        job = load_backend(machine.backend).submit(plan, request)
        if detach:
            click.echo(f"To follow it: {_command('logs', plan)} --follow", err=True)
            return
        # stdout is reserved for the report.
        stops = machine.backend != "sagemaker" or machine.stop_on_interrupt
        code = follow(run, job, sys.stderr, style, stop_on_interrupt=stops)
    if code in (Interrupted.exit_code, Stopped.exit_code):
        # The stored spec does not contain the output location and the machine options.
        command = f"{_command('launch', plan)} {shlex.join(machine.arguments())}".rstrip()
        click.echo(f"To resume: {command}", err=True)
    if code:
        sys.exit(code)


def _check_spec_of(run: "Run", spec: "JobSpec") -> None:
    """Refuse the name if a run with another spec has it, here or at the output."""
    from job.storage.workspace import check_same_spec

    local = run.workspace.job_spec
    existing = {
        str(run.folder): local.read_text("utf-8") if local.is_file() else None,
        run.store.uri: run.store.read("spec.json"),
    }
    for location, text in existing.items():
        if text is not None:
            check_same_spec(text, location, spec)


def _build_spec(
    job_file: Path | None,
    given: dict[str, Any],
    settings: tuple[str, ...],
    name: str | None,
    machine: MachineOptions,
) -> "JobSpec":
    """Merge the job file with the options; with only a run's name, use that run's stored spec."""
    from job.spec.generation_section import require_llm
    from job.spec.parse import build_spec, parse_assignments, read_document
    from launcher.plan.plan import local_folder
    from launcher.plan.settings import default_output
    from launcher.runs.run import Run

    options = {k: json.dumps(v, ensure_ascii=False) for k, v in given.items() if v is not None}
    path = job_file
    if name and not job_file and set(options) <= {"output.uri"} and not settings:
        folder = local_folder(given["output.uri"] or default_output()) / name
        stored = Run(folder).workspace.job_spec
        path = stored if stored.is_file() else None
    document = read_document(path) if path else {}
    output = document.get("output")
    default = {}
    if not (given["output.uri"] or (isinstance(output, dict) and output.get("uri"))):
        default = {"output.uri": json.dumps(_default_output(machine))}
    spec = build_spec(document, default | parse_assignments(settings) | options)
    if spec.data.documents is not None:
        spec = _with_token_prices(spec, name, machine)
        require_llm(spec.data, spec.generation)
    elif spec.generation.llm:
        msg = f"`generation.llm` (`{spec.generation.llm}`) writes questions about documents: "
        raise SpecError(msg + "pass `--documents`, or leave it out.")
    elif spec.data.source is None:
        msg = "No data: pass `--data`, or a job file with `data.source` (`embedtune init`)."
        raise SpecError(msg)
    return spec


def _with_token_prices(spec: "JobSpec", name: str | None, machine: MachineOptions) -> "JobSpec":
    """Add the prices of Amazon Bedrock's models: those that the run began with, or today's."""
    from job.spec.parse import build_spec, read_document
    from launcher.aws.token_prices import with_token_prices
    from launcher.plan.plan import local_folder
    from launcher.runs.run import Run

    stored = Run(local_folder(spec.output.uri) / name).workspace.job_spec if name else None
    if stored and stored.is_file():
        # What is wrong with it is said when the specs are compared.
        with suppress(SpecError):
            earlier = build_spec(read_document(stored)).generation
            prices = {"input_price": earlier.input_price, "output_price": earlier.output_price}
            began = spec.generation.model_copy(update=prices)
            given = (spec.generation.input_price, spec.generation.output_price)
            if began == earlier and None in given:
                return spec.model_copy(update={"generation": began})
    return with_token_prices(spec, machine.profile, machine.region)


def _default_output(machine: MachineOptions) -> str:
    """Return the default output: for SageMaker, the stack's bucket."""
    from job.storage.stores import S3
    from launcher.plan.settings import default_output

    output = default_output()
    if machine.backend != "sagemaker" or output.startswith(S3):
        return output
    from launcher.backends.sagemaker.context import stack_output

    return stack_output(machine) or output


def _command(name: str, plan: "Plan") -> str:
    """Return a command for this run, with `--output` unless it is the default."""
    from launcher.plan.settings import default_output

    run = [plan.name] if name == "logs" else ["--name", plan.name]
    output = plan.spec.output.uri
    option = [] if output == default_output() else ["--output", output]
    return shlex.join(["embedtune", name, *run, *option])
