"""The kinds of language models, by the first part of `generation.llm`."""

from collections.abc import Callable

from job.generation.llm import bedrock, local, openai
from job.generation.llm.local import LocalModel
from job.generation.llm.protocol import Ask
from job.spec.schema import GenerationSpec

KINDS: dict[str, Callable[[str, GenerationSpec], Ask | LocalModel]] = {
    "openai": openai.open_model,
    "bedrock": bedrock.open_model,
    "local": local.open_model,
}


def open_llm(name: str, spec: GenerationSpec) -> Ask | LocalModel:
    """Return the function that asks a model, such as `openai:gpt-4o-mini`, or a local model."""
    kind, _, model = name.partition(":")
    return KINDS[kind](model, spec)
