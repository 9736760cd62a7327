"""A run's lines have one format, which is read back, and its metrics are those very lines."""

import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.lines import Line, join_facts, parse_line
from job.progress import Progress, log, log_scores, logged_to, tell
from launcher.training_job import _metric_definitions

AT = "2026-11-23T16:23:56Z"
HELD = {"host_bytes"}


def said(work, folder):
    """Return the lines and the metrics, without times and memory, that some work leaves."""
    with logged_to(folder):
        work()
    lines = (folder / "job.log").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line[: len(AT)] for line in lines] == [entry.pop("time") for entry in entries]
    assert all(isinstance(entry.pop(name), int) for entry in entries for name in HELD)
    return [line[len(AT) + 1 :] for line in lines], entries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score base: start", ("score base", "start", {})),
        (
            "train: done seconds=3.25 steps=30 resumed_from_step=0",
            ("train", "done", {"seconds": 3.25, "steps": 30, "resumed_from_step": 0}),
        ),
        (
            "train: step=2/30 loss=10.6448 learning_rate=1.00e-03",
            ("train", "", {"step": 2, "steps": 30, "loss": 10.6448, "learning_rate": 0.001}),
        ),
        (
            "validate: step=2/30 dim_128_cosine_ndcg@10: 0.7234",
            ("validate", "", {"step": 2, "steps": 30, "dim_128_cosine_ndcg@10": 0.7234}),
        ),
        ("base dim_64_cosine_ndcg@10: 0.5000", ("base", "", {"dim_64_cosine_ndcg@10": 0.5})),
        ("bm25 ndcg@10: 0.4375", ("bm25", "", {"ndcg@10": 0.4375})),
        (
            'train: memory ran out, going on rows_at_once=8 before=16 reason="no \\"more\\""',
            (
                "train",
                "memory ran out, going on",
                {"rows_at_once": 8, "before": 16, "reason": 'no "more"'},
            ),
        ),
        (
            "fetch: s3://box/day=1/x files=3 missing=0",
            ("fetch", "s3://box/day=1/x", {"files": 3, "missing": 0}),
        ),
        ("fetch: done data=007", ("fetch", "done", {"data": "007"})),
        (
            "verdict: Improved. nDCG@10: 0.500 → 0.600, +0.100 [+0.050, +0.150], p = 0.010.",
            (
                "verdict",
                "Improved. nDCG@10: 0.500 → 0.600, +0.100 [+0.050, +0.150], p = 0.010.",
                {},
            ),
        ),
    ],
)
def test_a_line_is_read_back(text, expected):
    """Alone, and after the name of one host among several, as CloudWatch's lines come."""
    assert parse_line(f"{AT} {text}\n") == Line(AT, *expected)
    assert parse_line(f"algo-1: {AT} {text}") == Line(AT, *expected)


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        "data: start",
        f"{AT}",
        f"{AT} no colon",
        f"{AT} Upper: start",
        "",
    ],
)
def test_what_is_no_line_of_a_run_is_not_read_as_one(text):
    """A library's warning, a traceback, half a line."""
    assert parse_line(text) is None


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_whatever_a_fact_says_it_is_read_back(facts):
    """Spaces, quotes and signs of equality in it begin no other fact."""
    texts = {
        key: re.sub(r"[\d\x00-\x1f\x7f-\x9f\u2028-\u202f]|nan|inf", "_", facts[key])
        for key in facts
    }
    found = parse_line(f"{AT} fetch: done {join_facts(texts)}")
    assert (found.event, found.facts) == ("done", texts)


def test_a_long_line_of_a_stranger_is_read_at_once():
    """Nothing in it makes the search for facts go back again and again."""
    text = 'a="b" ' * 3_000 + '"'
    assert parse_line(f"{AT} fetch: {text}").event == text.strip()


