"""Backend `docker`: the job in containers of the local engine, on workspaces that they mount.

A container bears the run's name and folder as labels, so it is found again whatever became of the
launcher. It is removed once its end has been noted, with the network that several of them have.
"""

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from job.errors import BackendError, Interrupted, MachineError, OutOfMemory, Stopped
from launcher import engine
from launcher.container import FOLDER_LABEL, LABEL, run_command
from launcher.container_logs import all_lines, shown
from launcher.engine import docker
from launcher.hosts import (
    Host,
    check_network,
    container_name,
    hosts_of,
    network_command,
    prepare_workspaces,
)
from launcher.interruption import terminated_like_interrupted
from launcher.ledger import note_launch, write_receipt
from launcher.plan import Plan
from launcher.runs import Run, begun_here
from launcher.staging import stage

OPTIONS = {"image", "gpus", "memory", "shm_size", "network", "hosts"}
# The job finishes its step and writes a checkpoint within it; SageMaker is as patient.
GRACE_SECONDS = 120
KILLED, TERMINATED = 137, 143
# With these of the first host it does not matter how the others ended.
ORDERLY = (0, Interrupted.exit_code, Stopped.exit_code)
# In the workspace, what containers said that are gone.
KEPT_LOG = "container.log"


def request(plan: Plan) -> dict[str, Any]:
    check_network(plan)
    found = engine.look()
    hosts = hosts_of(plan.folder, plan.machine.hosts)
    argvs = {host.name: run_command(plan, found, host) for host in hosts}
    if len(hosts) == 1:
        (argv,) = argvs.values()
        what: dict[str, Any] = {"argv": argv, "command": shlex.join(argv)}
    else:
        network = network_command(plan)
        # The same, to be pasted into a shell.
        command = " && ".join(map(shlex.join, (network, *argvs.values())))
        what = {"network": network, "hosts": argvs, "command": command}
    inputs = {name: str(path) for name, path in plan.inputs.items()}
    return {"backend": "docker", **what, "inputs": inputs}


def prepare(plan: Plan, request: dict[str, Any]) -> None:
    """Fill the workspaces; after that `request["command"]` starts the job, here or in a shell."""
    run = Run(plan.folder, plan.destination)
    settle(run)
    if is_running(run):
        msg = f"The run `{run.name}` is under way: `embedtune logs --follow {run.name}`."
        raise MachineError(msg)
    run.workspace.require_unlocked()
    stage(run.workspace, plan.spec, plan.inputs)
    hosts = hosts_of(plan.folder, plan.machine.hosts)
    prepare_workspaces(hosts)
    facts = {"container": hosts[0].container, "price_per_hour": plan.machine.price_per_hour}
    note_launch(run, request, **facts, **({"hosts": len(hosts)} if len(hosts) > 1 else {}))


def submit(plan: Plan, request: dict[str, Any], *, detach: bool) -> int:
    run = Run(plan.folder, plan.destination)
    prepare(plan, request)
    with terminated_like_interrupted():
        _start(run, request)
    return 0 if detach else follow(run, attached=True)


def _start(run: Run, request: dict[str, Any]) -> None:
    """Start all hosts or none."""
    if network := request.get("network"):
        docker(*network[1:])
    try:
        for argv in request["hosts"].values() if network else [request["argv"]]:
            docker(*argv[1:])
    except (BackendError, KeyboardInterrupt):
        # Where the engine refuses only to start it, the container is there already.
        _remove([host for host, state in _states(run).items() if network or not state.is_running])
        _remove_network(run)
        raise


def follow(run: Run, *, attached: bool = False) -> int:
    """Show the containers' log until they end; returns the job's exit code.

    Ctrl-C leaves them running; where we are attached it asks them to stop, and waits for the
    checkpoint.
    """
    hosts = list(_states(run)) or _hosts(run)
    # A launch keeps stdout for the report.
    to = sys.stderr if attached else sys.stdout
    try:
        with terminated_like_interrupted(), shown(hosts, "--follow", to=to):
            try:
                docker("wait", *(host.container for host in hosts))
            except KeyboardInterrupt:
                if not attached:
                    raise
                _stop(run)
    except KeyboardInterrupt:
        click.echo(f"The job goes on; to end it: embedtune stop {run.name}", err=True)
        return 0
    return _outcome(run)


def stop(run: Run) -> None:
    """Ask the job to stop and wait until it has."""
    with shown(list(_states(run)), "--follow", "--tail", "0", to=sys.stderr):
        _stop(run)
    settle(run)


