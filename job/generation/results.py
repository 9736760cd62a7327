"""The results of the stage: pairs, what was rejected and why, and facts for the report."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.formats.values import encodable
from job.data.splits import SPLIT_NAMES
from job.generation.budget import Budget
from job.generation.facts import Generation
from job.generation.filters import Question, Rejected
from job.generation.journal import Journal
from job.generation.plan import Plan
from job.spec.schema import Columns, JobSpec
from job.storage.workspace import write_atomically

UNPARSABLE = "no question in the answer"
# The column that names the document of a chunk.
DOCUMENT = "source"
# Characters of an unusable answer to keep.
ANSWER_CHARACTERS = 500
PAIRS, SYNTHETIC_TEST, CORPUS = "pairs.jsonl", "synthetic_test.jsonl", "corpus.jsonl"
REJECTED, FACTS = "rejected.jsonl", "generation.json"


@dataclass(frozen=True)
class Unusable:
    """An answer about the chunk at this position that has no question."""

    chunk: int
    answer: str


@dataclass(frozen=True)
class Generated:
    plan: Plan
    accepted: Sequence[Question]
    rejected: Sequence[Rejected]
    unusable: Sequence[Unusable]
    facts: Generation


def generation_facts(
    plan: Plan,
    spec: JobSpec,
    accepted: Sequence[Question],
    rejected: Sequence[Rejected],
    unusable: Sequence[Unusable],
    journal: Journal,
    budget: Budget,
) -> Generation:
    reasons = Counter(each.reason for each in rejected)
    if unusable:
        reasons[UNPARSABLE] = len(unusable)
    questions = [*accepted, *(each.question for each in rejected)]
    places = {each.chunk for each in questions} | {each.chunk for each in unusable}
    without = {name for answer in journal.answers.values() for name in answer.without}
    return Generation(
        llm=str(spec.generation.llm),
        judge=spec.generation.judge,
        temperature=spec.generation.temperature,
        seed=spec.generation.seed,
        without=sorted(without),
        versions=_versions(spec, journal),
        documents=len(plan.documents),
        skipped=dict(plan.skipped),
        chunks=len(plan.chunks),
        requests=len(plan.requests),
        answers=len(places),
        questions=len(questions) + len(unusable),
        kept=len(accepted),
        rejected=dict(reasons.most_common()),
        kinds=dict(Counter(each.kind for each in accepted).most_common()),
        splits=dict(Counter(each.split for each in accepted).most_common()),
        tokens_read=budget.tokens.read,
        tokens_written=budget.tokens.written,
        usd=None if budget.usd is None else round(budget.usd, 4),
    )


def _versions(spec: JobSpec, journal: Journal) -> dict[str, str]:
    """Return the commit on the Hub, or the version in S3, of each local model that has one."""
    asked = {name: journal.versions.get(name, {}) for name in spec.generation.models.values()}
    known = {name: facts.get("commit", facts.get("version")) for name, facts in asked.items()}
    return {name: str(version) for name, version in known.items() if version}


def require_kept(found: Generated, rejected: Path) -> None:
    """Raise `DataError` if no question was kept; `rejected` is the file with the reasons."""
    if found.accepted:
        return
    reasons = "; ".join(f"{count} {why}" for why, count in found.facts.rejected.items())
    msg = f"None of {found.facts.questions} questions was kept: {reasons or 'none was written'}. "
    raise DataError(msg + f"Read `{rejected}`; the answers are kept, so filters can be changed.")


def pair_rows(
    found: Generated, columns: Columns, splits: Sequence[str] = SPLIT_NAMES
) -> list[dict[str, Any]]:
    """Return the accepted questions of these splits as rows of `data.source`.

    Their columns have the names that the spec gives them.
    """
    chunks, group = found.plan.chunks, columns.group
    return [
        {
            columns.anchor or "question": question.text,
            columns.positive or "context": chunks[place].text,
            DOCUMENT: chunks[place].document,
            "chunk_id": chunks[place].id,
            "kind": question.kind,
            "split": question.split,
            **({group: chunks[place].fields.get(group)} if group else {}),
        }
        for question in found.accepted
        if question.split in splits
        for place in [question.chunk] + ([] if question.second is None else [question.second])
    ]


def rejected_rows(found: Generated) -> list[dict[str, Any]]:
    chunks = found.plan.chunks
    rows = [
        {
            "reason": each.reason,
            "question": each.question.text,
            "kind": each.question.kind,
            "split": each.question.split,
            "chunk_id": chunks[each.question.chunk].id,
            DOCUMENT: chunks[each.question.chunk].document,
            "context": chunks[each.question.chunk].text,
        }
        for each in found.rejected
    ]
    return rows + [
        {
            "reason": UNPARSABLE,
            "answer": each.answer[:ANSWER_CHARACTERS],
            "chunk_id": chunks[each.chunk].id,
            DOCUMENT: chunks[each.chunk].document,
            "context": chunks[each.chunk].text,
        }
        for each in found.unusable
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomically(path, _as_lines(rows))


def write_facts(facts: Generation, path: Path) -> None:
    write_atomically(path, facts.model_dump_json(indent=2) + "\n")


def _as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    return encodable("".join(lines))
