"""Backend `docker`: run the job in local containers that mount the workspace, one per host.

Containers carry the run's name and folder as labels, so any launcher finds them again. They and
their network are removed once the end of the job is recorded.
"""

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from job.core.errors import (
    BackendError,
    EmbedtuneError,
    Interrupted,
    MachineError,
    OutOfMemory,
    Stopped,
)
from launcher.backends.docker.command import FOLDER_LABEL, LABEL, run_command
from launcher.backends.docker.hosts import (
    Host,
    check_network,
    container_name,
    hosts_of,
    network_command,
    prepare_workspaces,
)
from launcher.backends.docker.logs import log_of, merged_logs, stream_logs
from launcher.containers import engine
from launcher.containers.engine import docker
from launcher.live.view import PlainView, View
from launcher.plan.plan import Plan
from launcher.plan.staging import stage
from launcher.runs.records import record_launch, write_receipt
from launcher.runs.run import Run, local_run

# Time for the job to finish its step and write a checkpoint; SageMaker allows the same.
GRACE_SECONDS = 120
KILLED, TERMINATED = 137, 143
# If the first host ends with one of these codes, the codes of the others do not matter.
ORDERLY_CODES = (0, Interrupted.exit_code, Stopped.exit_code)
# The log of removed containers, in the workspace.
SAVED_LOG = "container.log"


def request(plan: Plan) -> dict[str, Any]:
    check_network(plan)
    features = engine.inspect_engine()
    hosts = hosts_of(plan.folder, plan.machine.hosts)
    argvs = {host.name: run_command(plan, features, host) for host in hosts}
    if len(hosts) == 1:
        (argv,) = argvs.values()
        commands: dict[str, Any] = {"argv": argv, "command": shlex.join(argv)}
    else:
        network = network_command(plan)
        # `command` is the same as one line, to paste into a shell.
        command = " && ".join(map(shlex.join, (network, *argvs.values())))
        commands = {"network": network, "hosts": argvs, "command": command}
    inputs = {name: str(path) for name, path in plan.inputs.items()}
    return {"backend": "docker", **commands, "inputs": inputs}


def prepare(plan: Plan, request: dict[str, Any]) -> None:
    """Fill the workspaces; then `request["command"]` starts the job, here or in a shell."""
    run = Run(plan.folder, plan.destination)
    if Job(run).refresh():
        msg = f"The run `{run.name}` is in progress: `embedtune logs --follow {run.name}`."
        raise MachineError(msg)
    run.workspace.require_unlocked()
    stage(run.workspace, plan.spec, plan.inputs)
    hosts = hosts_of(plan.folder, plan.machine.hosts)
    prepare_workspaces(hosts)
    facts = {"container": hosts[0].container, "price_per_hour": plan.machine.price_per_hour}
    record_launch(run, request, **facts, **({"hosts": len(hosts)} if len(hosts) > 1 else {}))


def submit(plan: Plan, request: dict[str, Any]) -> "Job":
    run = Run(plan.folder, plan.destination)
    prepare(plan, request)
    _start(run, request)
    return Job(run)


def _start(run: Run, request: dict[str, Any]) -> None:
    """Start all hosts or none."""
    if network := request.get("network"):
        docker(*network[1:])
    try:
        for argv in request["hosts"].values() if network else [request["argv"]]:
            docker(*argv[1:])
    except (BackendError, KeyboardInterrupt):
        # A container that the engine created but could not start exists already.
        _remove([host for host, state in _states(run).items() if network or not state.is_running])
        _remove_network(run)
        raise


