"""Work that counts something logs done, total and rate by time, whatever it is."""

import logging
from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pytest

from job.core.log_lines import parse_line
from job.runtime import counter as module
from job.runtime.counter import Counter, count_each
from job.runtime.logs import log, log_to_folder


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    """The facts of each logged line, without memory."""
    found, handler = [], logging.Handler()
    hidden = ("time", "memory_gb", "gpu_gb")

    def emit(record):
        facts = {key: value for key, value in record.msg.items() if key not in hidden}
        facts["unit"] = facts.pop("event")
        found.append(facts)

    handler.emit = emit
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def always(monkeypatch):
    """Log each count, however short the time."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE_OF_ELAPSED", 0.0)


def test_lines_come_by_time_and_not_by_count(clock, lines):
    """Every two seconds at first, every ten in a long run; the rate is the mean so far."""
    counter = Counter("encode", "texts", 100_000, clock=clock)
    at = []
    for _ in range(1_000):
        clock.now += 0.5
        counter.add(5)
        if len(lines) > len(at):
            at.append(clock.now)
    assert lines[0] == {
        "what": "encode",
        "done": 20,
        "total": 100_000,
        "per_second": 10.0,
        "unit": "texts",
    }
    pauses = [after - before for before, after in zip([0.0, *at], at, strict=False)]
    assert pauses[:5] == [2.0] * 5
    assert pauses[-5:] == [10.0] * 5
    assert all(before <= after for before, after in pairwise(pauses))


def test_short_work_logs_nothing(clock, lines):
    assert list(count_each(range(1_000), "read", "rows")) == list(range(1_000))
    assert lines == []


def test_a_resumed_count_has_the_rate_of_this_start(clock, lines):
    """And a batch that is repeated cannot lead beyond the total."""
    counter = Counter("train", "steps", 60, done=50, clock=clock)
    clock.now = 10.0
    counter.add(5)
    clock.now = 20.0
    counter.add(15)
    found = [(line["done"], line["total"], line["per_second"]) for line in lines]
    assert found == [(55, 60, 0.5), (60, 60, 0.5)]


def test_a_count_without_total_says_so(clock, lines):
    counter = Counter("read", "rows", clock=clock)
    clock.now = 4.0
    counter.add(10)
    assert lines == [{"what": "read", "done": 10, "per_second": 2.5, "unit": "rows"}]


def test_the_log_of_ten_thousand_steps_stays_below_five_megabytes(clock, tmp_path):
    """Of steps so slow that each one has a line: 28 hours of ten seconds each."""
    with log_to_folder(tmp_path):
        counter = Counter("train", "steps", 10_000, clock=clock)
        counter.add(9_000)
        for _ in range(1_000):
            clock.now += 10.0
            counter.add()
    lines = (tmp_path / "job.log").read_text("utf-8").splitlines()
    assert len(lines) == 1_000
    assert parse_line(lines[-1]).facts["done"] == 10_000
    sizes = [(tmp_path / name).stat().st_size for name in ("job.log", "metrics.jsonl")]
    assert all(10 * size < 5e6 for size in sizes)


def test_embedding_counts_texts(tiny_encoder, lines, always):
    """Batch by batch, also if the library sorts the texts by length."""
    from sentence_transformers import SentenceTransformer

    from job.evaluation.evaluate import encode
    from job.model.device import Machine
    from job.model.encoder import Model, Prompts

    encoder = SentenceTransformer(str(tiny_encoder), device="cpu")
    model = Model(encoder, Machine("cpu", "float32", ""), 64, Prompts())
    encode(model, pa.array([f"ask{n % 24}" for n in range(100)]), "", 32)
    found = [(line["what"], line["done"], line["total"]) for line in lines]
    assert found == [("encode", done, 100) for done in (32, 64, 96, 100)]
    encode(model, pa.array(["ask1"]), "", 32)
    assert len(lines) == 5


def test_searching_ranking_and_grouping_are_counted(lines, always):
    """Of each, the last line has everything done."""
    import torch

    from job.data.near_duplicates import near_duplicates
    from job.evaluation.bm25 import rank_bm25
    from job.evaluation.quantization import rank

    vectors = torch.nn.functional.normalize(torch.randn(40, 8), dim=1)
    rank(vectors[:10], vectors, [8], ["float32", "int8"])
    texts = pa.array([f"word{n} other{n}" for n in range(40)])
    rank_bm25(texts, texts[:10])
    same = "one text that is there twice, word for word"
    list(near_duplicates({1: same, 2: f"{same} again", 3: "another"}, 0.5))
    last = {line["what"]: (line["done"], line["total"], line["unit"]) for line in lines}
    assert last == {
        "search": (40, 40, "documents"),
        "rescore": (10, 10, "queries"),
        "bm25": (10, 10, "queries"),
        "hash texts": (3, 3, "texts"),
        "near duplicates": (2, 2, "texts"),
    }


def test_a_download_from_the_hub_counts_the_bytes_written(lines, always):
    """The Hub's client has three bars; its bytes are counted once."""
    from job.storage.hub import _counted_download

    bar = _counted_download()
    received, written = (bar(total=0, unit="B", unit_scale=True) for _ in range(2))
    files = bar(total=1, desc="Fetching 1 files")
    written.total = 2_000
    for each in (received, written):
        each.update(1_500)
    files.update(1)
    found = [(line["what"], line["done"], line["total"], line["unit"]) for line in lines]
    assert found == [("download", 1_500, 2_000, "bytes")]


def test_transfers_with_s3_count_the_bytes_of_all_files(lines, always):
    from job.storage.s3 import count_bytes

    moved = count_bytes("upload", 100)
    for count in (60, 40):
        moved.on_progress(future=SimpleNamespace(), bytes_transferred=count)
    assert [(line["what"], line["done"], line["total"]) for line in lines] == [
        ("upload", 60, 100),
        ("upload", 100, 100),
    ]
