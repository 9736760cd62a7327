"""Out-of-domain data: its queries and corpus, and the rows that are excluded."""

import pytest
from conftest import distinct_rows as rows_of
from conftest import write_jsonl

from job.core.errors import DataError, SpecError
from job.data.dataset import load_dataset
from job.data.out_of_domain import load_out_of_domain
from job.spec.parse import build_spec


@pytest.fixture
def load(tmp_path):
    """Load out-of-domain rows, or a path, for a job with sixty rows of its own."""
    data = write_jsonl(tmp_path / "data.jsonl", rows_of(60, "own"))

    def make(out_of_domain, channels=None, **fields):
        if isinstance(out_of_domain, list):
            out_of_domain = str(write_jsonl(tmp_path / "out_of_domain.jsonl", out_of_domain))
        settings = {"data.source": str(data), "data.min_test_queries": "3"}
        settings |= {key.replace("__", "."): value for key, value in fields.items()}
        if out_of_domain is not None:
            settings["evaluation.out_of_domain"] = str(out_of_domain)
        spec = build_spec({}, settings)
        dataset = load_dataset(spec.data, {})
        return load_out_of_domain(spec, channels or {}, dataset), spec

    return make


def asked(out_of_domain):
    """Map each question to the texts that answer it."""
    return {
        text: out_of_domain.corpus.texts.take(out_of_domain.queries.relevant(number)).to_pylist()
        for number, text in enumerate(out_of_domain.queries.texts.to_pylist())
    }


def test_all_rows_become_queries_and_all_contexts_the_corpus(load):
    """There are no splits; equal questions are one query, equal contexts one document."""
    rows = [
        {"question": "One?", "context": "First."},
        {"question": "one?", "context": "Second."},
        {"question": "Two?", "context": "FIRST."},
        {"question": "Three?", "context": "Third."},
        {"question": "", "context": "Nothing asks for it."},
    ]
    out_of_domain, _ = load(rows)
    assert asked(out_of_domain) == {
        "One?": ["First.", "Second."],
        "Two?": ["First."],
        "Three?": ["Third."],
    }
    assert sorted(out_of_domain.corpus.texts.to_pylist()) == ["First.", "Second.", "Third."]
    assert out_of_domain.left_out == 0
    # The statistics treat queries that share a context as one observation.
    groups = out_of_domain.queries.groups.tolist()
    assert groups[0] == groups[1] != groups[2]


def test_the_limit_is_the_number_of_pairs_drawn(load):
    """Pairs are drawn with `data.seed`; the corpus contains only contexts that were drawn."""
    rows = rows_of(50, "other")
    samples = [
        load(rows, evaluation__out_of_domain_limit="20", data__seed=seed)[0]
        for seed in ("1", "1", "2")
    ]
    first, again, other = (asked(out_of_domain) for out_of_domain in samples)
    assert first == again != other
    assert len(first) == len(samples[0].corpus) == 20
    assert first.items() <= {row["question"]: [row["context"]] for row in rows}.items()


@pytest.mark.parametrize(
    "shared",
    [
        {"question": "OWN{n}  asks{n} this{n}?", "context": "An answer of its own {n}."},
        {"question": "A question of its own {n}?", "context": "own{n} says{n} that{n}."},
        {"question": "own{n} says{n} that{n}.", "context": "An answer of its own {n}."},
    ],
    ids=["question", "context", "as the other"],
)
def test_rows_that_share_a_text_with_the_jobs_data_are_excluded(load, shared):
    """This holds for texts of all splits, in any spelling, as question or context."""
    others = rows_of(5, "other")
    known = [{key: text.format(n=n) for key, text in shared.items()} for n in range(60)]
    out_of_domain, _ = load([*known, *others])
    assert out_of_domain.left_out == 60
    assert asked(out_of_domain) == {row["question"]: [row["context"]] for row in others}


def test_the_jobs_data_is_refused_as_out_of_domain_data(load, tmp_path):
    """This holds for every spelling of its path; a copy of it has too few other rows."""
    for path in (tmp_path / "data.jsonl", f"{tmp_path}/x/../data.jsonl"):
        with pytest.raises(SpecError, match=f"`{path}`, which is also `data.source`"):
            load(path)
    copy = write_jsonl(tmp_path / "copy.jsonl", rows_of(62, "own"))
    message = rf"`{copy}` .* 2 usable queries in 62 rows \(60 .* at least 3\."
    with pytest.raises(DataError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("rows", "limit", "queries"),
    [
        ([{"question": "One?", "context": f"answer {n}"} for n in range(9)], "500", 1),
        (rows_of(9, "other"), "2", 2),
        ([{"question": "", "context": "nothing"}], "500", 0),
    ],
    ids=["one question", "limit", "nothing usable"],
)
def test_too_few_out_of_domain_queries_are_an_error(load, rows, limit, queries):
    """Queries count, not rows, and only those that are drawn."""
    with pytest.raises(DataError, match=f"has {queries} usable queries in {len(rows)} rows"):
        load(rows, evaluation__out_of_domain_limit=limit)


def test_a_channel_wins_over_the_spec(load, tmp_path):
    """The report names the field of the spec; a channel alone is enough."""
    rows = rows_of(4, "channel")
    write_jsonl(tmp_path / "channel" / "x.jsonl", rows)
    channels = {"out_of_domain": tmp_path / "channel"}
    assert load(None)[0] is None
    for named, source in (("s3://box/other", "s3://box/other"), (None, "channel out_of_domain")):
        out_of_domain, _ = load(named, channels)
        assert out_of_domain.source == source
        assert list(asked(out_of_domain)) == [row["question"] for row in rows]


def test_data_columns_do_not_apply_to_out_of_domain_data(load, tmp_path):
    """Columns are found by their usual names; hard negatives are not in the corpus."""
    own = [{"q": r["question"], "a": r["context"], "kind": "x"} for r in rows_of(60, "own")]
    write_jsonl(tmp_path / "other.jsonl", own)
    fields = {"source": str(tmp_path / "other.jsonl")}
    fields |= {"columns__anchor": "q", "columns__positive": "a", "columns__group": "kind"}
    rows = [row | {"q": "wrong", "negative": "wrong"} for row in rows_of(4, "other")]
    out_of_domain, _ = load(rows, **{f"data__{key}": value for key, value in fields.items()})
    assert asked(out_of_domain) == {row["question"]: [row["context"]] for row in rows}
    assert len(out_of_domain.corpus) == 4


def test_of_a_beir_folder_only_relevant_documents_are_in_the_corpus(load, tmp_path):
    """The qrels of all its splits are used; a pair in two splits counts once."""
    folder = tmp_path / "beir"
    numbers = range(9)
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": f"text {n}"} for n in numbers])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"ask {n}?"} for n in numbers])
    (folder / "qrels").mkdir()
    for split, cleaned in (("train", [0, 1]), ("test", [1, 2])):
        lines = "".join(f"q{n}\td{n}\t1\n" for n in cleaned)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    out_of_domain, _ = load(folder)
    assert asked(out_of_domain) == {f"ask {n}?": [f"text {n}"] for n in range(3)}
    assert len(out_of_domain.corpus) == 3
