"""The command `embedtune`: thin commands; every failure ends in `main` with its exit code.

Commands import what they need when they run: `--help` answers as fast as Click itself.
"""

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from job.errors import DataError, EmbedtuneError, Interrupted, SpecError, StorageError
from launcher.backends import BACKENDS, load_backend

if TYPE_CHECKING:
    from job.spec import JobSpec
    from launcher.plan import Plan
    from launcher.runs import Run

NAMED_OUTPUT = "[env: EMBEDTUNE_OUTPUT; default: runs]"


def _output_or_default(_: click.Context, __: click.Parameter, given: str | None) -> str:
    from launcher.settings import default_output

    return given or default_output()


output_option = click.option(
    "--output",
    callback=_output_or_default,
    help=f"Where the runs are: a folder or s3://bucket/prefix.  {NAMED_OUTPUT}",
)


class _Group(click.Group):
    """Turns expected failures into one line and their exit code, in one place."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's signature
        try:
            return super().invoke(ctx)
        except EmbedtuneError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="embedtune")
def main() -> None:
    """Fine-tune an embedding model on your question-context pairs, and prove that it helped."""


@main.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
def init(path: Path) -> None:
    """Write a commented job file, the article's own job, to PATH."""
    from job.workspace import write_atomically

    if path.exists():
        msg = f"`{path}` exists already; it was left as it is. Name another file."
        raise StorageError(msg)
    write_atomically(path, resources.files("launcher").joinpath("job.yaml").read_text("utf-8"))
    click.echo(f"Wrote {path}. Next: embedtune launch {path}")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the job file."""
    from job.spec import JobSpec

    click.echo(json.dumps(JobSpec.model_json_schema(), indent=2))


@main.command()
@click.argument("data")
@click.option("--model", help="Base model: counts the texts that it would cut.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A spec field.")
def check(data: str, model: str | None, settings: tuple[str, ...]) -> None:
    """Judge DATA (a path, s3://…, a Hub id, builtin:aws-docs) before anything is paid for."""
    command = [sys.executable, "-P", "-m", "job", "check", data]
    command += ["--model", model] if model else []
    for setting in settings:
        command += ["--set", setting]
    sys.exit(subprocess.run(command, check=False).returncode)


@main.command()
@click.argument(
    "job_file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--data", help="Pairs: a path, s3://…, a Hub id or builtin:aws-docs.")
@click.option("--model", help="Base model: a Hub id, a folder, s3://… or builtin:minilm.")
@click.option(
    "--output",
    help=f"What receives the results: a folder or s3://bucket/prefix.  {NAMED_OUTPUT}",
)
@click.option(
    "--preset",
    type=click.Choice(["quick", "balanced", "best"]),
    help="Minutes, the defaults, or everything that pays.",
)
@click.option("--name", help="Name of the run; that of an unfinished run takes it up again.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field of the spec, as in --set training.epochs=3.",
)
@click.option(
    "--backend",
    type=click.Choice(list(BACKENDS)),
    default="process",
    show_default=True,
    help="Where the job runs.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "mps", "cpu"]),
    default="auto",
    show_default=True,
    help="What it computes on.",
)
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    help="The machine's price in USD: puts a cost into the report.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, as JSON.")
def launch(
    job_file: Path | None,
    data: str | None,
    model: str | None,
    output: str | None,
    preset: str | None,
    name: str | None,
    settings: tuple[str, ...],
    backend: str,
    device: str,
    price_per_hour: float | None,
    *,
    dry_run: bool,
) -> None:
    """Run a job: JOB_FILE, options, or both (options win)."""
    from launcher.job_name import check_name, new_name
    from launcher.machine import MachineOptions
    from launcher.plan import Plan
    from launcher.runs import Run

    given = {"data.source": data, "model.base": model, "output.uri": output, "preset": preset}
    spec = _wanted_spec(job_file, given, settings, name)
    machine = MachineOptions(backend, device, price_per_hour)
    plan = Plan(check_name(name or new_name(spec.model.base)), spec, machine)
    where = load_backend(backend)
    request = where.request(plan)
    if dry_run:
        click.echo(json.dumps({"spec": spec.model_dump(mode="json"), "request": request}, indent=2))
        return
    run = Run(plan.folder, plan.destination)
    _check_spec_of(run, spec)
    if run.is_finished:
        click.echo(f"The run {run.name} is finished already; nothing was changed.", err=True)
    else:
        click.echo(f"Run {run.name}; results will be in {run.place.uri}", err=True)
        _follow(plan, lambda: where.submit(plan, request))
    _print_report(Run(plan.folder, plan.destination))


