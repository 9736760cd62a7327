"""An event becomes a log line, which can be parsed again, and a JSON object."""

import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.core.log_lines import Line, parse_line, write_line
from job.runtime.logs import Progress, log, log_scores, log_to_folder, memory, tell, warn
from launcher.backends.sagemaker.training_job import metric_definitions

AT = "2026-11-23T16:23:56Z"
SCORE = "dim_128_cosine_ndcg@10"
SENTENCE = "Improved. nDCG@10: 0.500, p = 0.010."


def logged(work, folder):
    """Return the lines and JSON objects that some work logs, without times and memory."""
    with log_to_folder(folder):
        work()
    lines = (folder / "job.log").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line[: len(AT)] for line in lines] == [entry.pop("time") for entry in entries]
    assert all(entry.pop("host_bytes") > 0 for entry in entries)
    return [line[len(AT) + 1 :] for line in lines], entries


@pytest.mark.parametrize(
    ("text", "what", "event", "facts"),
    [
        ("score base: start", "score base", "start", {}),
        ("train: done seconds=3.25 steps=30", "train", "done", {"seconds": 3.25, "steps": 30}),
        (
            "train: step=2/30 loss=10.6448 learning_rate=1e-05",
            *("train", "", {"step": 2, "steps": 30, "loss": 10.6448, "learning_rate": 1e-5}),
        ),
        (
            f"validate: step=2/30 {SCORE}: 0.7234",
            *("validate", "", {"step": 2, "steps": 30, SCORE: 0.7234}),
        ),
        (f"base {SCORE}: 0.5000", "base", "", {SCORE: 0.5}),
        ("bm25 ndcg@10: 0.4375", "bm25", "", {"ndcg@10": 0.4375}),
        (
            'train: going on mini_batch_size=8 reason="no \\"more\\""',
            *("train", "going on", {"mini_batch_size": 8, "reason": 'no "more"'}),
        ),
        ("fetch: s3://box/day=1/x files=3", "fetch", "s3://box/day=1/x", {"files": 3}),
        ("fetch: done data=007", "fetch", "done", {"data": "007"}),
        ("verdict: Improved. nDCG@10: 0.500, p = 0.010.", "verdict", SENTENCE, {}),
    ],
)
def test_a_written_line_is_parsed_back(text, what, event, facts):
    """Alone, and with the host name that CloudWatch lines have in runs of several hosts."""
    assert write_line(what, event, facts) == text
    assert parse_line(f"{AT} {text}\n") == Line(AT, what, event, facts)
    assert parse_line(f"algo-1: {AT} {text}") == Line(AT, what, event, facts)


@pytest.mark.parametrize(
    "text",
    [
        *("Traceback (most recent call last):", "data: start", AT, f"{AT} no colon", ""),
        "2026-02-31T16:23:56Z data: start",
    ],
)
def test_other_text_is_not_parsed_as_a_line(text):
    """A traceback, a line without time, an incomplete line, a day that does not exist."""
    assert parse_line(text) is None


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_facts_with_any_text_are_parsed_back(facts):
    """Spaces, quotes and equals signs in a value start no other fact."""
    texts = {
        key: re.sub(r"[\d\x00-\x1f\x7f-\x9f\u2028-\u202f]|nan|inf", "_", facts[key])
        for key in facts
    }
    found = parse_line(f"{AT} {write_line('fetch', 'done', texts)}")
    assert (found.event, found.facts) == ("done", texts)


def test_a_long_hostile_line_is_parsed_quickly():
    """The regular expressions do not backtrack."""
    text = 'a="b" ' * 3_000 + '"'
    assert parse_line(f"{AT} fetch: {text}").event == text.strip()


