"""Fill the prompts; `prompts/` has their texts, one a file."""

import re
from functools import cache, lru_cache
from pathlib import Path

from job.generation.chunks import Chunk
from job.spec.schema import GenerationSpec

PROMPTS = Path(__file__).parent / "prompts"
PLACEHOLDER = re.compile(r"\{(kinds|examples|text|question)\}")
KIND = re.compile(r"- (\w+): ")
SENTENCE_END = re.compile(r"(?<=[.?!:：。？！])\s+|\n")


@cache
def read_prompt(name: str) -> str:
    return (PROMPTS / f"{name}.md").read_text("utf-8")


def fill(template: str, **values: str) -> str:
    """Replace the placeholders in one pass: a chunk may contain `{title}` itself."""
    return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def question_messages(chunk: Chunk, spec: GenerationSpec) -> list[dict[str, str]]:
    """Return the messages that ask for questions about a chunk."""
    return [{"role": "user", "content": _question_prompt(chunk.text, spec)}]


@lru_cache
def prompt_sentences(spec: GenerationSpec) -> frozenset[str]:
    """Return what the prompt says of itself, a sentence or a part of a line each: no chunk."""
    return frozenset(SENTENCE_END.split(_question_prompt("", spec)))


def _question_prompt(text: str, spec: GenerationSpec) -> str:
    lines = {KIND.match(line)[1]: line for line in read_prompt("kinds").splitlines()}  # type: ignore[index]
    kinds = "\n".join(lines[kind] for kind in spec.kinds)
    examples = "".join(f"- {example}\n" for example in spec.examples)
    return fill(
        spec.prompt or read_prompt("questions"),
        kinds=kinds,
        examples=f"\nReal queries, as examples of style and length:\n\n{examples}" * bool(examples),
        text=text,
    )


def judge_messages(question: str, text: str) -> list[dict[str, str]]:
    """Return the messages that ask how well a text answers a question."""
    content = fill(read_prompt("judge"), question=question, text=text)
    return [{"role": "user", "content": content}]
