"""What looks wrong with data that can be read: sentences for `check`, the log and the report."""

import re
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc

from job.data.rows import Rows
from job.data.words import count_words
from job.spec.commands import check_command
from job.spec.schema import DataSpec
from job.storage.arrow_tables import JoinedColumn

# So many contexts are looked at, evenly spread.
SAMPLE = 10_000
MIN_CONTEXT_WORDS = 4
# One word that is a path, a URL, a file name, a number, or an id such as `DOC-17` and `a3f0…`.
REFERENCE = re.compile(
    r"\w+://\S+|www\.\S+|\S*[/\\]\S+|\S+\.[A-Za-z]{2,5}\d?|\S*[\d_]\S*|[0-9a-fA-F-]{16,}"
)
FILE_NAME = re.compile(r"[^.]{1,80}\.(pdf|docx?|html?|md|txt|xlsx?|pptx?|csv|json)", re.IGNORECASE)
LIST_AS_TEXT = re.compile(r"""\s*\[\s*(['"{]).*\]\s*""", re.DOTALL)
# A row with so many times the median's negatives makes batches large for all rows.
MANY_NEGATIVES = 16
# A group of more rows than this share leaves too few for the splits; of fewer than these, none.
CHAINED_SHARE, CHAINED_ROWS = 0.3, 5


def warnings_about(rows: Rows) -> list[str]:
    """Return what looks like data that was read wrongly, or will not teach anything."""
    pairs = rows.cleaned.kept
    positions = np.unique(np.linspace(0, len(pairs) - 1, min(SAMPLE, len(pairs))).astype(np.int64))
    batches = JoinedColumn([pairs["positive"]]).batches(positions)
    contexts = [text for batch in batches for text in batch.to_pylist()]
    found = (_references(contexts), _lists(contexts), _many_negatives(rows))
    return [warning for warning in found if warning]


def _references(contexts: Sequence[str]) -> str | None:
    share = sum(map(_is_reference, contexts)) / len(contexts)
    words = median(map(count_words, contexts))
    example = min(contexts, key=len)[:60]
    advice = "put the text that answers into the rows, or bring it as `data.corpus`"
    if share > 0.5:
        return (
            f"{share:.0%} of the contexts look like file names, ids or URLs, not like texts "
            f"(`{example}`): a model would learn names by heart; {advice}"
        )
    if words < MIN_CONTEXT_WORDS:
        return (
            f"half of the contexts have {words:g} words or fewer (`{example}`): too short to "
            f"answer a question; {advice}"
        )
    return None


def _is_reference(text: str) -> bool:
    is_word = count_words(text) == 1 and REFERENCE.fullmatch(text.strip())
    return bool(is_word or FILE_NAME.fullmatch(text.strip()))


def _lists(contexts: Sequence[str]) -> str | None:
    found = [text for text in contexts if LIST_AS_TEXT.fullmatch(text)]
    if len(found) <= len(contexts) / 2:
        return None
    return (
        f"{len(found)} of {len(contexts)} contexts are lists written as texts "
        f"(`{found[0][:60]}`): write a JSON list, or a row for each context"
    )


def _many_negatives(rows: Rows) -> str | None:
    counts = pc.list_value_length(rows.cleaned.kept["negatives"]).to_numpy()
    most, usual = int(counts.max(initial=0)), int(np.median(counts))
    if most < MANY_NEGATIVES * max(1, usual):
        return None
    return (
        f"one pair has {most} negatives, the median pair {usual}: batches give all pairs as many, "
        "which takes time and memory; leave the pair fewer"
    )


def left_out(count: int, spec: DataSpec) -> str:
    """Say in words how many rows were removed from training, and why."""
    given = [name for name in ("test", "validation") if getattr(spec, name)] or ["test"]
    rows, their = ("row is", "its") if count == 1 else ("rows are", "their")
    what = "question is" if spec.overlap == "count" else "texts or documents are also"
    return f"{count} {rows} left out: {their} {what} in the {' or '.join(given)} set"


