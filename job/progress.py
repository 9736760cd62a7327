"""What a run says while it works: one line at the start and end of a stage, and its seconds."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from job.lines import write_line
from job.metrics import entry
from job.wording import on_one_line

log = logging.getLogger("embedtune")


def tell(what: str, event: str = "", /, **facts: object) -> None:
    """Log one line of a run: what it is about, what happened, and the facts of it."""
    log.info(write_line(what, event, **facts))


class Progress:
    """Times the stages of a run; `seconds` maps each stage to what all starts spent on it."""

    def __init__(self, started: float, earlier: Mapping[str, float] | None = None) -> None:
        """Take when the job started (`time.perf_counter()`): its imports cost seconds too."""
        self.seconds = dict(earlier or {})
        self._running: tuple[str, float] | None = None
        self._add("start", started)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, object]]:
        """Log start and end of a stage; facts put into the yielded dict end the last line."""
        facts: dict[str, object] = {}
        tell(name, "start")
        self._running = (name, time.perf_counter())
        try:
            yield facts
        finally:
            self.note()
            self._running = None
        tell(name, "done", **{"seconds": self.seconds[name], **facts})

    def note(self) -> None:
        """Count what the running stage has taken so far."""
        if self._running:
            name, started = self._running
            self._running = (name, time.perf_counter())
            self._add(name, started)

    def _add(self, stage: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)


def log_scores(model: str, means: Mapping[int, Mapping[str, float]]) -> None:
    """Log nDCG@10 under the article's keys, which SageMaker's metric definitions look for.

    Dimension 0 stands for a ranking without vectors.
    """
    for dimension, metrics in means.items():
        key = f"dim_{dimension}_cosine_ndcg@10" if dimension else "ndcg@10"
        log.info("%s %s: %.4f", model, key, metrics["ndcg@10"])


def log_nothing() -> None:
    """Print no line; what counts them as signs of life (`job.watchdog`) still does."""
    _add_handler(logging.NullHandler(), _Formatter)


def log_to_stderr() -> None:
    _add_handler(logging.StreamHandler(sys.stderr), _Formatter)


@contextmanager
def logged_to(folder: Path) -> Iterator[None]:
    """Write our lines to `job.log` in a folder as well, and to `metrics.jsonl` as JSON.

    A run that is taken up adds to them; afterwards the files are closed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handlers = []
    for name, formatter in (("job.log", _Formatter), ("metrics.jsonl", _MetricsFormatter)):
        _cut_half_line(folder / name)
        handlers.append(logging.FileHandler(folder / name, encoding="utf-8"))
        _add_handler(handlers[-1], formatter)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _cut_half_line(path: Path) -> None:
    """Remove what a run that was killed was just writing."""
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return on_one_line(super().format(record))


class _MetricsFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return entry(super().format(record))


def _add_handler(handler: logging.Handler, kind: type[_Formatter]) -> None:
    formatter = kind("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def quieten_libraries() -> None:
    """Turn off the libraries' own bars: in a log file each redraw is a line."""
    import datasets
    import huggingface_hub.utils
    import transformers

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
