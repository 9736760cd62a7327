"""Run the job: `python -m job train [--workspace DIR]`; every outcome has an exit code.

The reason of a failure goes to stderr and to `output/failure`, in one line. A traceback means a
bug in embedtune.
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from job.core.errors import (
    EmbedtuneError,
    Interrupted,
    MachineError,
    OutOfMemory,
    StorageError,
    first_line,
)
from job.core.formatting import escape_to_one_line, for_terminal
from job.distributed.topology import read_topology
from job.distributed.torchrun import PEER_LOST, PEER_LOST_SECONDS, PeerLost, is_worker, run_workers
from job.runtime.oom import is_out_of_memory
from job.spec.parse import build_spec, parse_assignments
from job.spec.schema import JobSpec
from job.storage.workspace import DEFAULT_ROOT, Workspace

if TYPE_CHECKING:
    from job.runtime.signals import StopSignal

# With less free disk space than this, any failed write means a full disk.
DISK_FULL_BYTES = 1024 * 1024

workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_ROOT,
    allow_from_autoenv=False,
    help="Folder of the run, laid out like /opt/ml.",
)
RUN = ["EMBEDTUNE_RUN", "TRAINING_JOB_NAME"]
option = partial(click.option, show_envvar=True)
DEVICE, AMOUNT = click.Choice(["auto", "cuda", "mps", "cpu"]), click.FloatRange(min=0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Fine-tune an embedding model and prove that it helped.

    A run reads and writes only below one folder, /opt/ml. In a container, mount a folder there:

    \b
      docker run --gpus all --volume "$PWD/work":/opt/ml embedtune train

    \b
      input/data/spec/job.json              the job spec (`schema` describes it)
      input/config/hyperparameters.json     single fields of it: {"training.epochs": "3"}
      input/data/data/                      the pairs, unless the spec has their source
      checkpoints/                          keep it to resume an interrupted run
      model/  output/data/                  the results
    """  # noqa: D301  Click's mark for lines not to rewrap


# Click builds the name of an option's variable from this prefix and the option's name.
@main.command(context_settings={"auto_envvar_prefix": "EMBEDTUNE"})
@workspace_option
@option("--name", envvar=RUN, allow_from_autoenv=False, default="run", help="Name of the run.")
@option("--device", type=DEVICE, default="auto", help="Device to compute on.")
@option(
    "--price-per-hour", type=AMOUNT, help="Price of the machine in USD per hour, for the report."
)
@option(
    "--stall-minutes",
    type=AMOUNT,
    default=30.0,
    help="End a run after this many minutes without progress; 0: never.",
)
@option("--hf-token-secret", help="ARN of the AWS secret with the Hub token.")
@option(
    "--no-publish",
    is_flag=True,
    help="Leave the results in the workspace; do not upload or push them.",
)
def train(
    workspace: Path,
    name: str,
    device: str,
    price_per_hour: float | None,
    stall_minutes: float,
    hf_token_secret: str | None,
    *,
    no_publish: bool,
) -> None:
    """Train, evaluate and report, as the spec in the workspace says."""
    # Torch reads this at import. When workers end one after another, it would log C++ stack traces
    # about the closed store; real errors raise exceptions anyway.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Also read at import: threads that spin while waiting slow down training on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run_workspace = Workspace(workspace)

    def work() -> int:
        from job.runtime.signals import StopSignal

        # Before all else: process 1 of a container ignores signals without a handler.
        stop = StopSignal()
        stop.install()
        if hf_token_secret:
            from job.storage.secrets import use_hub_token

            use_hub_token(hf_token_secret)
        if not is_worker():
            topology = read_topology(run_workspace, device)
            if topology.world_size > 1:
                return run_workers(topology, run_workspace, name)
        publish = not no_publish
        _train(run_workspace, name, device, price_per_hour, stall_minutes, stop, publish=publish)
        return 0

    code = exit_code(work, run_workspace)
    if is_worker():
        # Torch's communication sometimes aborts in Python's cleanup at exit, so skip that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@main.command()