def chained_rows(facts: dict[str, Any]) -> str | None:
    """Say that shared texts chain most rows together, if they do."""
    groups, largest = (facts["duplicates"][name] for name in ("groups", "largest_group"))
    if largest < max(CHAINED_ROWS, CHAINED_SHARE * facts["used"]):
        return None
    known = f"{groups} group{'' if groups == 1 else 's'}"
    parts = f"{known} of {largest} rows" if groups == 1 else f"{known}, one of {largest} rows"
    return f"The rows form {parts}: shared texts chain them together, and no group is divided"


def advice_on_groups(facts: dict[str, Any], spec: DataSpec) -> str:
    """Say what helps when one group holds most rows; a command only if it gives enough."""
    own = "Provide a separate test set (`data.test`)"
    if facts["folds"]:
        own += ", without `evaluation.folds`"
    if spec.large_groups != "keep" or not can_be_split(facts["used"], facts["questions"], spec):
        return f"{own}, or more rows with other contexts."
    command = check_command(facts["source"], spec, large_groups="by_question")
    return (
        f"{own}, or divide large groups by question (contexts that training and test then share "
        f"are counted): `{command}`."
    )


def can_be_split(rows: int, questions: int, spec: DataSpec) -> bool:
    """Tell whether the fractions of so many rows hold enough questions to validate and to test."""
    needed = (
        (spec.test_fraction, 0 if spec.test else spec.min_test_queries),
        (spec.validation_fraction, 0 if spec.validation else 1),
    )
    return all(round(share * rows) * questions / rows >= least for share, least in needed)


def advice_to_test(facts: dict[str, Any], spec: DataSpec) -> str:
    """Say what gives more test queries."""
    if (advice := _advice_on_left_out(facts, spec)) or (advice := _advice_on_chains(facts, spec)):
        return advice
    if facts["folds"]:
        return "Add rows, or change `data.min_test_queries`."
    return "Add rows, or change `data.test_fraction` or `data.min_test_queries`."


def advice_to_train(facts: dict[str, Any], spec: DataSpec, split: str) -> str:
    """Say what gives more rows to the split `train` or `validation`."""
    if (advice := _advice_on_left_out(facts, spec)) or (advice := _advice_on_chains(facts, spec)):
        return advice
    return f"Add rows{', or change `data.validation_fraction`' if split == 'validation' else ''}."


def _advice_on_chains(facts: dict[str, Any], spec: DataSpec) -> str | None:
    chained = chained_rows(facts)
    return f"{chained}. {advice_on_groups(facts, spec)}" if chained else None


def _advice_on_left_out(facts: dict[str, Any], spec: DataSpec) -> str | None:
    if not (removed := facts["leakage"]["removed_rows"]):
        return None
    given = [name for name in ("test", "validation") if getattr(spec, name)]
    place = f"`data.{given[0]}`" if given else "the test set"
    msg = f"{left_out(removed, spec)}. Add other rows to train on, or remove the rows to train on "
    msg += f"from {place}"
    if command := _command_to_split_all(facts, spec, removed, given):
        return f"{msg}, or have all rows split: `{command}`."
    return msg + "."


def _command_to_split_all(
    facts: dict[str, Any], spec: DataSpec, removed: int, given: list[str]
) -> str | None:
    """Return the command that ignores a given test set, if it then has rows enough."""
    if given:
        changes: dict[str, Any] = {given[0]: None}
    elif "+" not in spec.split:
        changes = {
            "split": "train+validation+test" if facts["splits"]["validation"] else "train+test"
        }
    else:
        return None
    changed = spec.model_copy(update=changes)
    rows = removed + facts["splits"]["train"] + facts["splits"]["validation"]
    return check_command(facts["source"], changed) if can_be_split(rows, rows, changed) else None
