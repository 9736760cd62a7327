"""Draw a run's progress as lines of text, never wider than the terminal.

Colors are the terminal's own, so that they suit dark and light backgrounds.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.text import Text

from job.core.formatting import change, score
from launcher.live.progress import OPTIONAL, STAGES, TRAINING, Count, Progress, Stage

# The last column stays empty: a terminal shows `^C` there, and some wrap a line that fills it.
MARGIN = 4
MAX_WIDTH = 110
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_VALUES = 16
SIZES = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
TICK, CROSS, NOW, LATER = ("✓", "green"), ("✗", "red"), ("●", "cyan"), ("·", "dim")
# Lines of the log below the view.
LOG_LINES = 8


@dataclass(frozen=True)
class Job:
    """What is known of a job before it logs anything."""

    name: str
    # Such as `sagemaker, ml.g5.2xlarge`.
    where: str
    started: datetime
    # USD per hour of all its machines.
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Status:
    """A state that the backend reports: what it does, and since when."""

    name: str
    message: str
    since: datetime
    # When billing began, if it has.
    billed_since: datetime | None = None
    is_waiting: bool = True
    # What the user may do about a long wait.
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.name}: {self.message}".rstrip(": ")


@dataclass(frozen=True)
class Picture:
    """All that is drawn."""

    job: Job
    progress: Progress
    status: Status | None = None
    # What to say at the end of the view, such as that the job is stopping.
    note: str = ""
    # The last lines of the log, if they are shown.
    log: Sequence[str] = ()
    # Whether the job has ended, and whether it failed.
    has_ended: bool = False
    has_failed: bool = False


def draw(picture: Picture, now: datetime, columns: int, rows: int) -> list[Text]:
    """Return the lines of the view: at most `rows`, none wider than `columns`."""
    width = max(20, min(columns, MAX_WIDTH) - MARGIN)
    head = [_title(picture, now), *_status_lines(picture, now, width)]
    foot = [] if picture.has_ended else list(_estimates(picture, now))
    foot += [Text(picture.note, "yellow")] if picture.note else []
    stages = list(_stage_lines(picture, now, width))
    room = max(1, rows - 1 - len(head) - len(foot))
    if len(stages) > room:
        stages = _shortened(stages, room)
    lines = [*head, *stages, *foot]
    room = min(LOG_LINES, rows - 2 - len(lines))
    if picture.log and room > 0:
        lines += [Text("─" * width, "dim"), *(Text(line, "dim") for line in picture.log[-room:])]
    if picture.has_ended:
        lines.append(Text())
    for line in lines:
        line.truncate(max(1, columns - MARGIN), overflow="ellipsis")
    return lines


def _shortened(stages: list[Text], room: int) -> list[Text]:
    """Keep what fits a low terminal: the running stage, then its details, then what was before."""
    marks = [line.plain.lstrip()[:1] for line in stages]
    current = marks.index(NOW[0]) if NOW[0] in marks else len(marks) - 1
    end = current + 1
    while end < len(marks) and marks[end] != LATER[0]:
        end += 1
    start = min(current, max(0, end - room))
    return stages[start : start + room]


def _title(picture: Picture, now: datetime) -> Text:
    job = picture.job
    elapsed = clock((now - job.started).total_seconds())
    return Text.assemble((job.name, "bold"), f" · {job.where} · {elapsed}")


def _status_lines(picture: Picture, now: datetime, width: int) -> Iterator[Text]:
    """Yield what a backend does before and after the job's own stages."""
    status, progress = picture.status, picture.progress
    if status is None or picture.has_ended or not (status.is_waiting or progress.is_over):
        return
    message = f": {status.message.rstrip('.')}" if status.message else ""
    yield Text.assemble("  ", NOW, f" {status.name}{message}")
    if status.is_waiting:
        waited = clock((now - status.since).total_seconds())
        price = picture.job.price_per_hour
        once = "" if status.billed_since else " once it is billed"
        cost = "" if price is None else f", at ${price:g} an hour{once}"
        yield Text(f"    since {_time_of_day(status.since)}, for {waited}{cost}")
        yield from (Text(f"    {part}") for part in textwrap.wrap(status.advice, width - 4))


def _stage_lines(picture: Picture, now: datetime, width: int) -> Iterator[Text]:
    progress = picture.progress
    if picture.status and picture.status.is_waiting and not progress.stages:
        return
    names = [name for name in STAGES if name in progress.stages or name not in OPTIONAL]
    column = max(map(len, names))
    if not progress.stages and not picture.has_ended:
        # The job loads its libraries, which takes some seconds.
        since = picture.status.since if picture.status else picture.job.started
        yield _running_line("start", Stage(since), column, picture, now)
    begun = [number for number, name in enumerate(names) if name in progress.stages]
    for number, name in enumerate(names):
        stage = progress.stages.get(name)
        if stage is None:
            # Not a stage that this run left out, such as the proof of a run that trains nothing.
            if not picture.has_ended and number > max(begun, default=-1):
                yield Text.assemble("  ", LATER, (f" {name}", "dim"))
        elif stage.seconds is not None:
            facts = _facts(name, progress)
            yield Text.assemble(
                "  ", TICK, f" {name:{column}} {clock(stage.seconds):>8}", (f"   {facts}", "dim")
            )
        else:
            yield _running_line(name, stage, column, picture, now)
            if not picture.has_ended:
                yield from _details(name, progress, width)


