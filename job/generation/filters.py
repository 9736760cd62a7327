"""Rules that reject a question; each is a function of the question and its chunk.

They use neither BM25 nor a model of embeddings, so they may judge test questions too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from job.data.near_duplicates import near_duplicates
from job.data.text_keys import normalize, text_key
from job.data.words import count_words, words_of
from job.generation.chunks import Chunk
from job.generation.prompting import prompt_sentences
from job.spec.schema import GenerationSpec

# What questions call the chunk, which the reader of a search result has not seen. Behind a cue it
# is the chunk; otherwise the chunk may be about passages or documents itself.
NOUNS = (
    r"passage|excerpt|text|document|article|context(?!\s+of\b)|chunk|paragraph|section|snippet|"
    r"author|sentence|"
    r"abschnitt|textes?|dokuments?|artikels?|auszugs?|textauszug|extrait|documento?|texto|testo"
)
CUES = (
    r"according to|based on|(?:mentioned|described|discussed|stated|given|provided|listed|shown|"
    r"explained|defined) (?:in|by)|laut|gemäß|selon|d'après|según|secondo"
)
ARTICLES = r"the|this|that|these|said|dem|der|den|diesem|dieser|le|la|l'|ce|cet|este|el|il|questo"
QUALIFIED = r"(?:above|below|given|provided|following|preceding|present|oben genannten)"
CUED = re.compile(rf"\b(?:{CUES})\s+(?:{ARTICLES})\s*(?:{QUALIFIED}\s+)?(?:{NOUNS})\b", re.I)
THIS = r"this|diese[mnrs]?|ces?|cet|este|questo"
POINTING = re.compile(
    rf"\b(?:{THIS}|{QUALIFIED}|the\s+{QUALIFIED})\s+(?:{NOUNS})\b|\b(?:{NOUNS})\s+above\b", re.I
)
NAMED = re.compile(
    r"\b(?:the\s+(passage|excerpt|text|document|article|context(?!\s+of\b)|chunk|snippet|sentence)|"
    r"(?:das|dem|im|der|den)\s+(text|dokument|artikel|abschnitt|auszug)|"
    r"(?:le|el|il)\s+(texte|texto|testo|document|documento))\b",
    re.I,
)
# Languages without spaces between words.
POINTING_CJK = re.compile(
    r"この(?:文章|文書|文|テキスト|記事|資料|段落)|本文(?:中|によ|で|に)|(?:上記|上)の(?:文章|テキスト)|"
    r"(?:根据|依据|在)(?:本文|文本|文章|上文|文中)|(?:该|这篇|这段)(?:文章|文本|文字|段落|文档)"
)
# Fewer words are no copy: `What is Amazon S3?` has the name that everybody uses.
COPY_WORDS = 6
LONGEST_WORDS = 80
# A question's language is certain from so many words, and such a margin of log likelihoods.
LANGUAGE_WORDS, LANGUAGE_MARGIN = 3, 10.0
# A chunk's margin a character: sentences have 1.8 or more, lists of names 0.8, code 0.5 or less.
CHUNK_MARGIN = 1.0


@dataclass(frozen=True)
class Question:
    """A question about the chunk at this position, for this split."""

    text: str
    kind: str
    chunk: int
    split: str
    # The position of another chunk that answers it, too.
    second: int | None = None


@dataclass(frozen=True)
class Rejected:
    question: Question
    reason: str


Rule = Callable[[str, Chunk, GenerationSpec], bool]


def is_no_query(question: str, _: Chunk, __: GenerationSpec) -> bool:
    """Tell whether a question has no words, or too many to be one."""
    return not 1 <= count_words(question) <= LONGEST_WORDS or not words_of(question)


def is_from_the_prompt(question: str, spec: GenerationSpec) -> bool:
    """Tell whether a question is a sentence of the prompt, which small models write again."""
    return tuple(_words(question)) in _words_of_prompt(spec)


def names_the_text(question: str, chunk: Chunk, _: GenerationSpec) -> bool:
    """Tell whether a question speaks of "the passage", unless the chunk is about passages."""
    if any(form.search(question) for form in (CUED, POINTING, POINTING_CJK)):
        return True
    found = NAMED.search(question)
    return found is not None and str(found[found.lastindex or 0]).lower() not in chunk.text.lower()


def is_copied(question: str, chunk: Chunk, spec: GenerationSpec) -> bool:
    """Tell whether a share of the question's words stands in the chunk, in one run."""
    asked, known = _words(question), _words_of_chunk(chunk.text)
    if len(asked) < COPY_WORDS:
        return False
    # The shortest run that is too long; a longer one contains it.
    size = int(spec.max_copied * len(asked)) + 1
    runs = (f" {' '.join(asked[at : at + size])} " for at in range(len(asked) - size + 1))
    return any(run in known for run in runs)