def _stop(run: Run) -> None:
    """Give the job time for its checkpoint; a second Ctrl-C kills it."""
    try:
        if running := _running(run):
            docker("stop", "-t", str(GRACE_SECONDS), *running)
    except KeyboardInterrupt:
        # One that ends meanwhile cannot be killed.
        for container in _running(run):
            with suppress(BackendError):
                docker("kill", container)


def is_running(run: Run) -> bool:
    return bool(_running(run))


def settle(run: Run) -> None:
    """Note the end of containers that have all ended: their log, a receipt; then remove them."""
    states = _states(run)
    if any(state.is_running for state in states.values()):
        return
    if states:
        _keep_log(run, list(states))
        # A container that somebody made and never started has nothing to tell.
        _write_receipt(run, states)
        _remove(list(states))
    _remove_network(run)


def _write_receipt(run: Run, states: dict[Host, engine.State]) -> None:
    host = _telling(states)
    state = states[host]
    several = {
        "host": host.name,
        "container_exit_codes": {each.name: s.exit_code for each, s in states.items()},
    }
    write_receipt(
        run,
        _exit_code(state),
        max(each.seconds for each in states.values()),
        image=state.image,
        container_exit_code=state.exit_code,
        ran_out_of_memory=state.ran_out_of_memory,
        **(several if _count(run) > 1 else {}),
    )


def _telling(states: dict[Host, engine.State]) -> Host:
    """Choose the host whose end is that of the run: the first, unless another was killed."""
    first = next(iter(states))
    if states[first].exit_code in ORDERLY:
        return first
    killed = [host for host, state in states.items() if state.exit_code == KILLED]
    return min(killed, key=lambda host: not states[host].ran_out_of_memory, default=first)


def show_log(run: Run) -> bool:
    """Print the log so far; false where no container holds one."""
    hosts = list(_states(run))
    if not hosts:
        return False
    if len(hosts) > 1:
        click.echo(all_lines(hosts), nl=False)
        return True
    with shown(hosts, to=sys.stdout):
        return True


def run_called(name: str) -> Run | None:
    """Find a run whose containers are still there, wherever it was launched."""
    seen = f'{{{{.Label "{FOLDER_LABEL}"}}}}'
    try:
        found = docker("ps", "--all", "--filter", f"label={LABEL}={name}", "--format", seen)
    except BackendError:
        return None
    folder = found.split("\n")[0]
    return begun_here(Path(folder)) if folder else None


def _count(run: Run) -> int:
    return int((run.launch or {}).get("hosts", 1))


def _hosts(run: Run) -> list[Host]:
    return hosts_of(run.folder, _count(run))


def _states(run: Run) -> dict[Host, engine.State]:
    """Return the states of those that there are; an engine that does not answer has none."""
    states = {}
    with suppress(BackendError):
        for host in _hosts(run):
            if state := engine.state_of(host.container):
                states[host] = state
    return states


def _running(run: Run) -> list[str]:
    return [host.container for host, state in _states(run).items() if state.is_running]


def _remove(hosts: list[Host]) -> None:
    if hosts:
        docker("rm", "--force", *(host.container for host in hosts))


def _remove_network(run: Run) -> None:
    """Remove the network of several hosts; it may be gone, or never have been made."""
    if _count(run) > 1:
        with suppress(BackendError):
            docker("network", "rm", container_name(run.folder))


def _outcome(run: Run) -> int:
    settle(run)
    receipt = run.receipt
    if receipt is None:
        msg = f"The engine does not know the container any more: `embedtune logs {run.name}`."
        raise BackendError(msg)
    where = f" of the host {receipt['host']}" if "host" in receipt else ""
    if receipt["ran_out_of_memory"] and receipt["container_exit_code"] == KILLED:
        msg = (
            f"The container{where} was killed since its memory ran out. Raise `--memory`, or set "
            "`training.mini_batch_size`, for instance to 16."
        )
        raise OutOfMemory(msg)
    if receipt["container_exit_code"] == KILLED:
        msg = (
            f"The container{where} was killed. Launch the run's name again to go on from its "
            "checkpoint."
        )
        raise BackendError(msg)
    return int(receipt["exit_code"])


def _exit_code(state: engine.State) -> int:
    if state.exit_code == KILLED:
        return OutOfMemory.exit_code if state.ran_out_of_memory else BackendError.exit_code
    # Before it listens for signals the job has nothing to save, and dies of them.
    return Interrupted.exit_code if state.exit_code == TERMINATED else state.exit_code


def _keep_log(run: Run, hosts: list[Host]) -> None:
    path = run.workspace.root / KEPT_LOG
    if _count(run) > 1:
        path.write_text(all_lines(hosts), "utf-8")
        return
    with path.open("wb") as handle:
        client = ["docker", "logs", hosts[0].container]
        subprocess.run(client, stdout=handle, stderr=subprocess.STDOUT, check=False)