def _running_line(name: str, stage: Stage, column: int, picture: Picture, now: datetime) -> Text:
    mark = NOW
    if picture.has_ended:
        mark = CROSS if picture.has_failed else LATER
    elif picture.status and picture.status.is_waiting:
        # Its machine was taken away.
        mark = LATER
    elapsed = clock((now - stage.started).total_seconds())
    return Text.assemble("  ", mark, (f" {name:{column}}", "bold"), f" {elapsed:>8}")


def _facts(name: str, progress: Progress) -> str:
    """Return what is worth reading of a finished stage."""
    facts = progress.stages[name].facts
    if name == "data":
        splits = ", ".join(f"{facts[key]} {key}" for key in ("train", "test") if key in facts)
        return f"{splits}, corpus {facts['corpus']}" if "corpus" in facts else splits
    if name == "model":
        return ", ".join(str(facts[key]) for key in ("device", "precision") if key in facts)
    if name == "refit" and "steps" in facts:
        return f"{facts['steps']} steps"
    if name == "train" and "steps" in facts:
        best = progress.best_validation
        scored = "" if best is None else f", validation {_against_base(best, progress)}"
        return f"{facts['steps']} steps{scored}"
    main = progress.main_dimension
    for model in ("base", "tuned"):
        found = progress.scores.get((model, main or 0))
        if name == f"score {model}" and found is not None:
            return f"nDCG@10 at {main}: {score(found)}"
    return ""


def _details(name: str, progress: Progress, width: int) -> Iterator[Text]:
    """Yield the bar of the running stage, and below it the numbers of the training."""
    indent = "      "
    room = width - len(indent)
    if name == "train" and progress.trainings > 1:
        which = f"training {progress.training} of {progress.trainings}"
        which += "" if progress.seed is None else f" (seed {progress.seed})"
        yield Text(indent + which, "dim")
    trains = name in TRAINING
    main = progress.steps if trains and progress.steps else progress.count
    if main:
        yield Text(indent).append_text(_bar(main, room))
    if main is progress.steps and main and progress.count:
        yield Text(f"{indent}{progress.count.what} {_amounts(progress.count)}", "dim")
    if trains and progress.losses:
        rate = progress.learning_rate
        rates = "" if rate is None else f"   learning rate {rate:.1e}"
        sparks = sparkline(progress.losses)
        yield Text.assemble(f"{indent}loss {progress.losses[-1]:.3f} ", (sparks, "cyan"), rates)
    if name == "train" and progress.validations:
        found = _against_base(progress.validations[-1], progress)
        sparks = sparkline(progress.validations)
        name = f"validation nDCG@10 at {progress.main_dimension}"
        yield Text.assemble(f"{indent}{name}: {found} ", (sparks, "cyan"))


def _against_base(value: float, progress: Progress) -> str:
    base = progress.base_validation
    against = "" if base is None else f" (base {score(base)}, {change(value - base)})"
    return f"{score(value)}{against}"


def _bar(count: Count, room: int) -> Text:
    """Draw a bar with its numbers; without a total, the numbers alone."""
    words = f"{count.what} {_amounts(count)}"
    if not count.total:
        return Text(words)
    share = min(1.0, count.done / count.total)
    length = max(8, min(40, room - len(words) - 1))
    filled = round(share * length)
    return Text.assemble(("━" * filled, "cyan"), ("━" * (length - filled), "dim"), f" {words}")


def _amounts(count: Count) -> str:
    total = "" if count.total is None else f"/{_amount(count.total, count.unit)}"
    unit = "" if count.unit == "bytes" else f" {count.unit}"
    parts = [f"{_amount(count.done, count.unit)}{total}{unit}"]
    if 0 < count.per_second < 1:
        parts.append(f"{clock(1 / count.per_second)} each")
    elif count.per_second:
        parts.append(f"{_amount(count.per_second, count.unit)}/s")
    if count.seconds_left is not None:
        parts.append(f"{clock(count.seconds_left)} left")
    return "  ".join(parts)


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        name, size = next(((n, s) for n, s in SIZES.items() if value >= s), ("B", 1))
        return f"{value / size:.1f} {name}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"


def _estimates(picture: Picture, now: datetime) -> Iterator[Text]:
    """Yield one line: memory, the estimated end, and the money so far."""
    progress, job = picture.progress, picture.job
    parts = []
    names = {"memory_gb": "memory", "gpu_gb": "GPU"}
    parts += [f"{names[key]} {value:.1f} GB" for key, value in progress.memory.items()]
    if (left := progress.seconds_left()) is not None:
        parts.append(f"ends about {_time_of_day(now + timedelta(seconds=left))}")
    if job.price_per_hour is not None:
        billed_since = picture.status.billed_since if picture.status else job.started
        if billed_since:
            usd = job.price_per_hour * max(0.0, (now - billed_since).total_seconds()) / 3600
            digits = 2 if usd >= 1 else 3
            parts.append(f"${usd:.{digits}f} so far at ${job.price_per_hour:g}/h")
    if parts:
        yield Text("  " + " · ".join(parts), "dim")


def sparkline(values: Sequence[float]) -> str:
    """Draw the last values as a line of blocks, from the lowest to the highest."""
    shown = values[-SPARKLINE_VALUES:]
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)


def clock(seconds: float) -> str:
    """Format a duration: `0.4 s`, `12 s`, `3:05`, `1:02:33`."""
    if seconds < 1:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _time_of_day(moment: datetime) -> str:
    """Format a time in the time zone of this machine."""
    return f"{moment.astimezone():%H:%M}"
