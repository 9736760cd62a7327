"""`pairs.html`: a sample of kept and rejected questions, to be read before training."""

import random
from pathlib import Path
from typing import Any

from job.generation.results import Generated, pair_rows, rejected_rows
from job.report.templating import render
from job.spec.schema import Columns
from job.storage.workspace import write_atomically

# Rows of kept questions, and of each reason.
KEPT, REJECTED = 60, 12
CONTEXT_CHARACTERS = 600


def write_page(found: Generated, path: Path) -> None:
    write_atomically(path, pairs_page(found))


def pairs_page(found: Generated) -> str:
    draw = random.Random(found.facts.seed)  # noqa: S311  a sample, no secret
    kept = pair_rows(found, Columns())
    by_reason: dict[str, list[dict[str, Any]]] = {why: [] for why in found.facts.rejected}
    for row in rejected_rows(found):
        by_reason[row["reason"]].append(row)
    return render(
        "pairs.html",
        facts=found.facts,
        kept=[_shortened(row) for row in _sample(draw, kept, KEPT)],
        rejected={
            why: [_shortened(row) for row in _sample(draw, rows, REJECTED)]
            for why, rows in by_reason.items()
        },
    )


def _sample(draw: random.Random, rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return draw.sample(rows, min(count, len(rows)))


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    text = row["context"]
    is_long = len(text) > CONTEXT_CHARACTERS
    return {**row, "context": f"{text[:CONTEXT_CHARACTERS]}…" if is_long else text}
