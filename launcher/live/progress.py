"""How far a run has come, as its log lines say: stages, counts, training, validation."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from job.core.log_lines import WARNING, Line, Value, parse_time

# In this order.
STAGES = (
    "fetch",
    "generate",
    "data",
    "model",
    "proof",
    "score base",
    "train",
    "score tuned",
    "compare",
    "store",
    "refit",
    "export",
    "publish",
)
# Stages that only some runs have.
OPTIONAL = ("generate", "refit", "export", "publish")
# Stages that take training steps.
TRAINING = ("train", "refit")
SCORE_KEY = re.compile(r"dim_(\d{1,9})_cosine_ndcg@10")


@dataclass
class Stage:
    started: datetime
    seconds: float | None = None
    facts: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Count:
    """The latest line of something that counts."""

    what: str
    done: int
    total: int | None
    per_second: float
    unit: str

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.per_second <= 0:
            return None
        return (self.total - self.done) / self.per_second


@dataclass
class Progress:
    """The state of a run, updated line by line."""

    # By name, in the order of their start.
    stages: dict[str, Stage] = field(default_factory=dict)
    # The latest count, and that of training steps.
    count: Count | None = None
    steps: Count | None = None
    losses: list[float] = field(default_factory=list)
    learning_rate: float | None = None
    # nDCG@10 on validation at the main dimension: of the base model, and of each checkpoint.
    main_dimension: int | None = None
    base_validation: float | None = None
    validations: list[float] = field(default_factory=list)
    # The best of all trainings.
    best_validation: float | None = None
    # With several seeds or folds: which training runs, and how many there are.
    training: int = 1
    trainings: int = 1
    seed: int | None = None
    # With `training.refit`: its pairs per pair of a training before.
    refit_share: float = 0.0
    # nDCG@10 on test, by model and dimension.
    scores: dict[tuple[str, int], float] = field(default_factory=dict)
    # The memory in use, by `memory_gb` and `gpu_gb`.
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def running(self) -> str | None:
        """The stage that has started and not ended."""
        return next((name for name, stage in self.stages.items() if stage.seconds is None), None)

    @property
    def is_over(self) -> bool:
        return "store" in self.stages and self.running is None

    def seconds_left(self) -> float | None:
        """Estimate the rest of the run, once it trains: its steps, and scoring once more.

        Scoring a tuned model takes about as long as scoring the base model took. With several
        seeds or folds each model is scored, and the chosen one or their average once more. A
        refit trains and is searched with once more.
        """
        base, steps = self.stages.get("score base"), self.steps
        if self.running not in TRAINING or steps is None or base is None or steps.total is None:
            return None
        if steps.seconds_left is None:
            return None
        scoring = base.seconds or 0
        if self.running == "refit":
            return steps.seconds_left + scoring
        later = self.trainings - self.training
        scorings = (1 if self.trainings == 1 else later + 2) + bool(self.refit_share)
        more = (later + self.refit_share) * steps.total / steps.per_second
        return steps.seconds_left + more + scorings * scoring

    def update(self, line: Line) -> None:
        facts = line.facts
        if line.event == "start" and line.what in STAGES:
            if line.what == STAGES[0]:
                # The job starts, or starts again.
                self.stages.clear()
            self.stages[line.what] = Stage(parse_time(line.time))
            self.count = None
            if line.what == "refit":
                self._start_training()
        elif line.event == "done" and line.what in self.stages:
            self._end(line)
        elif {"done", "per_second"} <= facts.keys():
            self._count(line.what, line.event, facts)
        elif line.what == "train" and "loss" in facts:
            self._train(facts)
        elif line.what in ("seed", "fold") and line.event == "start":
            self._start_one(facts)
        elif line.what == "refit":
            pairs, tested = number(facts.get("pairs")), number(facts.get("tested_pairs"))
            self.refit_share = pairs / tested if pairs and tested else 0.0
        elif line.what == "validate":
            self._validate(number(facts.get(f"dim_{self.main_dimension}_cosine_ndcg@10")))
        elif line.what in ("base", "tuned"):
            for key, value in facts.items():
                known, found_score = SCORE_KEY.fullmatch(key), number(value)
                if known and found_score is not None:
                    self.scores[line.what, int(known[1])] = found_score

    def _end(self, line: Line) -> None:
        stage = self.stages[line.what]
        elapsed = (parse_time(line.time) - stage.started).total_seconds()
        stage.seconds = number(line.facts.get("seconds")) or elapsed
        stage.facts = line.facts
        self.count = None
        if line.what == "score base":
            self.main_dimension = int(number(line.facts.get("dimension")) or 0) or None
            self.base_validation = number(line.facts.get("validation"))

    def _start_one(self, facts: Mapping[str, Value]) -> None:
        """Begin one of several trainings, of a seed or of a fold."""
        training, trainings = number(facts.get("training")), number(facts.get("trainings"))
        if training is None or trainings is None:
            return
        seed = number(facts.get("seed"))
        self.training, self.trainings = int(training), int(trainings)
        self.seed = None if seed is None else int(seed)
        self._start_training()

    def _start_training(self) -> None:
        """Begin one of several trainings: nothing of the one before is shown with it."""
        self.steps = self.count = self.learning_rate = None
        self.losses.clear()
        self.validations.clear()

    def _validate(self, found: float | None) -> None:
        if found is not None:
            self.validations.append(found)
            self.best_validation = max(found, self.best_validation or 0.0)

    def _count(self, what: str, unit: str, facts: Mapping[str, Value]) -> None:
        done, total = number(facts["done"]) or 0, number(facts.get("total"))
        rate = number(facts["per_second"]) or 0.0
        whole = None if total is None else int(total)
        count = Count(what, int(done), whole, rate, unit)
        if what == "train":
            self.steps, self.count = count, None
        else:
            # What follows a finished count may take long, and not be counted.
            self.count = None if count.done == count.total else count
        self.memory |= {
            name: found
            for name in ("memory_gb", "gpu_gb")
            if (found := number(facts.get(name))) is not None
        }

    def _train(self, facts: Mapping[str, Value]) -> None:
        loss = number(facts["loss"])
        if loss is not None:
            self.losses.append(loss)
        self.learning_rate = number(facts.get("learning_rate"))
        # The first steps come before the first count.
        step, steps = number(facts.get("step")), number(facts.get("steps"))
        if step is not None and steps is not None:
            rate = self.steps.per_second if self.steps else 0.0
            self.steps = Count("train", int(step), int(steps), rate, "steps")
        self.count = None


def number(value: Value | None) -> float | None:
    """Return a finite number, or None for a text, NaN or infinity."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def is_warning(line: Line) -> bool:
    return line.event.startswith(WARNING)


def now() -> datetime:
    return datetime.now(UTC)
