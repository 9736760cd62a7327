"""Run the job: `python -m job train [--workspace DIR]`; every outcome has an exit code.

The reason of a failure goes to stderr and to `output/failure`, in one line. A traceback means a
bug in embedtune.
"""

import json
import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from job.commands import check, export, index, init, pairs, verify
from job.core.errors import Interrupted, StorageError
from job.distributed.topology import read_topology, use_one_gpu
from job.distributed.torchrun import is_worker, run_workers
from job.outcome import exit_code
from job.run_context import RunContext
from job.runtime.libraries import set_library_variables
from job.spec.options import DEVICE
from job.spec.schema import JobSpec
from job.storage.workspace import DEFAULT_ROOT, Workspace

if TYPE_CHECKING:
    from job.runtime.signals import StopSignal

workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_ROOT,
    allow_from_autoenv=False,
    help="Folder of the run, laid out like /opt/ml.",
)
RUN = ["EMBEDTUNE_RUN", "TRAINING_JOB_NAME"]
option = partial(click.option, show_envvar=True)
AMOUNT = click.FloatRange(min=0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Fine-tune an embedding model and prove that it helped.

    A run reads and writes only below one folder, /opt/ml. In a container, mount a folder there:

    \b
      docker run --gpus all --shm-size 1g --volume "$PWD/work":/opt/ml embedtune train

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
@option("--llm-key-secret", help="ARN of the AWS secret with the language model's key.")
@option(
    "--no-publish",
    is_flag=True,
    help="Leave the results in the workspace; do not upload or push them.",
)
@option(
    "--delete-published",
    is_flag=True,
    help="Delete the results from the workspace once they are published.",
)
@option("--spot", is_flag=True, help="After an interruption, wait for the end of the machine.")
def train(
    workspace: Path,
    name: str,
    device: str,
    price_per_hour: float | None,
    stall_minutes: float,
    hf_token_secret: str | None,
    llm_key_secret: str | None,
    *,
    no_publish: bool,
    delete_published: bool,
    spot: bool,
) -> None:
    """Train, evaluate and report, as the spec in the workspace says."""
    set_library_variables()
    run_workspace = Workspace(workspace)
    context = RunContext(name, device, price_per_hour, not no_publish, delete_published)

    def work() -> int:
        from job.runtime.signals import StopSignal

        # Before all else: process 1 of a container ignores signals without a handler.
        stop = StopSignal()
        stop.install()
        if is_worker():
            stop.exit_if_unhandled()
        if hf_token_secret:
            from job.storage.secrets import use_hub_token

            use_hub_token(hf_token_secret)
        if llm_key_secret:
            from job.storage.secrets import use_llm_key

            use_llm_key(llm_key_secret)
        if not is_worker():
            topology = read_topology(run_workspace, device)
            if topology.world_size > 1:
                return run_workers(topology, run_workspace, name)
            use_one_gpu(device)
        _train(run_workspace, context, stall_minutes, stop)
        return 0

    code = exit_code(work, run_workspace)
    if is_worker():
        # Torch's communication sometimes aborts in Python's cleanup at exit, so skip that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if spot and code == Interrupted.exit_code:
        from job.runtime.signals import wait_for_kill

        wait_for_kill()
    sys.exit(code)


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
    context: RunContext,
    stall_minutes: float,
    stop: "StopSignal",
) -> None:
    from job.distributed import process_group
    from job.runtime.logs import log_nothing, log_to_stderr
    from job.runtime.watchdog import watched

    with process_group.peer_loss_detected():
        if is_worker():
            process_group.init(context.device)
        spec = process_group.from_rank_zero(workspace.read_spec)
        lock = workspace.locked() if process_group.local_rank() == 0 else nullcontext()
        job_log = workspace.logs / "job.log"
        with lock, watched(stall_minutes, workspace.write_failure, job_log):
            if not is_worker():
                workspace.failure.unlink(missing_ok=True)
            # All ranks do the same work; only rank 0 logs it.
            (log_to_stderr if process_group.is_rank_zero() else log_nothing)()
            from job.pipeline import run

            run(spec, workspace, context, stop)
        process_group.destroy()


for command in (check, init, pairs, verify, export, index):
    main.add_command(command)

if __name__ == "__main__":
    main()
