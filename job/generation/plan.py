"""What is to be asked: the chunks, their splits, one request for each, and what that costs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from job.core.formatting import counted
from job.generation.budget import Tokens, expected, total, total_usd
from job.generation.chunks import (
    Chunk,
    Splitter,
    asking_order,
    assign_splits,
    fingerprints,
    make_chunks,
)
from job.generation.documents import read_documents
from job.generation.journal import Request
from job.generation.llm.protocol import Settings
from job.generation.prompting import question_messages
from job.runtime.logs import warn
from job.spec.generation_section import local_model, require_llm
from job.spec.schema import JobSpec

SAMPLES = 5


@dataclass(frozen=True)
class Plan:
    chunks: Sequence[Chunk]
    splits: Sequence[str]
    # Positions of the chunks to ask about, an even sample of the documents wherever it ends.
    order: Sequence[int]
    requests: Sequence[Request]
    # A digest of each document, by its id.
    documents: dict[str, str]
    skipped: dict[str, str]
    tokens: Tokens
    usd: float | None
    # Whether no server is asked.
    is_local: bool

    @cached_property
    def sentence(self) -> str:
        price = "of unknown price" if self.usd is None else f"about ${self.usd:.2f}"
        if self.is_local:
            price = "on this machine"
        return (
            f"{counted(len(self.documents), 'document')}, {counted(len(self.chunks), 'chunk')}; "
            f"{counted(len(self.requests), 'request')}, about {self.tokens.read:,} tokens to read "
            f"and {self.tokens.written:,} to write, {price}"
        )

    def shortage(self, spec: JobSpec) -> str | None:
        """Return why these chunks are too few to train and test with; None if they are enough."""
        needed = {"train": 1.0, "validation": spec.data.validation_fraction}
        needed["test"] = spec.data.test_fraction
        needed |= {role: 0.0 for role in ("validation", "test") if getattr(spec.data, role)}
        for split, fraction in needed.items():
            if fraction and split not in self.splits:
                return self._without(split)
        tests = sum(self.splits[place] == "test" for place in self.order)
        most, least = tests * len(spec.generation.kinds), spec.data.min_test_queries
        if not needed["test"] or most >= least:
            return None
        return (
            f"At most {most} test questions can be written about {counted(tests, 'chunk')} of the "
            f"test split; a meaningful test needs at least {least}. Raise `generation.limit`, add "
            "documents, or lower `data.min_test_queries`."
        )

    def _without(self, split: str) -> str:
        sizes = Counter(chunk.document for chunk in self.chunks)
        ((largest, size),) = sizes.most_common(1)
        found = f"{counted(len(self.chunks), 'chunk')} of {counted(len(sizes), 'document')}"
        advice = "divide large ones into files, such as one a chapter."
        if largest not in self.documents:
            # A row names it; otherwise a document of several chunks is a file.
            advice = "name another column of the rows: `--set data.columns.document=COLUMN`."
        return (
            f"`data.documents` has {found}, which leaves none for the split `{split}`: chunks of "
            "one document, and near-duplicates, stay together, and the largest document, "
            f"`{largest}`, has {size}. Add documents, or {advice}"
        )

    def samples(self) -> list[str]:
        """Return some prompts."""
        return [request.messages[-1]["content"] for request in self.requests[:SAMPLES]]


def make_plan(source: Path, spec: JobSpec, splitter: Callable[[], Splitter]) -> Plan:
    """Read and cut documents; nothing is asked yet."""
    llm = require_llm(spec.data, spec.generation)
    given = read_documents(source, spec.data)
    if warning := given.warning():
        warn("generate", warning)
    chunks = make_chunks(given.found, spec.generation, splitter)
    order = asking_order(chunks, spec.generation)
    requests = [
        Request(
            llm,
            chunks[place].id,
            question_messages(chunks[place], spec.generation),
            Settings(
                spec.generation.temperature,
                spec.generation.seed + place,
                spec.generation.max_output_tokens,
            ),
        )
        for place in order
    ]
    tokens = expected(requests, spec.generation)
    return Plan(
        chunks,
        assign_splits(chunks, spec.data),
        order,
        requests,
        fingerprints(given.found),
        dict(given.skipped),
        total(tokens),
        total_usd(tokens, spec.generation),
        all(map(local_model, spec.generation.models.values())),
    )
