"""Cut documents into chunks, order them for asking, and assign them to splits."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from job.core.errors import ModelError
from job.data import splits
from job.data.formats.layout import titled
from job.data.formats.values import identifier
from job.data.near_duplicates import group_rows
from job.data.text_keys import text_key
from job.data.words import count_words
from job.generation.documents import Document
from job.model.settings import transformer_folder
from job.spec.schema import DataSpec, GenerationSpec

# The start of a chunk would be nothing but a long title.
TITLE_CHARACTERS = 120
# A chunk keeps at least this share of the tokens for its own text, and no model needs more
# tokens than these for its marks of start and end.
MIN_SHARE, MARKS = 0.5, 2
# Nobody asks about a shorter chunk, such as a heading without a text.
MIN_WORDS = 8

# Cut a text into pieces of at most so many tokens.
Cut = Callable[[str, int], list[str]]
Count = Callable[[str], int]


@dataclass(frozen=True)
class Chunk:
    id: str
    # The id of the document that it is a part of; of a row without one, its own.
    document: str
    title: str
    body: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The chunk as the base model reads it, with the title in front."""
        return str(titled(self.title, self.body))

    @property
    def is_askable(self) -> bool:
        return count_words(self.body) >= MIN_WORDS


@dataclass(frozen=True)
class Splitter:
    """Cuts at headings first, then at paragraphs and sentences; counts with one tokenizer."""

    cut: Cut
    count: Count


def make_chunks(
    documents: Iterable[Document], spec: GenerationSpec, splitter: Callable[[], Splitter]
) -> list[Chunk]:
    """Cut documents; rows are chunks already. `splitter` is made only if something is cut.

    Chunks with the same text are one: asked about twice, they would be wrong answers to each other.
    """
    made: dict[int, Chunk] = {}
    names: set[str] = set()
    for document in documents:
        parts = [document.text]
        if not document.is_row or spec.cut_rows:
            parts = _cut(document, spec.chunk_tokens, splitter())
        for number, part in enumerate(parts, start=1):
            own = document.id if document.is_row and len(parts) == 1 else f"{document.id}#{number}"
            parent = document.parent or document.id
            title = document.title[:TITLE_CHARACTERS] if not document.is_row else document.title
            chunk = Chunk(_new_name(identifier(own), names), parent, title, part, document.fields)
            made.setdefault(text_key(chunk.text), chunk)
    return [*made.values()]


def _new_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "~"
    taken.add(name)
    return name


def _cut(document: Document, tokens: int, splitter: Splitter) -> list[str]:
    title = splitter.count(document.title[:TITLE_CHARACTERS]) if document.title else 0
    room = max(int(tokens * MIN_SHARE), tokens - title - MARKS)
    heading = f"# {document.title}"
    pieces = (piece.removeprefix(heading).strip() for piece in splitter.cut(document.text, room))
    return [piece for piece in pieces if piece]


def token_splitter(folder: Path) -> Splitter:
    """Return a splitter that counts the tokens of the model in a folder."""
    from semantic_text_splitter import MarkdownSplitter
    from tokenizers import Tokenizer

    path = transformer_folder(folder) / "tokenizer.json"
    if not path.is_file():
        msg = f"The model in `{folder}` has no `tokenizer.json`, by which documents are cut. Cut "
        raise ModelError(msg + "them yourself: JSON lines with `text` and `document` stay whole.")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @lru_cache
    def splitter(tokens: int) -> MarkdownSplitter:
        return MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return Splitter(lambda text, tokens: [*splitter(tokens).chunks(text)], count)


def asking_order(chunks: Sequence[Chunk], spec: GenerationSpec) -> list[int]:
    """Return the positions of the chunks to ask about: one of each document, then a second, ….

    Wherever asking stops, the chunks so far are an even sample of the documents.
    """
    draw = np.random.default_rng(spec.seed)
    by_document: dict[str, list[int]] = defaultdict(list)
    for place in draw.permutation(len(chunks)).tolist():
        if chunks[place].is_askable:
            by_document[chunks[place].document].append(place)
    rounds = max(map(len, by_document.values()), default=0)
    columns = [*by_document.values()]
    order = [places[turn] for turn in range(rounds) for places in columns if turn < len(places)]
    return order[: spec.limit]


def assign_splits(chunks: Sequence[Chunk], spec: DataSpec) -> list[str]:
    """Return each chunk's split; those of one document, and near-duplicates, are in the same one.

    A given `data.validation` takes the place of that split; beside a given `data.test`, the
    synthetic test stays.
    """
    keys = np.array([text_key(chunk.text) for chunk in chunks], np.uint64)
    parents = np.array([text_key(f"document {chunk.document}") for chunk in chunks], np.uint64)
    texts = {int(key): chunk.text for key, chunk in zip(keys, chunks, strict=True)}
    groups = group_rows([keys, keys, parents], texts, spec.near_duplicate_threshold)
    undecided = np.full(len(chunks), splits.UNDECIDED, np.int64)
    validation = 0.0 if spec.validation else spec.validation_fraction
    fractions = (validation, spec.test_fraction)
    codes = splits.split_rows(groups.labels, undecided, fractions, spec.seed)
    return [splits.SPLIT_NAMES[code] for code in codes]


def fingerprints(documents: Iterable[Document]) -> dict[str, str]:
    """Return a digest of each document; equal digests mean the same chunks."""
    found: dict[str, str] = {}
    for document in documents:
        content = json.dumps([document.title, document.text, document.parent], ensure_ascii=False)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        found[document.id] = found.get(document.id, "") + digest
    return found


def corpus_rows(chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    """Yield all chunks as rows of `data.corpus`, with the fields that their rows had."""
    for chunk in chunks:
        own = {"id": chunk.id, "title": chunk.title, "text": chunk.body}
        others = {key: value for key, value in chunk.fields.items() if key not in own}
        yield {**own, "source": chunk.document, **others}
