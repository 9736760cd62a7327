"""Every number that a person reads in report.md is the one that a program reads in report.json."""

import re
from functools import partial

import pytest
from made_reports import BETTER, DIMENSIONS, make_report

from job.data import load_dataset
from job.markdown import precision_table, score_table, to_markdown, usage_section
from job.spec import DataSpec
from job.where_markdown import where_section
from job.wording import format_p


@pytest.fixture(scope="module")
def make(pairs_file):
    return partial(make_report, load_dataset(DataSpec(source=str(pairs_file)), {}))


@pytest.fixture(scope="module")
def report(make):
    return make(BETTER, price=2.0)


NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)*%?")


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


def test_every_number_of_the_table_is_the_reports(report):
    """What a person reads and what a program reads are the same numbers."""
    assert score_table(report) in to_markdown(report)
    header, rule, *rows = score_table(report).splitlines()

    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "dimension",
        "base",
        "tuned",
        "lift",
        "95 % interval",
        "p",
        "wins / ties / losses",
        "kept",
    ]
    assert rule.count("|") == header.count("|")
    assert [int(numbers(row)[0]) for row in rows] == list(DIMENSIONS.all)
    for row in rows:
        dimension, base, tuned, lift, interval, p, counts, kept = map(
            str.strip, row.strip("|").split("|")
        )
        expected = report["comparison"][dimension]["float32"]
        scores = [report["scores"][m][dimension]["float32"]["ndcg@10"] for m in ("base", "tuned")]
        half = pytest.approx
        assert [float(base), float(tuned)] == half(scores, abs=5.01e-4)
        assert float(lift) == half(expected["lift"], abs=5.01e-4)
        assert numbers(interval) == half(expected["ci"], abs=5.01e-4)
        assert p == format_p(expected["p_value"])
        assert counts == f"{expected['wins']} / {expected['ties']} / {expected['losses']}"
        assert float(kept.rstrip("%")) / 100 == half(expected["retention"]["share"], abs=5.01e-4)


def test_the_page_answers_in_the_order_of_the_questions(report, pairs_file):
    """Did it help, what to deploy, against what, where, the data, the training, the run, how."""
    bm25 = report["scores"]["bm25"]["ndcg@10"]
    effect = report["verdict"]["minimum_detectable_effect"]
    memory = report["training"]["peak_memory"]["host_bytes"]
    versions = report["environment"]["versions"]
    digests = report["data"]["fingerprint"]
    page = to_markdown(report)
    expected = f"""# my-run

**{report["verdict"]["sentence"]}**

{report["recommendation"]["sentence"]}

**Worth a look**

- {report["advice"][0]["finding"]} {report["advice"][0]["do"]}

{score_table(report)}

Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself.

## Smaller vectors

{precision_table(report)}

Kept: share of the best float32 nDCG@10, with its 95 % interval.
GB: vectors only, of 10 million documents; ids, graphs and texts come on top.
int8 is calibrated on the corpus; rescored: the best 200 by codes are ranked again by the float32 \
query.
Frontier: nothing as small scores higher.

## Beside BM25

BM25, without any model: nDCG@10 {bm25:.3f}.
{report["fusion"]["sentence"]}

{fusion_table(page)}

Fused: by reciprocal rank (k = 60) of BM25's and the model's first 100.

## Where

{where_section(report["where"], 32)}

## Data

- Source: `{pairs_file}`, 400 rows read, 400 used; dropped: none.
- Fetched: nothing, all was here.
- Splits (by group): train 320, validation 40, test 40; corpus: 400 documents, those of the \
training included.
- Test contexts that are also trained on: 0.0% (a random split: 0.0%).
- Longer than the 64 tokens that the model reads: 0 of 40 queries (longest: 7), 60 of 400 \
documents (longest: 70).
- This test set shows a lift of {effect:.3f} or more (with 80 % chance).
- No prompts are used; the model documents none, or the spec says so.

## Training

- 30 steps, checkpoint of step 20 (0: the base model); preset `balanced`.
- Validation was scored once, so nothing can be said of over-fitting.
- `auto` became: learning_rate 0.0001 (22,713,216 parameters); mini_batch_size 16 (a batch needs \
about 3.0 GiB, more than is free).
- Memory: at most {memory / 1e9:.2f} GB on the host.

## Run

- Finished {report["finished"]} on cpu, float32: as the spec says.
- Seconds: data 1.2, train 1798.8, score tuned 0.0.
- Cost: $1.0000 (1800 measured seconds of the job at $2 an hour).
- Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.
- Fingerprints: {", ".join(f"{name} `{digest}`" for name, digest in digests.items())}; base \
`0123456789abcdef`, stored model `fedcba9876543210`.
- Again: `embedtune launch runs/my-run/spec.json --name my-run-again`

## How to use it

{usage_section(report["usage"])}
"""
    assert page == expected