class Job:
    """The containers of a run, no matter which process started them."""

    # Docker says only whether a container runs.
    status = ""

    def __init__(self, run: Run) -> None:
        self._run = run

    def refresh(self) -> bool:
        """Return whether any container is running.

        After the end of all, save their log, write the receipt and remove them.
        """
        states = _states(self._run)
        if any(state.is_running for state in states.values()):
            return True
        if states:
            saved = self._run.workspace.root / SAVED_LOG
            saved.write_text(_log_of(self._run, list(states)), "utf-8")
            _write_receipt(self._run, states)
            _remove(list(states))
        _remove_network(self._run)
        return False

    def read_log(self) -> str:
        if hosts := list(_states(self._run)):
            return _log_of(self._run, hosts)
        path = self._run.workspace.root / SAVED_LOG
        return path.read_text("utf-8", errors="replace") if path.is_file() else ""

    def follow_logs(self, view: View, *, stop_on_interrupt: bool) -> None:
        hosts = list(_states(self._run)) or _hosts(self._run)
        with stream_logs(hosts, "--follow", view=view):
            try:
                docker("wait", *(host.container for host in hosts))
            except KeyboardInterrupt:
                if not stop_on_interrupt:
                    raise
                view.show_stopping()
                self._ask_to_stop()

    def stop(self) -> None:
        with stream_logs(
            list(_states(self._run)), "--follow", "--tail", "0", view=PlainView(sys.stderr)
        ):
            self._ask_to_stop()
        self.refresh()

    def _ask_to_stop(self) -> None:
        """Stop the job with time for its checkpoint; a second Ctrl-C kills it."""
        try:
            if running := _running(self._run):
                docker("stop", "-t", str(GRACE_SECONDS), *running)
        except KeyboardInterrupt:
            # Killing fails for a container that has just ended.
            for container in _running(self._run):
                with suppress(BackendError):
                    docker("kill", container)

    def outcome(self) -> int:
        self.refresh()
        receipt = self._run.receipt
        if receipt is None:
            logs = f"`embedtune logs {self._run.name}`"
            msg = f"The container no longer exists; see its log with {logs}."
            raise BackendError(msg)
        if receipt["container_exit_code"] == KILLED:
            host = f" of host {receipt['host']}" if "host" in receipt else ""
            raise _kill_error(host, out_of_memory=receipt["ran_out_of_memory"])
        return int(receipt["exit_code"])


def _kill_error(host: str, *, out_of_memory: bool) -> EmbedtuneError:
    if out_of_memory:
        return OutOfMemory(
            f"The container{host} was killed because it ran out of memory. Raise `--memory`, or "
            "set `training.mini_batch_size`, for instance to 16."
        )
    return BackendError(
        f"The container{host} was killed. Relaunch the run to resume from its last checkpoint."
    )


def _write_receipt(run: Run, states: dict[Host, engine.State]) -> None:
    host = _deciding_host(states)
    state = states[host]
    codes = {each.name: s.exit_code for each, s in states.items()}
    several = {"host": host.name, "container_exit_codes": codes}
    write_receipt(
        run,
        _exit_code(state),
        max(each.seconds for each in states.values()),
        image=state.image,
        container_exit_code=state.exit_code,
        ran_out_of_memory=state.ran_out_of_memory,
        **(several if _count(run) > 1 else {}),
    )


def _deciding_host(states: dict[Host, engine.State]) -> Host:
    """Choose the host whose exit code counts for the run: the first, unless another was killed."""
    first = next(iter(states))
    if states[first].exit_code in ORDERLY_CODES:
        return first
    killed = [host for host, state in states.items() if state.exit_code == KILLED]
    return min(killed, key=lambda host: not states[host].ran_out_of_memory, default=first)


def find_run(name: str) -> Run | None:
    """Find a run by the labels of its containers, no matter where it was launched."""
    template = f'{{{{.Label "{FOLDER_LABEL}"}}}}'
    try:
        found = docker("ps", "--all", "--filter", f"label={LABEL}={name}", "--format", template)
    except BackendError:
        return None
    folder = found.split("\n")[0]
    return local_run(Path(folder)) if folder else None


def _count(run: Run) -> int:
    return int((run.launch or {}).get("hosts", 1))


def _hosts(run: Run) -> list[Host]:
    return hosts_of(run.folder, _count(run))


def _states(run: Run) -> dict[Host, engine.State]:
    """Return the states of existing containers; empty if the engine does not respond."""
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
    """Remove the network of several hosts; it may not exist."""
    if _count(run) > 1:
        with suppress(BackendError):
            docker("network", "rm", container_name(run.folder))


def _exit_code(state: engine.State) -> int:
    if state.exit_code == KILLED:
        return OutOfMemory.exit_code if state.ran_out_of_memory else BackendError.exit_code
    # SIGTERM kills the job before it has installed its handler; it has nothing to save then.
    return Interrupted.exit_code if state.exit_code == TERMINATED else state.exit_code


def _log_of(run: Run, hosts: list[Host]) -> str:
    return merged_logs(hosts) if _count(run) > 1 else log_of(hosts[0])
