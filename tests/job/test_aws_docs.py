"""The built-in data: real pairs out of botocore, the same ones every time."""

import itertools

import pytest

from job.aws_docs import mine_pairs, plain_text, split_documentation

REST = " ".join(f"word{n}" for n in range(20))


@pytest.fixture(scope="module")
def pairs():
    return list(mine_pairs())


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Creates a\n  <code>bucket</code>.</p>", "Creates a bucket."),
        ("<p>One.</p><p>Two.</p>", "One. Two."),
        ("<ul><li>one</li><li>two</li></ul>", "one two"),
        ("first<br/>second<br>third", "first second third"),
        ("a &lt;b&gt; &amp; c&#39;s", "a <b> & c's"),
        ("<note><p>Beware.</p></note><p>Text.</p>", "Text."),
        ("<p>A <important>b <note>c</note> d</important> e</p>", "A e"),
        ("<p>unclosed <b>tags", "unclosed tags"),
        ("", ""),
        ("plain", "plain"),
    ],
)
def test_documentation_becomes_plain_text(html, text):
    """Blocks are set apart, inline tags vanish, boxes go with all they hold."""
    assert plain_text(html) == text


def test_the_first_sentence_asks_and_the_rest_answers():
    """An operation's summary is the question, its explanation the context."""
    html = f"<p>Creates a bucket in a Region.</p> <p>The rest is <i>{REST}</i>.</p>"
    assert split_documentation(html) == ("Creates a bucket in a Region.", f"The rest is {REST}.")


@pytest.mark.parametrize(
    "question",
    [
        "Lists buckets, e.g. yours and mine, in order.",
        "Updates version 1.2 of a given rule.",
        "Describes what S3.Client does for you!",
        "Is this a sentence that can ask?",
    ],
)
def test_a_sentence_ends_where_a_new_one_can_begin(question):
    """Full stops within a sentence do not end it."""
    assert split_documentation(f"{question} (That is all.) {REST}") == (
        question,
        f"(That is all.) {REST}",
    )


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<p>Creates a bucket in a Region.</p>",
        f"<p>Creates a new bucket.</p><p>A{REST}</p>",
        f"<p>Creates a bucket in a Region.</p><p>{REST.removesuffix(' word19').title()}</p>",
        f"<note>Creates a bucket in a Region. {REST.title()}</note>",
    ],
    ids=["nothing", "one sentence", "short question", "short context", "box"],
)
def test_documentation_that_is_too_short_gives_no_pair(html):
    """Five words ask and twenty answer, at the least."""
    assert split_documentation(html) is None


def test_the_shortest_question_and_context_allowed_give_a_pair():
    """Just five words and just twenty are enough."""
    question, context = "Creates a bucket for you.", REST.title()
    assert split_documentation(f"{question} {context}") == (question, context)


def test_a_long_context_is_cut():
    """A context has at most 120 words; more would not fit a small model."""
    words = [f"Word{n}" for n in range(200)]
    question = "Creates a bucket for you."
    assert split_documentation(f"{question} {' '.join(words)}") == (
        question,
        " ".join(words[:120]),
    )


def test_thousands_of_pairs_are_mined(pairs):
    """The demo trains on real data of a useful size, each pair from its own operation."""
    assert len(pairs) > 5000
    assert len({pair["source"] for pair in pairs}) == len(pairs)
    assert {tuple(pair) for pair in pairs} == {("question", "context", "source")}


def test_every_mined_pair_keeps_to_the_limits(pairs):
    """Questions are one sentence of some length, contexts 20 to 120 words, both in one line."""
    for pair in pairs:
        question, context = pair["question"].split(), pair["context"].split()
        assert len(question) >= 5, pair
        assert 20 <= len(context) <= 120, pair
        assert " ".join(question) == pair["question"], pair
        assert " ".join(context) == pair["context"], pair


def test_mined_texts_hold_no_markup(pairs):
    """What a reader would see as a tag is not in the data, but for what AWS escaped twice."""
    tags = ("<p>", "</p>", "<code>", "</code>", "<a href", "<li>", "<ul>", "&nbsp;", "&quot;")
    texts = [pair["question"] + pair["context"] for pair in pairs]
    assert sum(any(tag in text for tag in tags) for text in texts) < len(pairs) / 1000


def test_pairs_come_in_the_order_of_services_and_operations(pairs):
    """The order is that of names, so that a row number means the same on every machine."""
    sources = [tuple(pair["source"].split(".")) for pair in pairs]
    assert sources == sorted(sources)


def test_mining_again_gives_the_same_pairs(pairs):
    """The same botocore gives the same pairs (the first fifty stand for all)."""
    assert list(itertools.islice(mine_pairs(), 50)) == pairs[:50]


def test_a_well_known_operation_is_among_the_pairs(pairs):
    """The texts are those of the AWS documentation."""
    (pair,) = [pair for pair in pairs if pair["source"] == "sqs.PurgeQueue"]
    assert pair["question"].startswith("Deletes ")
    assert "queue" in pair["question"] + pair["context"]