def test_the_metrics_are_the_lines(tmp_path):
    """Stages with seconds, steps, scores and free words; numbers are numbers."""

    def work():
        with Progress(0.0).stage("score base") as facts:
            log_scores("base", {64: {"ndcg@10": 0.71234}, 0: {"ndcg@10": 0.5}})
            facts.update(device="cpu", what="a fact's name")
        tell("train", step="2/30", loss="nan", learning_rate="1.00e-03")
        log.warning("stop: %s received, finishing this step first", "SIGTERM")

    lines, entries = said(work, tmp_path / "logs")

    seconds = entries[3]["seconds"]
    assert isinstance(seconds, float)
    assert lines == [
        "score base: start",
        "base dim_64_cosine_ndcg@10: 0.7123",
        "base ndcg@10: 0.5000",
        f'score base: done seconds={seconds} device=cpu what="a fact\'s name"',
        "train: step=2/30 loss=nan learning_rate=1.00e-03",
        "stop: SIGTERM received, finishing this step first",
    ]
    assert entries == [
        {"what": "score base", "event": "start"},
        {"what": "base", "event": "", "dim_64_cosine_ndcg@10": 0.7123},
        {"what": "base", "event": "", "ndcg@10": 0.5},
        {"what": "score base", "event": "done", "seconds": seconds, "device": "cpu"},
        {"what": "train", "event": "", "step": 2, "steps": 30, "loss": None, "learning_rate": 1e-3},
        {"what": "stop", "event": "SIGTERM received, finishing this step first"},
    ]


def test_a_run_that_is_taken_up_adds_to_its_files(tmp_path):
    """What a killed run was just writing goes: every line is a whole one."""
    said(lambda: tell("data", "start"), tmp_path)
    for name in ("job.log", "metrics.jsonl"):
        with (tmp_path / name).open("a", encoding="utf-8") as handle:
            handle.write('{"time": "2026')
    lines, entries = said(lambda: tell("data", "done", seconds=1.5), tmp_path)

    assert lines == ["data: start", "data: done seconds=1.5"]
    assert entries == [
        {"what": "data", "event": "start"},
        {"what": "data", "event": "done", "seconds": 1.5},
    ]


def test_memory_is_told_of_host_and_gpu(tmp_path, monkeypatch):
    """Resident bytes of this process; the GPU's once it is in use, and nothing before."""
    import torch

    from job.metrics import memory

    assert memory().keys() == ({"host_bytes"} if not torch.cuda.is_initialized() else HELD)
    assert 10_000_000 < memory()["host_bytes"] < 1_000_000_000_000
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    assert memory()["device_bytes"] == 2**30
    # As while torch is being imported.
    monkeypatch.setitem(sys.modules, "torch.cuda", type(sys)("torch.cuda"))
    assert memory().keys() == {"host_bytes"}


def test_sagemakers_metric_definitions_find_what_is_told(tmp_path):
    """The numbers that its regular expressions cut out of the lines are those of the metrics."""

    def work():
        tell("train", step="2/30", loss="1.0648", learning_rate="1.00e-03", pairs_per_second="9.1")
        for model in ("base", "tuned"):
            log_scores(model, {128: {"ndcg@10": 0.7234}})
        log_scores("bm25", {0: {"ndcg@10": 0.4}})
        log.info("validate: step=2/30 %s: %.4f", "dim_128_cosine_ndcg@10", 0.7)

    with logged_to(tmp_path):
        work()
    text = (tmp_path / "job.log").read_text("utf-8")
    definitions = {each["Name"]: each["Regex"] for each in _metric_definitions()}
    found = {name: re.findall(regex, text) for name, regex in definitions.items()}

    assert {name: numbers for name, numbers in found.items() if numbers} == {
        "train:loss": ["1.0648"],
        "train:learning_rate": ["1.00e-03"],
        "bm25:ndcg@10": ["0.4000"],
        "base:dim_128_cosine_ndcg@10": ["0.7234"],
        "tuned:dim_128_cosine_ndcg@10": ["0.7234"],
        "validation:dim_128_cosine_ndcg@10": ["0.7000"],
    }