def is_in_another_language(question: str, chunk: Chunk, _: GenerationSpec) -> bool:
    """Tell whether the languages of question and chunk are both certain, and differ."""
    if count_words(question) < LANGUAGE_WORDS:
        return False
    asked, known = _languages(question), _languages(chunk.body)
    own, other = (max(scores, key=lambda name: scores[name]) for scores in (asked, known))
    margins = asked[own] - asked[other], known[other] - known[own]
    return margins[0] > LANGUAGE_MARGIN and margins[1] > CHUNK_MARGIN * len(chunk.body)


RULES: dict[str, Rule] = {
    "no query": is_no_query,
    "repeats the prompt": lambda question, _, spec: is_from_the_prompt(question, spec),
    "names the text": names_the_text,
    "copied from the chunk": is_copied,
    "in another language": is_in_another_language,
}
DUPLICATE = "like another question"


def first_reason(question: str, chunk: Chunk, spec: GenerationSpec) -> str | None:
    """Return the reason why a rule rejects a question; None if none does."""
    return next((why for why, rejects in RULES.items() if rejects(question, chunk, spec)), None)


def apply_rules(
    questions: Iterable[Question], chunks: Sequence[Chunk], spec: GenerationSpec
) -> tuple[list[Question], list[Rejected]]:
    accepted, rejected = [], []
    for question in questions:
        if why := first_reason(question.text, chunks[question.chunk], spec):
            rejected.append(Rejected(question, why))
        else:
            accepted.append(question)
    return accepted, rejected


def reject_duplicates(
    questions: Sequence[Question], threshold: float | None
) -> tuple[list[Question], list[Rejected]]:
    """Reject each question that is, or is nearly, one of an earlier question.

    Test questions come first, so that a training question makes way for them.
    """
    turns = ("test", "validation", "train")
    ordered = sorted(questions, key=lambda question: turns.index(question.split))
    texts: dict[int, str] = {}
    rejected_keys: set[int] = set()
    for question in ordered:
        texts.setdefault(text_key(question.text), question.text)
    if threshold is not None:
        # Each pair is a later text and an earlier one; one that is itself rejected rejects none.
        for later, earlier in near_duplicates(texts, threshold):
            if earlier not in rejected_keys:
                rejected_keys.add(later)
    seen: set[int] = set()
    accepted, rejected = [], []
    for question in ordered:
        key = text_key(question.text)
        if key in seen or key in rejected_keys:
            rejected.append(Rejected(question, DUPLICATE))
        else:
            accepted.append(question)
        seen.add(key)
    return accepted, rejected


def with_second(question: Question, chunk: int) -> Question:
    return replace(question, second=chunk)


def _words(text: str) -> list[str]:
    return words_of(normalize(text))


@lru_cache
def _words_of_prompt(spec: GenerationSpec) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(_words(sentence)) for sentence in prompt_sentences(spec))


@lru_cache(maxsize=1024)
def _words_of_chunk(text: str) -> str:
    return f" {' '.join(_words(text))} "


@cache
def _identifier() -> Callable[[str], list[tuple[str, float]]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # Takes a second to load.
    rank: Callable[[str], list[tuple[str, float]]]
    rank = LanguageIdentifier.from_model_file(MODEL_FILE).rank
    return rank


@lru_cache(maxsize=1024)
def _languages(text: str) -> dict[str, float]:
    """Return the likelihood of each language, as a logarithm."""
    return dict(_identifier()(text))
