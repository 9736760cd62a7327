"""What the hosts of a run tell each other beside their work: that they live, and why they ended.

By a store of torch's on the first host. A host that ends badly says why, and one that says nothing
any more is given up, so that no other waits for it without end.
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

# A host gives a sign of life so often, is given up after so long a silence, and waits so long for
# the others to hear why it ends.
BEAT_SECONDS, SILENCE_SECONDS, FAREWELL_SECONDS = 2.0, 20.0, 15.0
MEETING_TIME = timedelta(minutes=15)
# Of the store's, beside torchrun's own.
NEXT_PORT = 1
CAUSE = "cause"


@dataclass(frozen=True)
class Cause:
    """Why a run of several hosts ends: the host where it went wrong, its exit code and its line."""

    host: str
    code: int
    line: str

    def __str__(self) -> str:
        return f"{self.host}: {self.line}"


class Heartbeat:
    """Beats for this host and listens to the others; `on_cause` is called once if one ends."""

    def __init__(self, topology: Topology, on_cause: Callable[[], None]) -> None:
        self.cause: Cause | None = None
        self._topology = topology
        self._on_cause = on_cause
        self._over = threading.Event()
        self._store = _meet(topology)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def await_cause(self) -> Cause | None:
        """Wait for what another host has to say of its end, or until its silence says it."""
        self._thread.join(SILENCE_SECONDS + FAREWELL_SECONDS)
        return self.cause

    def end(self, cause: Cause | None = None) -> None:
        """Stop listening; a cause is told to the others, who hear it before the store goes."""
        self._over.set()
        self._thread.join()
        hosts = [f"left/{host}" for host in self._topology.hosts]
        # The first host, with the store, may have gone, and another one may never say farewell.
        with suppress(RuntimeError):
            if cause:
                self._store.set(CAUSE, json.dumps(asdict(cause)))
            self._store.set(f"left/{self._topology.current}", "")
            if self._topology.host_rank == 0:
                self._store.wait(hosts, timedelta(seconds=FAREWELL_SECONDS))

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
                    self.cause = self._silent(heard)
            except RuntimeError:
                self.cause = _gone(self._topology.hosts[0])
            if self.cause:
                self._on_cause()
                return

    def _silent(self, heard: dict[str, tuple[bytes, float]]) -> Cause | None:
        now = time.monotonic()
        for host, (beat, at) in heard.items():
            if self._store.check([f"left/{host}"]):
                continue
            key = f"beat/{host}"
            last = self._store.get(key) if self._store.check([key]) else b""
            if last != beat:
                heard[host] = (last, now)
            # Before its first beat a host may still be starting.
            elif beat and now - at > SILENCE_SECONDS:
                return _gone(host)
        return None


def _gone(host: str) -> Cause:
    line = "it has gone, without a word. Launch the run again to go on from its last checkpoint."
    return Cause(host, MachineError.exit_code, line)


def _meet(topology: Topology) -> "TCPStore":
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    is_first, port = topology.host_rank == 0, topology.port + NEXT_PORT
    try:
        return TCPStore(
            topology.address, port, is_master=is_first, wait_for_workers=False, timeout=MEETING_TIME
        )
    except DistError as error:
        why = str(error).splitlines()[0]
        msg = (
            f"The hosts cannot meet at `{topology.address}:{port}`: {why}. They must reach each "
            "other on all ports."
        )
        raise MachineError(msg) from None