@click.argument("data")
@click.option("--model", default=None, help="Base model, to count tokens.")
@click.option(
    "--set", "settings", multiple=True, help="Set a field of the spec, such as data.limit=2000."
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON document.")
def check(data: str, model: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Check pairs without training.

    Reports which rows are used and dropped, the splits, and the smallest provable effect.
    """

    def work() -> None:
        from job.check import check_data

        given: dict[str, dict[str, str]] = {"data": {"source": data}}
        if model:
            given["model"] = {"base": model}
        spec = build_spec(given, parse_assignments(settings))
        write = click.echo if as_json else _echo_line
        check_data(spec, write, count_tokens=model is not None, as_json=as_json)

    sys.exit(exit_code(work, None, extra="data"))


@main.command()
@click.argument("data")
@click.option("--model", default=None, help="Base model.")
@click.option("--set", "settings", multiple=True, help="Set a field of the spec.")
def init(data: str, model: str | None, settings: tuple[str, ...]) -> None:
    """Print a commented job file for pairs, with what was recognized in them."""

    def work() -> None:
        from job.draft import draft_job_file

        given: dict[str, dict[str, str]] = {"data": {"source": data}}
        if model:
            given["model"] = {"base": model}
        text = draft_job_file(build_spec(given, parse_assignments(settings)))
        # Job files are UTF-8, whatever the terminal is.
        click.echo(text.encode("utf-8"), nl=False)

    sys.exit(exit_code(work, None, extra="data"))


def _echo_line(line: str) -> None:
    click.echo(for_terminal(escape_to_one_line(line), sys.stdout.encoding))


@main.command()
def schema() -> None:
    """Print the JSON Schema of the spec."""
    click.echo(json.dumps(JobSpec.model_json_schema(), indent=2))


@main.command()
@workspace_option
def report(workspace: Path) -> None:
    """Print the report of a finished run, as Markdown."""

    def work() -> None:
        folder = Workspace(workspace).report
        if not (folder / "report.md").is_file():
            msg = f"There is no report in `{folder}`: no run has finished in this workspace."
            raise StorageError(msg)
        click.echo((folder / "report.md").read_text("utf-8"))

    sys.exit(exit_code(work, None))


def _train(
    workspace: Workspace,
    name: str,
    device: str,
    price_per_hour: float | None,
    stall_minutes: float,
    stop: "StopSignal",
    *,
    publish: bool,
) -> None:
    started = time.perf_counter()
    from job.distributed import process_group
    from job.runtime.logs import log_nothing, log_to_stderr
    from job.runtime.watchdog import watched

    with process_group.peer_loss_detected():
        if is_worker():
            process_group.init(device)
        spec = process_group.from_rank_zero(workspace.read_spec)
        lock = workspace.locked() if process_group.local_rank() == 0 else nullcontext()
        job_log = workspace.logs / "job.log"
        with lock, watched(stall_minutes, workspace.write_failure, job_log):
            if not is_worker():
                workspace.failure.unlink(missing_ok=True)
            # All ranks do the same work; only rank 0 logs it.
            (log_to_stderr if process_group.is_rank_zero() else log_nothing)()
            from job.pipeline import RunContext, run

            context = RunContext(name, device, price_per_hour, publish, started)
            run(spec, workspace, context, stop)
        process_group.destroy()


def exit_code(
    work: Callable[[], int | None], workspace: Workspace | None, extra: str = "train"
) -> int:
    """Do the work and return its exit code; report a failure in one line.

    `extra` is the pip extra to suggest if a package is missing.
    """
    try:
        return work() or 0
    except BrokenPipeError:
        # The reader of our output closed the pipe (`| head`); Click then exits quietly.
        raise
    except PeerLost:
        # Let the process that failed first end first: its exit code and reason are the run's.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PEER_LOST_SECONDS)
        return PEER_LOST
    except BaseException as error:  # noqa: BLE001  only here, everything is caught
        expected = explain(error, workspace, extra)
        line = str(expected) if expected else f"{type(error).__name__}: {error}"
        if expected is None:
            traceback.print_exc()
        is_cause = workspace is None or not is_worker() or _is_first_failure(workspace)
        if expected and is_cause:
            click.echo(f"Error: {line}", err=True)
        # A workspace that is still locked belongs to the run of another process.
        if workspace is not None and is_cause and (is_worker() or not workspace.is_locked()):
            # If it is not writable, the line on stderr already says so.
            with suppress(OSError):
                workspace.write_failure(line)
        return expected.exit_code if expected else 1


def _is_first_failure(workspace: Workspace) -> bool:
    """Return whether this worker is the first of its host to fail; the others fail because of it.

    Torchrun stops the others, and some failures occur on all ranks of a host.
    """
    try:
        workspace.failure.parent.mkdir(parents=True, exist_ok=True)
        workspace.failure.touch(exist_ok=False)
    except OSError:
        # The file exists, or the workspace is not writable; report the latter.
        return not workspace.failure.is_file()
    return True


def explain(error: BaseException, workspace: Workspace | None, extra: str) -> EmbedtuneError | None:
    """Return the expected error for an exception, or None for a bug in embedtune."""
    if isinstance(error, EmbedtuneError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(
            "The run was interrupted; files already written are kept. Relaunch it to resume."
        )
    package = (getattr(error, "name", None) or "job").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package not in ("job", "launcher"):
        msg = f"The package `{error.name}` is missing: `pip install 'embedtune[{extra}]'`."
        return MachineError(msg)
    if is_out_of_memory(error):
        why = first_line(error)
        msg = f"Memory ran out ({why}). Set a smaller `training.mini_batch_size`, such as 16."
        return OutOfMemory(msg)
    is_full = (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        # safetensors' error has the cause only in its text; torch's has none.
        or f"(os error {errno.ENOSPC})" in str(error)
    )
    if workspace and isinstance(error, Exception) and workspace.root.is_dir():
        is_full = is_full or shutil.disk_usage(workspace.root).free < DISK_FULL_BYTES
    if is_full:
        return MachineError("The disk is full. Free some space and relaunch the run.")
    return None


if __name__ == "__main__":
    main()
