"""Backend `docker`: the job in a container of the local engine, on a workspace that it mounts.

The container bears the run's name and folder as labels, so it is found again whatever became of
the launcher. It is removed once its end has been noted.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from job.errors import BackendError, Interrupted, MachineError, OutOfMemory
from launcher import engine
from launcher.container import FOLDER_LABEL, LABEL, container_name, run_command
from launcher.engine import docker
from launcher.interruption import terminated_like_interrupted
from launcher.ledger import note_launch, write_receipt
from launcher.plan import Plan
from launcher.runs import Run, begun_here
from launcher.staging import stage

OPTIONS = {"image", "gpus", "memory", "shm_size", "network"}
# The job finishes its step and writes a checkpoint within it; SageMaker is as patient.
GRACE_SECONDS = 120
KILLED, TERMINATED = 137, 143
# In the workspace, what a container said that is gone.
KEPT_LOG = "container.log"


def request(plan: Plan) -> dict[str, Any]:
    argv = run_command(plan, engine.look())
    return {
        "backend": "docker",
        "argv": argv,
        # The same, to be pasted into a shell.
        "command": shlex.join(argv),
        "inputs": {name: str(path) for name, path in plan.inputs.items()},
    }


def prepare(plan: Plan, request: dict[str, Any]) -> None:
    """Fill the workspace; after that `request["command"]` starts the job, from here or a shell."""
    run = Run(plan.folder, plan.destination)
    settle(run)
    if is_running(run):
        msg = f"The run `{run.name}` is under way: `embedtune logs --follow {run.name}`."
        raise MachineError(msg)
    run.workspace.require_unlocked()
    stage(run.workspace, plan.spec, plan.inputs)
    price = plan.machine.price_per_hour
    note_launch(run, request, container=container_name(run.folder), price_per_hour=price)


def submit(plan: Plan, request: dict[str, Any], *, detach: bool) -> int:
    run = Run(plan.folder, plan.destination)
    prepare(plan, request)
    try:
        docker(*request["argv"][1:])
    except BackendError:
        # Where the engine refuses only to start it, the container is there already.
        if (state := _state(run)) is not None and not state.is_running:
            docker("rm", container_name(run.folder))
        raise
    return 0 if detach else follow(run, attached=True)


def follow(run: Run, *, attached: bool = False) -> int:
    """Show the container's log until it ends; returns the job's exit code.

    Ctrl-C leaves it running; where we are attached it asks the container to stop, and waits for
    its checkpoint.
    """
    container = container_name(run.folder)
    # A launch keeps stdout for the report.
    to = sys.stderr if attached else sys.stdout
    try:
        with terminated_like_interrupted(), _log_of(container, "--follow", to=to):
            try:
                docker("wait", container)
            except KeyboardInterrupt:
                if not attached:
                    raise
                _stop(container)
    except KeyboardInterrupt:
        click.echo(f"The job goes on; to end it: embedtune stop {run.name}", err=True)
        return 0
    return _outcome(run)


def stop(run: Run) -> None:
    """Ask the job to stop and wait until it has."""
    container = container_name(run.folder)
    with _log_of(container, "--follow", "--tail", "0"):
        _stop(container)
    settle(run)


def _stop(container: str) -> None:
    """Give the job time for its checkpoint; a second Ctrl-C kills it."""
    try:
        docker("stop", "-t", str(GRACE_SECONDS), container)
    except KeyboardInterrupt:
        docker("kill", container)


def is_running(run: Run) -> bool:
    state = _state(run)
    return state is not None and state.is_running


def settle(run: Run) -> None:
    """Note the end of a container that has ended: its log, its receipt; then remove it."""
    state = _state(run)
    if state is None or state.is_running:
        return
    container = container_name(run.folder)
    _keep_log(run, container)
    # A container that somebody made and never started has nothing to tell.
    write_receipt(
        run,
        _exit_code(state),
        state.seconds,
        image=state.image,
        container_exit_code=state.exit_code,
        ran_out_of_memory=state.ran_out_of_memory,
    )
    docker("rm", container)


def show_log(run: Run) -> bool:
    """Print the log so far; false where no container holds one."""
    if _state(run) is None:
        return False
    with _log_of(container_name(run.folder), to=sys.stdout):
        return True


def run_called(name: str) -> Run | None:
    """Find a run whose container is still there, wherever it was launched."""
    shown = f'{{{{.Label "{FOLDER_LABEL}"}}}}'
    try:
        found = docker("ps", "--all", "--filter", f"label={LABEL}={name}", "--format", shown)
    except BackendError:
        return None
    folder = found.split("\n")[0]
    return begun_here(Path(folder)) if folder else None


def _state(run: Run) -> engine.State | None:
    """Return the state of a run's container; an engine that does not answer has none."""
    try:
        return engine.state_of(container_name(run.folder))
    except BackendError:
        return None


def _outcome(run: Run) -> int:
    settle(run)
    receipt = run.receipt
    if receipt is None:
        msg = f"The engine does not know the container any more: `embedtune logs {run.name}`."
        raise BackendError(msg)
    if receipt["ran_out_of_memory"] and receipt["container_exit_code"] == KILLED:
        msg = (
            "The container was killed since its memory ran out. Raise `--memory`, or set "
            "`training.mini_batch_size`, for instance to 16."
        )
        raise OutOfMemory(msg)
    if receipt["container_exit_code"] == KILLED:
        msg = "The container was killed. Launch the run's name again to go on from its checkpoint."
        raise BackendError(msg)
    return int(receipt["exit_code"])


def _exit_code(state: engine.State) -> int:
    if state.exit_code == KILLED:
        return OutOfMemory.exit_code if state.ran_out_of_memory else BackendError.exit_code
    # Before it listens for signals the job has nothing to save, and dies of them.
    return Interrupted.exit_code if state.exit_code == TERMINATED else state.exit_code


@contextmanager
def _log_of(container: str, *options: str, to: TextIO = sys.stderr) -> Iterator[None]:
    """Show a container's log, to its last line, beside what is done meanwhile."""
    client = ["docker", "logs", *options, container]
    to.flush()
    with subprocess.Popen(client, stdout=to, stderr=to, start_new_session=True) as log:
        try:
            yield
        except BaseException:
            log.terminate()
            raise


def _keep_log(run: Run, container: str) -> None:
    path = run.workspace.root / KEPT_LOG
    with path.open("wb") as handle:
        client = ["docker", "logs", container]
        subprocess.run(client, stdout=handle, stderr=subprocess.STDOUT, check=False)