@main.command()
@click.argument("name", required=False)
@output_option
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser as well.")
def report(name: str | None, output: str, *, open_it: bool) -> None:
    """Show the report of the run NAME (or s3://…/NAME), or of the latest finished one.

    From S3 just the report is fetched, into runs/NAME/report.
    """
    from launcher.runs import find_run

    run = find_run(output, name)
    _print_report(run)
    if open_it:
        folder = run.folder / "report"
        page = folder / "report.html"
        click.launch(str(page if page.is_file() else folder / "report.md"))


@main.command()
@click.argument("name")
@output_option
@click.option("--model", "with_model", is_flag=True, help="Fetch the model as well.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to fetch into.  [default: runs/NAME]",
)
def fetch(name: str, output: str, folder: Path | None, *, with_model: bool) -> None:
    """Fetch the results of the run NAME (or s3://…/NAME) and verify them against its manifest."""
    from launcher.runs import fetch_results, find_run

    run = find_run(output, name)
    names = fetch_results(run, folder or run.folder, with_model=with_model)
    click.echo(f"{len(names)} files in {folder or run.folder}, as the manifest says")


@main.command()
@output_option
def ls(output: str) -> None:
    """List the runs, the latest first."""
    from rich.console import Console

    from launcher.runs import list_runs, preload
    from launcher.show import runs_table

    runs = list_runs(output)
    if runs:
        preload(runs)
        Console(highlight=False).print(runs_table(runs))
    else:
        click.echo(f"No runs in {output} yet. Start one with: embedtune launch", err=True)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME…")
@output_option
def compare(names: tuple[str, ...], output: str) -> None:
    """Put runs side by side: those that were tested on the same questions and documents."""
    from rich.console import Console

    from launcher.runs import by_test_set, find_run, preload
    from launcher.show import side_by_side

    runs = [find_run(output, name) for name in names]
    preload(runs)
    groups = by_test_set(runs)
    console = Console(highlight=False)
    for fingerprint, group in groups.items():
        console.print(side_by_side(fingerprint, group))
    if len(groups) > 1:
        msg = (
            f"These runs were tested on {len(groups)} different test sets (see the fingerprints), "
            "so their scores cannot be compared. Give them the same data, `data.seed` and limit."
        )
        raise DataError(msg)


def _check_spec_of(run: "Run", spec: "JobSpec") -> None:
    """Refuse a name that another job bears, here or where the results go."""
    from job.workspace import check_same_spec

    kept = run.workspace.job_spec
    earlier = {
        str(run.folder): kept.read_text("utf-8") if kept.is_file() else None,
        run.place.uri: run.place.read("spec.json"),
    }
    for place, text in earlier.items():
        if text is not None:
            check_same_spec(text, place, spec)


def _wanted_spec(
    job_file: Path | None,
    given: dict[str, str | None],
    settings: tuple[str, ...],
    name: str | None,
) -> "JobSpec":
    """Merge the job file with the options; with a run's name alone, take that run's own spec."""
    from job.spec_document import build_spec, parse_assignments, read_document
    from launcher.plan import local_folder
    from launcher.runs import Run
    from launcher.settings import default_output

    options = {
        key: json.dumps(value, ensure_ascii=False)
        for key, value in given.items()
        if value is not None
    }
    path = job_file
    if name and not job_file and set(options) <= {"output.uri"} and not settings:
        begun = local_folder(given["output.uri"] or default_output()) / name
        kept = Run(begun).workspace.job_spec
        path = kept if kept.is_file() else None
    document = read_document(path) if path else {}
    named = document.get("output")
    default = {}
    if not (isinstance(named, dict) and named.get("uri")):
        default = {"output.uri": json.dumps(default_output())}
    spec = build_spec(document, default | parse_assignments(settings) | options)
    if spec.data.source is None:
        msg = "No data: give `--data`, or a job file with `data.source` (`embedtune init`)."
        raise SpecError(msg)
    return spec


def _follow(plan: "Plan", submit: Callable[[], int]) -> None:
    """Run the job to its end; a failed job's exit code becomes ours."""
    code = submit()
    if code == Interrupted.exit_code:
        click.echo(f"To resume: {_resume_command(plan)}", err=True)
    if code:
        sys.exit(code)


def _resume_command(plan: "Plan") -> str:
    """Repeat what the run's own spec does not hold: where it lies and what it runs on."""
    from launcher.settings import default_output

    machine = plan.machine
    options = {
        "--name": plan.name,
        "--output": plan.spec.output.uri if plan.spec.output.uri != default_output() else None,
        "--device": machine.device if machine.device != "auto" else None,
        "--price-per-hour": machine.price_per_hour,
    }
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["embedtune", "launch", *itertools.chain.from_iterable(given)])


def _print_report(run: "Run") -> None:
    from rich.console import Console

    from launcher.show import show_report

    show_report(Console(highlight=False), run.report(), run.fetch_report())


if __name__ == "__main__":
    main()
