"""Filters: each acts where it must, and only there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.generation import filters
from job.generation.chunks import Chunk
from job.generation.filters import Question, apply_rules, first_reason, reject_duplicates
from job.generation.round_trip import ELSEWHERE, NOT_FOUND, better_elsewhere, is_found, round_trip
from job.spec.schema import GenerationSpec

SPEC = GenerationSpec()
REFUND = "A refund is paid within 30 days of the return, to the card that was used, without a fee."
REFUNDS = Chunk("c", "d", "Refunds", REFUND)
GERMAN_EDITOR = Chunk(
    "w", "d", "", "Um einen Text zu speichern, drücken Sie auf den Knopf mit der Diskette."
)
EDITOR = Chunk(
    "e", "d", "", "Open the document in the editor, then press Save to keep this section."
)
GERMAN = Chunk("g", "d", "", "Eine Rückzahlung wird innerhalb von 30 Tagen auf die Karte gebucht.")
JAPANESE = Chunk("j", "d", "", "返品後三十日以内に、ご利用のカードへ手数料なしで返金されます。")
CODE = Chunk("k", "d", "", "kubectl get pods -n kube-system -o json | jq .items[].metadata.name")


@pytest.mark.parametrize(
    ("question", "chunk", "reason"),
    [
        # Names the text.
        ("What does the passage say about refunds?", REFUNDS, "names the text"),
        ("According to the text, when is money paid back?", REFUNDS, "names the text"),
        ("What fee is mentioned in this document?", REFUNDS, "names the text"),
        ("Which card is used in the text above?", REFUNDS, "names the text"),
        ("What does the sentence mean?", REFUNDS, "names the text"),
        ("What is a fee in the context of refunds?", REFUNDS, None),
        ("What is a fee in this context?", REFUNDS, "names the text"),
        ("Wann wird laut dem Text gezahlt?", GERMAN, "names the text"),
        ("Was steht im Text über die Karte?", GERMAN, "names the text"),
        ("Welche Frist nennt dieser Abschnitt?", GERMAN, "names the text"),
        ("Que dit le texte sur la carte ?", REFUNDS, "names the text"),
        ("この文章によると返金はいつですか", JAPANESE, "names the text"),
        ("根据本文，退款需要多久？", REFUNDS, "names the text"),
        ("Wie speichere ich den Text?", GERMAN_EDITOR, None),
        ("How do I save the document?", EDITOR, None),
        ("According to the document, how do I save?", EDITOR, "names the text"),
        ("How long does a refund take?", REFUNDS, None),
        ("How do I write a context manager?", REFUNDS, None),
        # Copied.
        ("A refund is paid within 30 days of the return", REFUNDS, "copied from the chunk"),
        (f"{REFUND}?", REFUNDS, "copied from the chunk"),
        ("Is a refund paid within 30 days of my return?", REFUNDS, None),
        ("refund card fee", REFUNDS, None),
        ("within 30 days", REFUNDS, None),
        # In another language.
        ("Wie lange dauert eine Rückzahlung auf die Karte?", REFUNDS, "in another language"),
        ("How long does a refund take?", GERMAN, "in another language"),
        ("How long does a refund take?", JAPANESE, "in another language"),
        ("Wie lange dauert eine Rückzahlung?", GERMAN, None),
        ("返金にはどのくらいかかりますか", JAPANESE, None),
        ("refund iPhone", GERMAN, None),
        ("How do I list pods?", CODE, None),
        # Repeats the prompt.
        ("A complete question", REFUNDS, "repeats the prompt"),
        ("Two to six search terms, without a verb.", REFUNDS, "repeats the prompt"),
        ("A complete question about refunds", REFUNDS, None),
        # No query.
        ("???", REFUNDS, "no query"),
        ("how " * 81, REFUNDS, "no query"),
        ("refunds", REFUNDS, None),
    ],
)
def test_a_rule_acts_where_it_must_and_only_there(question, chunk, reason):
    assert first_reason(question, chunk, SPEC) == reason


def test_an_example_or_a_sentence_of_your_own_prompt_is_no_question():
    prompt = "Ask once. Which question?\nTerms: pump\n{text}"
    spec = GenerationSpec(prompt=prompt, examples=("frost",))
    for repeated in ("ask once", "Which question?", "pump"):
        assert first_reason(repeated, REFUNDS, spec) == "repeats the prompt"
    # This prompt has no place for examples.
    assert first_reason("frost", REFUNDS, spec) is None
    with_examples = GenerationSpec(examples=("vpn slow?", "frost"))
    assert first_reason("VPN slow", REFUNDS, with_examples) == "repeats the prompt"


def test_the_share_of_copied_words_is_a_setting():
    question = "Say: A refund is paid within 30 days"
    assert first_reason(question, REFUNDS, GenerationSpec(max_copied=0.8)) is not None
    assert first_reason(question, REFUNDS, GenerationSpec(max_copied=0.9)) is None
    assert first_reason(REFUND, REFUNDS, GenerationSpec(max_copied=1.0)) is None


def question(text, split="train", chunk=0):
    return Question(text, "natural", chunk, split)


def test_a_question_like_another_is_rejected_once_and_training_makes_way():
    questions = [
        question("How long does it take until a refund is on my card?"),
        question("how long does it take until  a refund is on my CARD?", "test", 1),
        question("How long does it take until a refund is on my own card?", "train", 2),
        question("What does an exchange cost?", "validation", 3),
        question("What does an exchange cost?", "validation", 3),
    ]
    accepted, rejected = reject_duplicates(questions, 0.6)
    assert accepted == [questions[1], questions[3]]
    assert {each.reason for each in rejected} == {filters.DUPLICATE}
    accepted, _ = reject_duplicates(questions, None)
    assert accepted == [questions[1], questions[3], questions[2]]


WORDS = st.sampled_from(
    [
        *("a refund", "is paid", "within 30 days", "of the return", "passage", "text", "the"),
        *("above", "document", "what", "how", "card", "according to", "mentioned in", "this"),
        *("Rückzahlung", "Karte", "dauert", "wie lange", "返金", "?"),
    ]
)
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(TEXTS, st.integers(0, 4), st.sampled_from(["train", "validation", "test"])))
)
def test_no_accepted_question_has_a_reason_to_be_rejected(drawn):
    """Of all that is written, each question is accepted or rejected, once."""
    chunks = [REFUNDS, EDITOR, GERMAN, JAPANESE, CODE]
    written = [question(text, split, chunk) for text, chunk, split in drawn]
    accepted, rejected = apply_rules(written, chunks, SPEC)
    distinct, duplicates = reject_duplicates(accepted, 0.8)
    assert len(distinct) + len(rejected) + len(duplicates) == len(written)
    for each in distinct:
        assert first_reason(each.text, chunks[each.chunk], SPEC) is None
        others = [other for other in distinct if other is not each]
        assert reject_duplicates([each, *others], None)[1] == []
    for each in rejected:
        assert first_reason(each.question.text, chunks[each.question.chunk], SPEC) == each.reason
    ranked = [[(number + 1) % 5 for number in range(4)] for _ in distinct]
    tested = round_trip(distinct, chunks, [lambda *_: as_rows(distinct, ranked)] * 2, 4)
    for each in tested.accepted:
        results = ranked[distinct.index(each)]
        assert each.split != "train" or (
            is_found(each.chunk, [results]) and results[0] == each.chunk
        )


def as_rows(questions, ranked):
    import numpy as np

    kept = [row for each, row in zip(questions, ranked, strict=True) if each.split == "train"]
    return np.array(kept, np.int64)


@pytest.mark.parametrize(
    ("ranked", "found", "other"),
    [
        ([[0, 1], [0, 1]], True, None),
        ([[1, 0], [1, 0]], True, 1),
        ([[1, 0], [2, 0]], True, None),
        ([[1, 2], [0, 2]], True, None),
        ([[1, 2], [1, 2]], False, 1),
        ([[-1, -1], [3, 0]], True, None),
    ],
)
def test_a_chunk_is_found_by_any_search_and_better_elsewhere_by_all(ranked, found, other):
    assert is_found(0, ranked) is found
    assert better_elsewhere(0, ranked) == other


def test_only_training_questions_make_the_round_trip():
    """A test question that no search finds stays: the test must not favor a search."""
    import numpy as np

    asked = []

    def search(questions, corpus, depth):
        asked.append((list(questions), len(corpus), depth))
        return np.array([[0, 1], [1, 2], [1, 0]])[: len(questions)]

    questions = [question(f"q{n}", split) for n, split in enumerate(["train"] * 3 + ["test"])]
    tested = round_trip(questions, [REFUNDS, EDITOR, GERMAN], [search, search], 2)
    assert asked == [(["q0", "q1", "q2"], 3, 2)] * 2
    assert [each.text for each in tested.accepted] == ["q3", "q0"]
    assert [(each.question.text, each.reason) for each in tested.rejected] == [("q1", NOT_FOUND)]
    assert tested.elsewhere == [(questions[2], 1)]
    assert ELSEWHERE != NOT_FOUND


def test_bm25_finds_no_chunk_that_shares_no_word():
    from job.generation.round_trip import search_bm25

    found = search_bm25(["refund card", "xyz"], [EDITOR.text, REFUNDS.text, CODE.text], 2)
    assert found.tolist() == [[1, -1], [-1, -1]]


def test_the_base_model_finds_the_chunk_with_the_same_words(tiny_encoder):
    from job.generation.round_trip import search_with
    from job.model.device import choose_machine
    from job.model.encoder import load_model
    from job.spec.schema import ModelSpec

    machine = choose_machine("cpu", "float32")
    search = search_with(load_model(ModelSpec(base=str(tiny_encoder)), machine), 8)
    corpus = ["tell1 tell2 tell3", "tell4 tell5 tell6", "tell7 tell8 tell9"]
    assert search([corpus[2], corpus[0]], corpus, 2)[:, 0].tolist() == [2, 0]


def test_the_round_trip_goes_on_in_smaller_passes_when_memory_runs_out(tiny_encoder, monkeypatch):
    from job.evaluation import evaluate
    from job.generation.round_trip import search_with
    from job.model.device import choose_machine
    from job.model.encoder import load_model
    from job.model.passes import PassCost
    from job.spec.schema import ModelSpec

    limits = []
    embed = evaluate.embed_texts

    def fails_once(model, texts, role, rows, cost):
        limits.append((rows, cost.max_tokens))
        if len(limits) == 1:
            raise MemoryError
        return embed(model, texts, role, rows, cost)

    monkeypatch.setattr(evaluate, "embed_texts", fails_once)
    monkeypatch.setattr(evaluate, "encoding_cost", lambda *_: PassCost(100, 8, 64))
    machine = choose_machine("cpu", "float32")
    search = search_with(load_model(ModelSpec(base=str(tiny_encoder)), machine), 8)
    assert search(["tell1 tell2"], ["tell3", "tell1 tell2"], 1).tolist() == [[1]]
    assert limits[:2] == [(8, 64), (4, 32)]
