"""Detect lost hosts, and share why a host failed, so that no host waits for another forever.

Each host writes heartbeats to a torch TCPStore on the first host. A failing host stores its cause
there; a host whose heartbeats stop is reported as lost.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from job.core.errors import MachineError
from job.distributed.topology import Topology

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

# Time between heartbeats; silence after which a host is lost; time for the others to read a cause.
BEAT_SECONDS, LOST_AFTER_SECONDS, CAUSE_SECONDS = 2.0, 20.0, 15.0
CONNECT_TIMEOUT = timedelta(minutes=15)
# The store's port minus that of torchrun.
PORT_OFFSET = 1
CAUSE = "cause"


@dataclass(frozen=True)
class Cause:
    """Why a run of several hosts failed: the failing host, its exit code and its error line."""

    host: str
    code: int
    line: str

    def __str__(self) -> str:
        return f"{self.host}: {self.line}"


class Heartbeat:
    """Sends this host's heartbeats and watches the others; calls `on_cause` once if one fails."""

    def __init__(self, topology: Topology, on_cause: Callable[[], None]) -> None:
        self.cause: Cause | None = None
        self._topology = topology
        self._on_cause = on_cause
        self._over = threading.Event()
        self._store = _connect(topology)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def await_cause(self) -> Cause | None:
        """Wait until another host reports its cause or is lost; return None after a timeout."""
        self._thread.join(LOST_AFTER_SECONDS + CAUSE_SECONDS)
        return self.cause

    def end(self, cause: Cause | None = None) -> None:
        """Stop watching; store a cause, and let the others read it before the store closes."""
        self._over.set()
        self._thread.join()
        hosts = [f"left/{host}" for host in self._topology.hosts]
        # The first host may be lost with its store, and another host may never leave.
        with suppress(RuntimeError):
            if cause:
                self._store.set(CAUSE, json.dumps(asdict(cause)))
            self._store.set(f"left/{self._topology.current}", "")
            if self._topology.host_rank == 0:
                self._store.wait(hosts, timedelta(seconds=CAUSE_SECONDS))

    def _watch(self) -> None:
        others = [host for host in self._topology.hosts if host != self._topology.current]
        heard = {host: (b"", time.monotonic()) for host in others}
        beats = 0
        while not self._over.wait(BEAT_SECONDS):
            beats += 1
            try:
                self._store.set(f"beat/{self._topology.current}", str(beats))
                if self._store.check([CAUSE]):
                    self.cause = Cause(**json.loads(self._store.get(CAUSE)))
                else:
                    self.cause = self._find_lost(heard)
            except RuntimeError:
                self.cause = _lost(self._topology.hosts[0])
            if self.cause:
                self._on_cause()
                return

    def _find_lost(self, heard: dict[str, tuple[bytes, float]]) -> Cause | None:
        now = time.monotonic()
        for host, (beat, at) in heard.items():
            if self._store.check([f"left/{host}"]):
                continue
            key = f"beat/{host}"
            last = self._store.get(key) if self._store.check([key]) else b""
            if last != beat:
                heard[host] = (last, now)
            # Before its first heartbeat, a host may still be starting.
            elif beat and now - at > LOST_AFTER_SECONDS:
                return _lost(host)
        return None


def _lost(host: str) -> Cause:
    line = "The host stopped responding. Relaunch the run to resume from its last checkpoint."
    return Cause(host, MachineError.exit_code, line)


def _connect(topology: Topology) -> "TCPStore":
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    is_first, port = topology.host_rank == 0, topology.port + PORT_OFFSET
    try:
        return TCPStore(
            topology.address,
            port,
            is_master=is_first,
            wait_for_workers=False,
            timeout=CONNECT_TIMEOUT,
        )
    except DistError as error:
        why = str(error).splitlines()[0]
        msg = (
            f"The hosts cannot connect at `{topology.address}:{port}`: {why}. Allow all ports "
            "between the hosts, or set another `EMBEDTUNE_RENDEZVOUS`."
        )
        raise MachineError(msg) from None
