"""Log the events of a run, as lines for people and as JSON for programs.

An event has a subject (a stage, mostly), a message and facts: `tell("train", step=3, steps=30)`. It
becomes a line on stderr and in `logs/job.log` (the grammar of `job.core.log_lines`), and an object
in `logs/metrics.jsonl` with the memory in use at that time.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from job.core.formatting import escape_to_one_line
from job.core.log_lines import TIME, WARNING, write_line

# Its handlers decide where events go. Without handlers, Python prints only warnings.
log = logging.getLogger("embedtune")
HEAD = ("time", "what", "event")
STAMP = structlog.processors.TimeStamper(TIME, key="time")


class _Event(dict[str, Any]):
    """An event; `str` gives its log line, for handlers that expect a string."""

    def __str__(self) -> str:
        facts = {key: value for key, value in self.items() if key not in HEAD}
        return write_line(self["what"], self["event"], facts)


def _as_event(_logger: object, _level: str, event: EventDict) -> _Event:
    return _Event({**{key: event.pop(key) for key in HEAD}, **event})


_events: Any = structlog.wrap_logger(
    log,
    processors=[STAMP, _as_event, ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)


def tell(what: str, event: str = "", /, **facts: object) -> None:
    """Log an event of a run: its subject, its message and its facts."""
    _events.info(event, what=what, **facts)


def warn(what: str, event: str, /, **facts: object) -> None:
    """Log something that a person should know; its message begins with `warning: `."""
    _events.warning(f"{WARNING}{event}", what=what, **facts)


class Progress:
    """Times the stages of a run; `seconds` maps each stage to its total over all starts."""

    def __init__(
        self,
        started: float,
        earlier: Mapping[str, float] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Count the seconds since `started` (`time.perf_counter()`) as the stage `start`.

        That time is mostly imports. `earlier` has the seconds of earlier starts. `check` runs
        before each stage, and may raise to end the run.
        """
        self.seconds = dict(earlier or {})
        self._check = check
        self._running: tuple[str, float] | None = None
        self._add("start", started)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, object]]:
        """Log start and end of a stage; facts added to the yielded dict go into the last line."""
        self._check()
        facts: dict[str, object] = {}
        tell(name, "start")
        self._running = (name, time.perf_counter())
        try:
            yield facts
        finally:
            self.update()
            self._running = None
        tell(name, "done", **{"seconds": self.seconds[name], **facts})

    def update(self) -> None:
        """Add the time of the running stage so far to `seconds`."""
        if self._running:
            name, started = self._running
            self._running = (name, time.perf_counter())
            self._add(name, started)

    def _add(self, stage: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)


def log_scores(model: str, means: Mapping[int, Mapping[str, float]]) -> None:
    """Log nDCG@10 under the article's keys, which SageMaker's metric definitions match.

    Dimension 0 means a ranking without vectors (BM25).
    """
    for dimension, metrics in means.items():
        key = f"dim_{dimension}_cosine_ndcg@10" if dimension else "ndcg@10"
        tell(model, **{key: metrics["ndcg@10"]})


def log_nothing() -> None:
    """Print no events; the watchdog still counts them as activity."""
    _add_handler(logging.NullHandler(), _line)


def log_to_stderr() -> None:
    _add_handler(logging.StreamHandler(sys.stderr), _line)


@contextmanager
def log_to_folder(folder: Path) -> Iterator[None]:
    """Also write events to `job.log` and, as JSON, to `metrics.jsonl` in a folder.

    A resumed run appends to both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    as_json = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    handlers = []
    files: dict[str, list[Processor]] = {
        "job.log": [_line],
        "metrics.jsonl": [_with_memory, as_json],
    }
    for name, renderers in files.items():
        if (folder / name).is_file():
            with (folder / name).open("r+b") as file:
                # Drop the incomplete last line of a killed run.
                file.truncate(file.read().rfind(b"\n") + 1)
        handlers.append(logging.FileHandler(folder / name, encoding="utf-8"))
        _add_handler(handlers[-1], *renderers)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _add_handler(handler: logging.Handler, *renderers: Processor) -> None:
    handler.setFormatter(
        ProcessorFormatter(
            processors=[ProcessorFormatter.remove_processors_meta, *renderers],
            foreign_pre_chain=[lambda *given: {"what": "log", **given[-1]}, STAMP, _as_event],
        )
    )
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _line(_logger: object, _level: str, event: EventDict) -> str:
    return escape_to_one_line(f"{event['time']} {_Event(event)}")


def _with_memory(_logger: object, _level: str, event: EventDict) -> EventDict:
    """Add memory use to an event; replace NaN and infinity, which JSON lacks, by null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in event.items()
    }
    return {**finite, **memory()}


def memory() -> dict[str, int]:
    """Return the memory use of this process: `host_bytes` and, on a GPU, `device_bytes`."""
    import psutil

    used = {"host_bytes": int(psutil.Process().memory_info().rss)}
    # A signal handler may log while torch is only partly imported.
    cuda = sys.modules.get("torch.cuda")
    if getattr(cuda, "is_initialized", bool)():
        used["device_bytes"] = int(sys.modules["torch.cuda"].memory_reserved())
    return used


def disable_progress_bars() -> None:
    """Turn off the libraries' progress bars: a job writes log lines only (`runtime.counter`)."""
    import datasets
    import huggingface_hub.utils
    import transformers

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