def fusion_table(page):
    return page.partition("## Beside BM25")[2].split("\n\n")[2]


def test_every_number_of_the_fusion_table_is_the_reports(report):
    """Against BM25 alone, and both models beside it."""
    header, _, *rows = fusion_table(to_markdown(report)).splitlines()

    assert cells(header)[2:4] == ["base, fused", "tuned, fused"]
    assert [cells(row)[0] for row in rows] == [str(d) for d in DIMENSIONS.all]
    for row in rows:
        dimension, alone, base, tuned, lift, interval, p = cells(row)
        fusion, bm25 = report["fusion"], report["comparison"][dimension]["float32"]["against_bm25"]
        expected = fusion["comparison"][dimension]
        near = partial(pytest.approx, abs=5.01e-4)
        assert numbers(alone) == near([bm25["lift"], *bm25["ci"]])
        assert [float(base), float(tuned)] == near(
            [fusion["scores"][m][dimension]["ndcg@10"] for m in ("base", "tuned")]
        )
        assert float(lift) == near(expected["lift"])
        assert numbers(interval) == near(expected["ci"])
        assert p == format_p(expected["p_value"])


def test_no_number_of_the_page_comes_from_elsewhere(make):
    """Whatever number stands on the page stands in report.json, but for units and cut-offs."""
    side = {
        "source": "other.jsonl",
        "queries": 77,
        "corpus": 99,
        "scores": {m: {"32": {"ndcg@10": 0.1234 + n}} for n, m in enumerate(("base", "tuned"))},
        "comparison": {"32": {"lift": 0.0471, "ci": [0.011, 0.083], "p_value": 0.0123}},
        "sentence": "It went from 0.123 to 1.123.",
    }
    report = make(BETTER, price=2.0, others={"article": side, "probe": side})
    page = to_markdown(report).partition("## How to use it")[0]

    known = set(written(report))
    units = {"95", "100", "80", "10", "60", "200", "0"}
    # Without names that end in numbers.
    plain = re.sub(r"nDCG@10|BM25|float32|int8", "", page)
    assert [number for number in NUMBER.findall(plain) if number not in known | units] == []


def written(value):
    """Write every number of a document in all the ways in which a page may show it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from written(key)
            yield from written(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from written(inner)
    elif isinstance(value, str):
        yield from NUMBER.findall(value)
    elif isinstance(value, int | float):
        yield from (f"{value:.3f}", f"{value:+.3f}", f"{value:.1%}", f"{value / 1e9:.2f}")
        # Of ten million documents.
        yield from (f"{value:.4f}", f"{value:.1f}", f"{value:g}", f"{value / 100:.2f}")


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_every_number_of_the_precision_table_is_the_reports(report):
    """Each dimension and precision once, large to small, with what it keeps and what it takes."""
    page = to_markdown(report)
    header, rule, *rows = precision_table(report).splitlines()

    assert f"## Smaller vectors\n\n{precision_table(report)}\n" in page
    assert rule.count("|") == header.count("|")
    assert cells(header)[:7] == [
        "dimension", "precision", "nDCG@10", "kept", "95 % interval", "bytes", "GB",
    ]  # fmt: skip
    names = ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]
    assert [cells(row)[:2] for row in rows] == [
        [str(d), name.replace("_", ", ")] for d in DIMENSIONS.all for name in names
    ]
    on_frontier = [(str(p["dimension"]), p["precision"]) for p in report["pareto"]]
    advice = report["recommendation"]
    for row in rows:
        dimension, spoken, score, kept, interval, size, gigabytes, mark = cells(row)
        name = spoken.replace(", ", "_")
        found = report["comparison"][dimension][name]
        reported = report["scores"]["tuned"][dimension][name]["ndcg@10"]
        assert float(score) == pytest.approx(reported, abs=5.01e-4)
        assert numbers(kept)[0] / 100 == pytest.approx(found["retention"]["share"], abs=5.01e-4)
        ci = [number / 100 for number in numbers(interval)]
        assert ci == pytest.approx(found["retention"]["ci"], abs=5.01e-4)
        assert int(size) == found["bytes_per_vector"]
        # Ten million vectors, in 10^9 bytes.
        assert float(gigabytes) == pytest.approx(int(size) / 100, abs=5.01e-3)
        assert ("frontier" in mark) == ((dimension, name) in on_frontier)
        recommended = (int(dimension), name) == (advice["dimension"], advice["precision"])
        assert ("**recommended**" in mark) == recommended