def test_an_event_is_a_line_and_an_object(tmp_path):
    """Stages with seconds, steps, scores and free text; JSON has numbers, and null for NaN."""

    def work():
        with Progress(0.0).stage("score base") as facts:
            log_scores("base", {64: {"ndcg@10": 0.71234}, 0: {"ndcg@10": 0.5}})
            facts.update(device="cpu", note="a b", folder=tmp_path)
        tell("train", step=2, steps=30, loss=float("nan"), learning_rate=1e-3)
        tell("hyperparameters", mini_batch_size=None, dimensions=[64, 32])
        warn("stop", "SIGTERM received\n2026 verdict: forged=1")
        log.info("a library's line")

    lines, entries = logged(work, tmp_path / "logs")

    seconds = entries[3]["seconds"]
    assert isinstance(seconds, float)
    assert lines == [
        "score base: start",
        "base dim_64_cosine_ndcg@10: 0.7123",
        "base ndcg@10: 0.5000",
        f'score base: done seconds={seconds} device=cpu note="a b" folder={tmp_path}',
        "train: step=2/30 loss=nan learning_rate=0.001",
        'hyperparameters: mini_batch_size=null dimensions="[64, 32]"',
        r"stop: warning: SIGTERM received\x0a2026 verdict: forged=1",
        "log: a library's line",
    ]
    done = {"seconds": seconds, "device": "cpu", "note": "a b", "folder": str(tmp_path)}
    assert entries == [
        {"what": "score base", "event": "start"},
        {"what": "base", "event": "", "dim_64_cosine_ndcg@10": 0.71234},
        {"what": "base", "event": "", "ndcg@10": 0.5},
        {"what": "score base", "event": "done", **done},
        {"what": "train", "event": "", "step": 2, "steps": 30, "loss": None, "learning_rate": 1e-3},
        {"what": "hyperparameters", "event": "", "mini_batch_size": None, "dimensions": [64, 32]},
        {"what": "stop", "event": "warning: SIGTERM received\n2026 verdict: forged=1"},
        {"what": "log", "event": "a library's line"},
    ]


def test_a_resumed_run_appends_to_its_files(tmp_path):
    """The incomplete last line of a killed run is removed."""
    logged(lambda: tell("data", "start"), tmp_path)
    for name in ("job.log", "metrics.jsonl"):
        with (tmp_path / name).open("a", encoding="utf-8") as handle:
            handle.write('{"time": "2026')
    lines, entries = logged(lambda: tell("data", "done"), tmp_path)
    assert lines == ["data: start", "data: done"]
    assert [entry["event"] for entry in entries] == ["start", "done"]


def test_memory_has_host_bytes_and_device_bytes(monkeypatch):
    """Device bytes appear only once the GPU is in use."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    found = memory()
    assert found["device_bytes"] == 2**30
    assert 10_000_000 < found["host_bytes"] < 1_000_000_000_000
    # As during the import of torch.
    monkeypatch.setitem(sys.modules, "torch.cuda", type(sys)("torch.cuda"))
    assert memory().keys() == {"host_bytes"}


def test_sagemakersmetric_definitions_match_the_lines(tmp_path):
    """Their regular expressions extract the numbers of the events."""

    def work():
        tell("train", step=2, steps=30, loss=1.0648, learning_rate=1e-05, pairs_per_second=9.1)
        for model in ("base", "tuned"):
            log_scores(model, {128: {"ndcg@10": 0.7234}})
        log_scores("bm25", {0: {"ndcg@10": 0.4}})
        tell("validate", step=2, steps=30, **{SCORE: 0.7})

    text = "\n".join(f"{AT} {line}" for line in logged(work, tmp_path)[0])
    definitions = {each["Name"]: each["Regex"] for each in metric_definitions()}
    found = {name: re.findall(regex, text) for name, regex in definitions.items()}

    assert {name: numbers for name, numbers in found.items() if numbers} == {
        "train:loss": ["1.0648"],
        "train:learning_rate": ["1e-05"],
        "bm25:ndcg@10": ["0.4000"],
        f"base:{SCORE}": ["0.7234"],
        f"tuned:{SCORE}": ["0.7234"],
        f"validation:{SCORE}": ["0.7000"],
    }
