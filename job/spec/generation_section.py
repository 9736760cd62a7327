"""The spec's section `generation`: how a language model writes questions about documents."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from job.core.errors import SpecError
from job.spec.data_section import DataSpec
from job.spec.section import Section

Kind = Literal["natural", "keywords", "task", "comparison", "paraphrase"]
KINDS: tuple[Kind, ...] = ("natural", "keywords", "task", "comparison", "paraphrase")
Price = Annotated[float, Field(ge=0.0, le=100_000.0)]
# USD for a million tokens read, and for a million written.
Prices = tuple[float, float]
# The first part of a language model's name; `job/generation/llm` has a module for each.
LLM_KINDS = ("openai", "bedrock", "local")
LOCAL = "local:"
# A model on the Hub at a revision; other names, such as a folder's, may contain an `@` themselves.
AT_REVISION = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@(\S+)")


class GenerationSpec(Section):
    llm: str | None = None
    """Language model that writes the questions: `openai:MODEL`, any server with OpenAI's API;
    `bedrock:MODEL`, by its id, an inference profile's id, or an ARN; or `local:MODEL`, which the
    job loads itself: a Hub id (`owner/name`, `owner/name@revision`), a folder or `s3://…`;
    `model.trust_remote_code` and `model.max_download_gb` apply to it, too."""
    llm_url: str | None = None
    """Address of OpenAI's API, up to `/v1`: vLLM, Ollama, llama.cpp, a gateway; `null`: its own.
    The variable `EMBEDTUNE_LLM_KEY` has its key."""
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1)
    """Kinds of questions, one of each for every chunk."""
    prompt: str | None = None
    """Text of your own prompt, which replaces `job/generation/prompts/questions.md`; it contains
    `{text}`, the chunk with its title in front, and may contain `{kinds}` and `{examples}`."""
    examples: tuple[str, ...] = Field((), max_length=50)
    """A few real questions of your users: they set style and length."""
    limit: int | None = Field(None, ge=1)
    """Ask about this many chunks, sampled evenly over the documents; all chunks are searched."""
    chunk_tokens: int = Field(256, ge=32, le=8192)
    """Tokens of the base model in a chunk of a document, at most; the title counts."""
    cut_rows: bool = False
    """Cut the rows of tables and JSON lines too, which are chunks already."""
    temperature: float = Field(0.7, ge=0.0, le=2.0)
    """Sampling temperature of the language model."""
    seed: int = Field(42, ge=0, lt=2**31)
    """Seed of the sample of chunks; each request's seed is this plus the number of its chunk."""
    max_output_tokens: int = Field(400, ge=16, le=32_768)
    """Tokens of an answer, at most."""
    concurrency: int = Field(8, ge=1, le=512)
    """Requests at the same time."""
    batch_size: int = Field(32, ge=1, le=4096)
    """Requests that a `local:` model answers at once; halved if memory runs out."""
    timeout: float = Field(120.0, gt=0.0, le=3600.0)
    """Seconds for one answer."""
    input_price: Price | None = None
    """USD for a million tokens that the language model reads; `null`: unknown. A `local:` model
    costs nothing but the machine's time."""
    output_price: Price | None = None
    """USD for a million tokens that it writes; `null`: unknown."""
    max_cost: float | None = Field(None, gt=0.0)
    """USD; the stage stops asking before it spends more, and continues with what is there. Needs
    the prices."""
    max_copied: float = Field(0.8, gt=0.0, le=1.0)
    """A question is rejected if a longer share of it is copied from the chunk, word by word."""
    round_trip_depth: int | None = Field(10, ge=1, le=100)
    """A training question is rejected if neither BM25 nor the base model finds its chunk among so
    many; `null`: no such test."""
    judge: str | None = None
    """Language model that grades each question from 1 to 5 by whether its chunk answers it."""
    judge_input_price: Price | None = None
    """USD for a million tokens that a judge reads, if it is another model; `null`: as
    `input_price`."""
    judge_output_price: Price | None = None
    """USD for a million tokens that such a judge writes; `null`: as `output_price`."""
    judge_threshold: int = Field(4, ge=1, le=5)
    """Questions with a lower grade are rejected."""

    @field_validator("kinds", mode="before")
    @classmethod
    def _take_one_kind(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    def prices(self, model: str) -> Prices | None:
        """Return the prices of the language model or the judge, by name; None if unknown."""
        if model.startswith(LOCAL):
            return 0.0, 0.0
        own = (self.judge_input_price, self.judge_output_price)
        if model == self.llm or own == (None, None):
            own = (self.input_price, self.output_price)
        read, written = own
        return None if read is None or written is None else (read, written)

    def models_of(self, kind: str) -> tuple[str, ...]:
        """Return the models of a kind, such as `bedrock`, that are asked, without the kind."""
        names = (name.partition(":") for name in (self.llm, self.judge) if name)
        return tuple(model for given, _, model in names if given == kind)

    @property
    def models(self) -> dict[str, str]:
        """The language models that are asked, by field."""
        found = {"llm": self.llm, "judge": self.judge}
        return {field: model for field, model in found.items() if model}


def local_model(name: str) -> tuple[str, str | None] | None:
    """Return the Hub id or folder of a `local:` model, and its revision; None for other kinds."""
    if not name.startswith(LOCAL):
        return None
    base = name.removeprefix(LOCAL)
    found = AT_REVISION.fullmatch(base)
    return (found[1], found[2]) if found else (base, None)


def require_llm(data: DataSpec, generation: GenerationSpec) -> str:
    """Return the language model that writes questions about `data.documents`.

    Raises `SpecError` if there is none, or if settings contradict each other.
    """
    if data.source is not None:
        msg = "`data.documents` and `data.source` are both set: pairs come from one of them."
        raise SpecError(msg)
    if generation.llm is None:
        msg = "`data.documents` needs a language model that writes the questions: set "
        msg += (
            "`generation.llm` (`--llm openai:MODEL`, `--llm bedrock:MODEL`, `--llm local:MODEL`)."
        )
        raise SpecError(msg)
    for field, name in generation.models.items():
        _check_model(field, name)
    if not (generation.llm_url or "https://").startswith(("http://", "https://")):
        msg = f"`generation.llm_url` is `{generation.llm_url}`; expected http://… or https://…"
        raise SpecError(msg)
    if generation.llm_url and not generation.models_of("openai"):
        msg = "`generation.llm_url` is the address of a model `openai:…`; it is not used for "
        raise SpecError(msg + f"`{generation.llm}`. Set one of them only.")
    if generation.llm.startswith("bedrock:") and generation.temperature > 1.0:
        msg = f"`generation.temperature` is {generation.temperature:g}; Amazon Bedrock takes 0 to "
        raise SpecError(msg + "1: `--set generation.temperature=1`.")
    if generation.prompt is not None and "{text}" not in generation.prompt:
        msg = "`generation.prompt` contains no `{text}`, where the chunk goes."
        raise SpecError(msg)
    if generation.examples and "{examples}" not in (generation.prompt or "{examples}"):
        msg = "`generation.prompt` contains no `{examples}`, where `generation.examples` go. "
        raise SpecError(msg + "Add it, or leave out the examples.")
    _check_prices(generation)
    return generation.llm


def _check_model(field: str, name: str) -> None:
    kind, _, model = name.partition(":")
    if kind not in LLM_KINDS or not model.strip():
        expected = " or ".join(f"`{known}:MODEL`" for known in LLM_KINDS)
        msg = f"`generation.{field}` is `{name}`; expected {expected}."
        raise SpecError(msg)


def _check_prices(generation: GenerationSpec) -> None:
    own = (generation.judge_input_price, generation.judge_output_price)
    if own != (None, None) and generation.judge in (None, generation.llm):
        msg = (
            "`generation.judge_input_price` and `judge_output_price` are those of a judge that is "
        )
        raise SpecError(msg + "another model than `generation.llm`: set `generation.judge`.")
    unknown = [field for field, name in generation.models.items() if not generation.prices(name)]
    if generation.max_cost is not None and unknown:
        prefix = "" if unknown[0] == "llm" else "judge_"
        option = prefix.replace("_", "-") + "price-per-million-tokens"
        msg = f"`generation.max_cost` needs `generation.{prefix}input_price` and "
        msg += f"`{prefix}output_price` (`--{option} 0.15,0.60`): what `generation.{unknown[0]}` "
        raise SpecError(msg + "costs is unknown.")
