"""Where and how a run takes place, apart from its spec; light to import."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunContext:
    """Settings of a run that are not part of its spec."""

    name: str
    device: str = "auto"
    price_per_hour: float | None = None
    # False leaves the results in the workspace, for jobs that can write nowhere else.
    publish: bool = True
    # Delete the published results here, where the machine's owner would store them once more.
    delete_published: bool = False
    # Value of `time.perf_counter()` at the start of the process.
    started: float = field(default_factory=time.perf_counter)
