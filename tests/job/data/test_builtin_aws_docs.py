"""The built-in data: real pairs from botocore, the same ones every time."""

import itertools

import pytest

from job.data.builtin_aws_docs import mine_pairs, plain_text, split_documentation

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
    """Blocks are separated, inline tags are removed, boxes are removed with their content."""
    assert plain_text(html) == text


@pytest.mark.parametrize(
    "question",
    [
        "Lists buckets, e.g. yours and mine, in order.",
        "Updates version 1.2 of a given rule.",
        "Describes what S3.Client does for you!",
        "Is this a sentence that can ask?",
    ],
)
def test_a_full_stop_inside_a_sentence_does_not_end_it(question):
    """A sentence ends where a new one can begin."""
    assert split_documentation(f"{question} (That is all.) {REST}") == (
        question,
        f"(That is all.) {REST}",
    )


QUESTION = "Creates a bucket for you."
LONG = [f"Word{n}" for n in range(200)]


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("", None),
        (f"<p>{QUESTION}</p>", None),
        (f"<p>Creates a new bucket.</p><p>A{REST}</p>", None),
        (f"<p>{QUESTION}</p><p>{' '.join(LONG[:19])}</p>", None),
        (f"<note>{QUESTION} {' '.join(LONG)}</note>", None),
        (f"{QUESTION} {' '.join(LONG[:20])}", 20),
        (f"{QUESTION} {' '.join(LONG)}", 120),
    ],
    ids=["nothing", "one sentence", "short question", "short context", "box", "just", "cut"],
)
def test_a_question_has_at_least_5_words_and_a_context_20_to_120(html, words):
    """Shorter texts give no pair; longer contexts are cut, as they would not fit a small model."""
    expected = (QUESTION, " ".join(LONG[:words])) if words else None
    assert split_documentation(html) == expected


def test_thousands_of_pairs_are_mined(pairs):
    """They are sorted by service and operation, so that row numbers are the same everywhere."""
    assert len(pairs) > 5000
    assert {tuple(pair) for pair in pairs} == {("question", "context", "source")}
    sources = [tuple(pair["source"].split(".")) for pair in pairs]
    assert sources == sorted(set(sources))
    assert list(itertools.islice(mine_pairs(), 50)) == pairs[:50]


def test_every_mined_pair_is_within_the_limits(pairs):
    """Both texts are one line of plain words; a few have tags that AWS escaped twice."""
    tags, marked = ("<p>", "</p>", "<code>", "<a href", "<li>", "<ul>", "&nbsp;", "&quot;"), 0
    for pair in pairs:
        question, context = pair["question"].split(), pair["context"].split()
        assert len(question) >= 5, pair
        assert 20 <= len(context) <= 120, pair
        assert [" ".join(question), " ".join(context)] == [pair["question"], pair["context"]]
        marked += any(tag in pair["question"] + pair["context"] for tag in tags)
    assert marked < len(pairs) / 1000
    (known,) = [pair for pair in pairs if pair["source"] == "sqs.PurgeQueue"]
    assert known["question"].startswith("Deletes ")
