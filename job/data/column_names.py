"""The names of columns that people use, and how they are listed in messages."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from job.data.tables import SURPLUS

# Of each tuple, the first with a column in the file decides.
ANCHOR_NAMES = (
    ("anchor", "query", "question", "queries", "questions", "user_input", "user_query"),
)
CONTEXT_NAMES = ("positive", "positives", "pos", "context", "contexts", "document", "documents",
                 "passage", "passages", "chunk", "chunks", "reference_contexts")  # fmt: skip
ANSWER_NAMES = ("answer", "answers")
POSITIVE_NAMES = (CONTEXT_NAMES, ("text", "texts"), ANSWER_NAMES)
# Two texts of one kind; read if the file has both and no other names.
TWINS = (("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"),
         ("premise", "hypothesis"))  # fmt: skip
# What a model said: shown when a context is chosen instead.
SAID_NAMES = (*ANSWER_NAMES, "response", "output", "completion", "ground_truth", "ground_truths",
              "reference")  # fmt: skip
NEGATIVE_NAME = re.compile(
    r"(hard[ _-]?)?neg(ative)?s?([ _-]?(passage|context|document|doc|text|ctx|chunk|sample)s?)?"
    r"([ _-]?\d+)?|rejected|"
    r"(incorrect|wrong|bad|false|irrelevant|unrelated|non[ _-]?relevant|distract(or|ing))[ _-]?"
    r"(passage|context|document|doc|text|ctx|chunk|sample)s?([ _-]?\d+)?"
)
# The likeliest names of labels; also names that end in one of these words: `esci_label`.
LABEL_NAMES = ("label", "labels", "gold_label", "relevance", "relevance_label", "is_relevant",
               "relevant", "relevance_score", "score", "scores", "similarity")  # fmt: skip
LABEL_NAME = re.compile(
    r"(.*[\s_-])?(label|rel|relevance|relevancy|relevant|relevanz|relevan(cia|te)|pertinen(t|ce)|"
    r"urteil|ähnlichkeit|関連度|正解|score|similarity|grade|rating|judge?ment)s?"
    r"|is_?(relevant|positive|match|duplicate|correct|answer|paraphrase)"
)
# Scores of a teacher model, one for each negative or positive.
TEACHER_NAME = re.compile(r"(pos|neg)\w*scores?")
# Spec value that means: no column at all.
NO_LABEL = "none"
MAX_LABEL_CHARACTERS = 40
# A column of an unknown name with so few values, one of them a "no", may be labels.
MAX_UNNAMED_LABELS = 4
# Columns that count or name parts of a text.
COUNTING = re.compile(
    r"(^|[\s_-])(index|idx|id|no|nr|num|number|part|page|position|offset|order|rank|line|turn|count)$",
    re.IGNORECASE,
)
# Columns listed in a message. In a file without a header, each name may be a whole text.
MAX_LISTED = 20
QUESTION_MARKS = ("?", "？", "؟", "՞", "፧")
# How the word for "question" begins in headings, and how those for texts that answer do.
ASKING = re.compile(
    r"quer|quest|frage|anfrage|preg|domand|pergunt|vraag|fråga|spørg|kysym|pytan|otáz|întreb|kérd|"
    r"soru|вопрос|запрос|ερώτ|سؤال|प्रश्न|คำถาม|prompt|input|premise|ask|问|問|質問|질문|search|anchor",
    re.IGNORECASE,
)
ANSWERING = re.compile(
    r"answ|antwort|resp|rispost|réponse|repons|antwoord|svar|vastau|odpow|odpov|răsp|válasz|cevap|"
    r"ответ|απάντ|جواب|उत्तर|คำตอบ|context|kontext|text|passag|dokum|docum|absatz|abschnitt|inhalt|"
    r"content|body|chunk|hypothesis|complet|output|答|回|文|답",
    re.IGNORECASE,
)


def plain_name(name: str) -> str:
    return name.lower().strip()


def column_names(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if isinstance(name, str) and name != SURPLUS]


def first_tier(names: list[str], tiers: Sequence[Collection[str]]) -> list[str]:
    found = ([name for name in names if plain_name(name) in tier] for tier in tiers)
    return next(filter(None, found), [])


def listed(names: Collection[str]) -> str:
    shown = [f"`{name}`" for name in names][:MAX_LISTED]
    more = [f"{len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return ", ".join(shown + more) or "(no columns)"
