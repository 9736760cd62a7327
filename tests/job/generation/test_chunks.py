"""Chunks: documents are cut at headings, rows never; a document's chunks stay in one split."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.words import count_words
from job.generation.chunks import (
    MIN_WORDS,
    Chunk,
    Splitter,
    asking_order,
    assign_splits,
    fingerprints,
    make_chunks,
    token_splitter,
)
from job.generation.documents import Document
from job.spec.schema import DataSpec, GenerationSpec

TEXT = "One two three four five six seven eight nine ten."


def chunks_of(sizes):
    """Return chunks of documents with so many chunks each, all with their own words."""
    return [
        Chunk(f"{d}-{n}", f"doc{d}", "", " ".join(f"w{d}x{n}x{i}" for i in range(MIN_WORDS)))
        for d, size in enumerate(sizes)
        for n in range(size)
    ]


def refuse():
    pytest.fail("rows must not be cut")


def by_words(text, size):
    words = text.split()
    return [" ".join(words[at : at + size]) for at in range(0, len(words), size)]


def test_rows_are_never_cut_unless_asked():
    rows = [Document("r1", "T", TEXT * 50, is_row=True, parent="p", fields={"lang": "en"})]
    (chunk,) = make_chunks(rows, GenerationSpec(chunk_tokens=32), refuse)
    assert (chunk.id, chunk.document, chunk.body) == ("r1", "p", TEXT * 50)
    assert chunk.text == f"T {TEXT * 50}"
    splitter = Splitter(by_words, count_words)
    spec = GenerationSpec(chunk_tokens=32, cut_rows=True)
    cut = make_chunks(rows, spec, lambda: splitter)
    assert len(cut) > 10
    assert {part.document for part in cut} == {"p"}


def test_a_documents_chunks_fit_with_the_title_in_front():
    document = Document("a.md", "Very long title of four", f"# Very long title of four\n{TEXT * 9}")
    spec = GenerationSpec(chunk_tokens=32)
    found = make_chunks([document], spec, lambda: Splitter(by_words, count_words))
    assert [chunk.id for chunk in found][:2] == ["a.md#1", "a.md#2"]
    assert max(count_words(chunk.text) for chunk in found) <= 32
    assert all(chunk.text.startswith("Very long title of four ") for chunk in found)
    assert not any("# Very" in chunk.text for chunk in found)


def test_equal_chunks_are_one():
    twins = [Document(f"r{n}", "", f"{TEXT}{' ' * n}", is_row=True) for n in range(2)]
    assert [chunk.id for chunk in make_chunks(twins, GenerationSpec(), refuse)] == ["r0"]


def test_ids_are_distinct():
    rows = [Document("same", "", f"text {n}", is_row=True) for n in range(3)]
    found = make_chunks(rows, GenerationSpec(), refuse)
    assert len({chunk.id for chunk in found}) == 3


def test_the_models_tokenizer_cuts_at_headings(tiny_encoder):
    splitter = token_splitter(tiny_encoder)
    part = "tell1 the tell2 of " * 4
    pieces = splitter.cut(f"# A\n\n{part}\n\n# B\n\n{part}", 24)
    assert len(pieces) == 2
    assert pieces[1].startswith("# B")
    assert all(splitter.count(piece) <= 24 for piece in pieces)


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 9))
def test_wherever_asking_stops_the_chunks_are_an_even_sample(sizes, seed):
    chunks = chunks_of(sizes)
    order = asking_order(chunks, GenerationSpec(seed=seed))
    assert sorted(order) == list(range(len(chunks)))
    for stop in range(1, len(order)):
        counts = Counter(chunks[place].document for place in order[:stop])
        for document, size in enumerate(sizes):
            asked = counts[f"doc{document}"]
            assert asked >= min(size, max(counts.values()) - 1)


def test_a_limit_and_short_chunks():
    chunks = [*chunks_of([3, 3]), Chunk("short", "doc9", "Title of many words, as it is", "Few.")]
    assert len(asking_order(chunks, GenerationSpec(limit=4))) == 4
    assert 6 not in asking_order(chunks, GenerationSpec())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=24, max_size=40), st.integers(0, 99))
def test_chunks_of_one_document_are_in_one_split(sizes, seed):
    chunks = chunks_of(sizes)
    splits = assign_splits(chunks, DataSpec(seed=seed, near_duplicate_threshold=None))
    by_document = defaultdict(set)
    for chunk, split in zip(chunks, splits, strict=True):
        by_document[chunk.document].add(split)
    assert all(len(found) == 1 for found in by_document.values())
    assert {*splits} == {"train", "validation", "test"}


def test_near_duplicates_of_two_documents_are_in_one_split():
    chunks = chunks_of([1] * 40)
    twins = [Chunk(f"t{n}", f"twin{n}", "", f"{TEXT * 3} {n}") for n in range(2)]
    splits = assign_splits([*chunks, *twins], DataSpec())
    assert splits[-1] == splits[-2]


def test_a_given_validation_set_takes_the_place_of_the_split():
    splits = assign_splits(chunks_of([1] * 40), DataSpec(validation="mine.jsonl"))
    assert Counter(splits) == {"train": 36, "test": 4}


def test_a_fingerprint_changes_with_the_text():
    one, other = (Document("a", "T", text) for text in ("x", "y"))
    assert fingerprints([one]) == fingerprints([one]) != fingerprints([other])
    assert fingerprints([one, one]) != fingerprints([one])
