"""The view of a run at each of its states: what it says, and that it fits the terminal."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from job.core.log_lines import parse_line
from launcher.live.drawing import Job, Picture, Status, clock, draw, sparkline
from launcher.live.progress import Progress

START = datetime(2026, 11, 28, 10, 0, 0, tzinfo=UTC)
JOB = Job("demo", "process", START, price_per_hour=3.6)
LINES = """\
00 fetch: start
01 fetch: done seconds=0.5 model=builtin:minilm
01 data: start
03 read: rows done=420 per_second=210 memory_gb=0.61
05 data: done seconds=4.0 format=rows train=320 validation=40 test=40 corpus=400
05 model: start
06 model: done seconds=0.6 device=cpu precision=float32
06 proof: start
06 proof: done seconds=0.8
06 score base: start
08 encode: texts done=64 total=300 per_second=32 memory_gb=1.4
16 base dim_128_cosine_ndcg@10: 0.6770
16 score base: done seconds=10.0 dimension=128 validation=0.7
16 train: start
20 train: step=10/100 loss=2.0 learning_rate=1e-05 seconds_per_step=0.4 pairs_per_second=80.0
22 validate: step=10/100 dim_384_cosine_ndcg@10: 0.9000
22 validate: step=10/100 dim_128_cosine_ndcg@10: 0.7500
26 train: steps done=20 total=100 per_second=2 memory_gb=2.0 gpu_gb=7.5
26 train: step=20/100 loss=1.0 learning_rate=2e-05 seconds_per_step=0.4 pairs_per_second=80.0
28 encode: texts done=100 total=300 per_second=50 memory_gb=2.0 gpu_gb=7.5
29 validate: step=20/100 dim_128_cosine_ndcg@10: 0.8000
30 train: done seconds=14.0 steps=100 resumed_from_step=0
30 score tuned: start
31 tuned dim_128_cosine_ndcg@10: 0.8170
31 score tuned: done seconds=1.0
31 compare: start
31 compare: done seconds=0.2
31 store: start
32 store: done seconds=0.3
"""


def progress_after(seconds):
    """Return the progress at a time, in seconds after the start."""
    progress = Progress()
    for line in LINES.splitlines():
        second, rest = line.split(" ", 1)
        if int(second) <= seconds:
            progress.update(parse_line(f"2026-11-28T10:00:{second}Z {rest}"))
    return progress


def drawn(seconds, columns=80, rows=40, **fields):
    picture = Picture(fields.pop("job", JOB), progress_after(seconds), **fields)
    lines = draw(picture, START + timedelta(seconds=seconds), columns, rows)
    return [line.plain.rstrip() for line in lines]


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_run_that_trains():
    """Finished stages, the bar, the numbers of the training, later stages, and estimates."""
    assert drawn(27) == [
        "demo · process · 27 s",
        "  ✓ fetch          0.5 s",
        "  ✓ data             4 s   320 train, 40 test, corpus 400",
        "  ✓ model          0.6 s   cpu, float32",
        "  ✓ proof          0.8 s",
        "  ✓ score base      10 s   nDCG@10 at 128: 0.677",
        "  ● train           11 s",
        "      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ train 20/100 steps  2/s  40 s left",
        "      loss 1.000 █▁   learning rate 2.0e-05",
        "      validation nDCG@10 at 128: 0.750 (base 0.700, +0.050)",
        "  · score tuned",
        "  · compare",
        "  · store",
        # 40 s of steps, and 10 s for scoring as long as for the base model.
        "  memory 2.0 GB · GPU 7.5 GB · ends about 10:01 · $0.027 so far at $3.6/h",
    ]


def test_exports_are_a_stage_of_runs_that_make_them(monkeypatch):
    assert not any("export" in line for line in drawn(32))
    more = "33 export: start\n35 export: done seconds=2.0 name=onnx-int8\n36 export: start\n"
    monkeypatch.setitem(globals(), "LINES", LINES + more)
    assert drawn(37)[9:11] == ["  ✓ store          0.3 s", "  ● export           1 s"]


def test_validation_within_the_training_has_a_line_of_its_own():
    lines = drawn(28)
    assert "      encode 100/300 texts  50/s  4 s left" in lines
    assert any("train 20/100" in line for line in lines)


def test_a_stage_that_was_left_out_is_not_awaited():
    """A run that trains nothing has no proof."""
    progress = progress_after(9)
    del progress.stages["proof"]
    lines = draw(Picture(JOB, progress), START + timedelta(seconds=9), 80, 40)
    shown = [line.plain.rstrip() for line in lines]
    assert "  · train" in shown
    assert not any("proof" in line for line in shown)


def test_a_count_without_a_total_has_no_bar():
    assert "      read 420 rows  210/s" in drawn(4)


def test_a_run_that_has_not_logged_anything_loads_its_libraries():
    lines = drawn(-1)
    assert lines[1].split()[:2] == ["●", "start"]
    assert not any("✓" in line for line in lines)


SEEDS = """\
16 seed: start seed=42 training=1 trainings=3
20 train: step=100/100 loss=2.0 learning_rate=1e-05
21 validate: step=100/100 dim_128_cosine_ndcg@10: 0.9000
22 seed: done seed=42 validation=0.9
22 seed: start seed=43 training=2 trainings=3
24 train: steps done=20 total=100 per_second=2 memory_gb=2.0
24 train: step=20/100 loss=1.0 learning_rate=1e-05
25 validate: step=20/100 dim_128_cosine_ndcg@10: 0.7500
"""


def test_a_run_with_several_seeds_says_which_one_trains_and_when_all_of_them_end(monkeypatch):
    """Losses and scores of the training before are not mixed with those of this one."""
    first = [line for line in LINES.splitlines(keepends=True) if int(line[:2]) <= 16]
    monkeypatch.setitem(globals(), "LINES", "".join(first) + SEEDS)
    lines = drawn(25)
    assert lines[6:10] == [
        "  ● train            9 s",
        "      training 2 of 3 (seed 43)",
        "      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ train 20/100 steps  2/s  40 s left",
        "      loss 1.000    learning rate 1.0e-05",
    ]
    assert lines[10] == "      validation nDCG@10 at 128: 0.750 (base 0.700, +0.050)"
    progress = progress_after(25)
    # 80 steps of this training and 100 of the last; three scorings of 10 s: one after each of
    # these, and one of the chosen model.
    assert progress.seconds_left() == 40 + 50 + 30
    progress.update(parse_line("2026-11-28T10:00:30Z train: done seconds=14.0 steps=100"))
    ended = draw(Picture(JOB, progress), START, 80, 40)
    assert "100 steps, validation 0.900" in "\n".join(line.plain for line in ended)


REFIT = """\
16 refit: follows the test tested_pairs=80 pairs=100
20 train: steps done=20 total=100 per_second=2
20 train: step=20/100 loss=1.0 learning_rate=1e-05
"""
REFIT_STARTED = """\
30 train: done seconds=14.0 steps=100
30 refit: start
32 train: steps done=25 total=125 per_second=5
32 train: step=25/125 loss=0.5 learning_rate=1e-05
"""


def test_a_training_on_all_pairs_is_a_stage_of_its_own_and_counts_before_it_starts(monkeypatch):
    first = [line for line in LINES.splitlines(keepends=True) if int(line[:2]) <= 16]
    monkeypatch.setitem(globals(), "LINES", "".join(first) + REFIT + REFIT_STARTED)
    # 80 steps now, 125 of the refit, and two scorings of 10 s.
    assert progress_after(25).seconds_left() == 40 + 62.5 + 20
    progress = progress_after(32)
    assert (progress.running, progress.losses, progress.seconds_left()) == ("refit", [0.5], 30)
    assert any("train 25/125 steps" in line for line in drawn(32))
    progress.update(parse_line("2026-11-28T10:00:40Z refit: done seconds=10.0 steps=125"))
    ended = draw(Picture(JOB, progress), START, 80, 40)
    assert "125 steps" in "\n".join(line.plain for line in ended)


@pytest.mark.parametrize(
    "line",
    [
        "read: rows done=many total=some per_second=fast memory_gb=much",
        "train: step=1/2 loss=high learning_rate=low",
        "train: loss=nan learning_rate=none",
        "read: rows done=nan total=inf per_second=inf memory_gb=-inf",
        "score base: done seconds=nan dimension=inf validation=nan",
        "validate: dim_128_cosine_ndcg@10=none",
        "base: dim_128_cosine_ndcg@10=none",
        "seed: start seed=first training=one trainings=few",
        "score base: done seconds=long dimension=wide validation=good",
        "train: done seconds=long steps=many",
        "refit: follows the test tested_pairs=few pairs=all",
    ],
)
def test_a_text_where_a_number_is_expected_is_ignored(line):
    """A line of another version or of a library that looks like ours ends no view."""
    progress = progress_after(27)
    progress.update(parse_line(f"2026-11-28T10:00:27Z {line}"))
    lines = draw(Picture(JOB, progress), START + timedelta(seconds=27), 80, 40)
    assert lines[0].plain == "demo · process · 27 s"
    assert progress.losses[-1] == 1.0
    assert progress.validations == [0.75]


def test_the_end_has_only_what_is_worth_keeping():
    """No bar, no estimates, and an empty line before the result."""
    assert drawn(33, has_ended=True) == [
        "demo · process · 33 s",
        "  ✓ fetch          0.5 s",
        "  ✓ data             4 s   320 train, 40 test, corpus 400",
        "  ✓ model          0.6 s   cpu, float32",
        "  ✓ proof          0.8 s",
        "  ✓ score base      10 s   nDCG@10 at 128: 0.677",
        "  ✓ train           14 s   100 steps, validation 0.800 (base 0.700, +0.100)",
        "  ✓ score tuned      1 s   nDCG@10 at 128: 0.817",
        "  ✓ compare        0.2 s",
        "  ✓ store          0.3 s",
        "",
    ]
    assert "  ✗ train           11 s" in drawn(27, has_ended=True, has_failed=True)
    # A job that goes on without us.
    assert "  · train           11 s" in drawn(27, has_ended=True)


def test_a_cloud_job_that_waits_says_for_what_since_when_and_at_what_price():
    """Money counts once the machine is billed."""
    job = Job("demo", "sagemaker, us-east-1, ml.g5.2xlarge", START, price_per_hour=1.515)
    since = START + timedelta(seconds=5)
    waiting = Status("Starting", "Preparing the instances for training", since)
    assert drawn(-1, job=job, status=waiting)[1:] == [
        "  ● Starting: Preparing the instances for training",
        "    since 10:00, for 0.0 s, at $1.515 an hour once it is billed",
    ]
    advised = replace(waiting, advice=f"Stop the run: {'a' * 60} {'b' * 50}")
    assert drawn(-1, job=job, status=advised)[3:] == [
        "    Stop the run:",
        f"    {'a' * 60}",
        f"    {'b' * 50}",
    ]
    downloading = Status("Downloading", "", since, billed_since=since)
    assert drawn(-1, job=job, status=downloading)[2].endswith("for 0.0 s, at $1.515 an hour")
    billed = Status("Training", "", since, billed_since=START, is_waiting=False)
    assert drawn(27, job=job, status=billed)[-1].endswith("$0.011 so far at $1.515/h")
    uploading = Status("Uploading", "Uploading the model", since, START, is_waiting=False)
    assert drawn(33, job=job, status=uploading)[1] == "  ● Uploading: Uploading the model"


def test_a_spot_job_waits_again_and_starts_again():
    """The stage that was cut off is not running; the next start begins with the first stage."""
    gone = Status("Interrupted", "Training job was interrupted", START + timedelta(seconds=26))
    lines = drawn(27, status=gone)
    assert lines[1] == "  ● Interrupted: Training job was interrupted"
    assert [line.split()[1] for line in lines if line.startswith("  ●")] == ["Interrupted:"]
    progress = progress_after(27)
    progress.update(parse_line("2026-11-28T10:05:00Z fetch: start"))
    assert list(progress.stages) == ["fetch"]
    assert progress.validations == [0.75]


@pytest.mark.parametrize("columns", [20, 40, 80, 140])
@pytest.mark.parametrize("rows", [4, 10, 24, 50])
def test_the_view_fits_the_terminal(columns, rows):
    """The running stage is never left out; long lines end in an ellipsis."""
    for second in range(-1, 34):
        lines = drawn(second, columns, rows, log=["x" * 300] * 10)
        assert max(map(len, lines)) < columns
        assert len(lines) < max(rows, 6)
        running = progress_after(second).running
        assert running is None or any(f"● {running}"[:15] in line for line in lines)


def test_a_sparkline_goes_from_the_lowest_to_the_highest_value():
    assert sparkline([0, 7]) == "▁█"
    assert sparkline([2.0, 1.0, 1.0, 1.5]) == "█▁▁▅"
    assert sparkline([1.0]) == ""
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert len(sparkline(range(1_000))) == 16


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-2, "0.0 s"), (0.44, "0.4 s"), (59.4, "59 s"), (185, "3:05"), (3753, "1:02:33")],
)
def test_a_duration_is_short(seconds, text):
    assert clock(seconds) == text
