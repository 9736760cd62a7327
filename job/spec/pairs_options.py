"""The options of `embedtune pairs` and of `python -m job pairs`. Needs only Click."""

import json
from pathlib import Path
from typing import Any

import click

from job.core.errors import StorageError
from job.spec.options import DEVICE, with_options

FILE = click.Path(path_type=Path, dir_okay=False)
LLM = "KIND:MODEL"


def _require_prices(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is not None:
        _prices(given)
    return given


def _prices(given: str) -> tuple[float, float]:
    try:
        read, written = map(float, given.split(","))
    except ValueError:
        msg = f"`{given}`: expected two numbers, such as 0.15,0.60."
        raise click.BadParameter(msg) from None
    return read, written


OPTIONS = (
    click.option(
        "--llm",
        metavar=LLM,
        required=True,
        help="Model that writes questions: openai:MODEL or bedrock:MODEL, or local:MODEL (a Hub id "
        "or a folder), which this machine loads.",
    ),
    click.option(
        "--llm-url",
        metavar="URL",
        help="Server with OpenAI's API: vLLM, Ollama, llama.cpp, …  [default: OpenAI's own]",
    ),
    click.option(
        "--to", type=FILE, default="pairs.jsonl", show_default=True, help="File of the pairs."
    ),
    click.option(
        "--model", help="Base model: its tokens cut documents, its search tests questions."
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        help="Ask about so many chunks, sampled evenly over the documents.",
    ),
    click.option(
        "--price-per-million-tokens",
        metavar="IN,OUT",
        callback=_require_prices,
        help="USD for a million tokens read, and written.  "
        "[default: for bedrock, AWS's price list]",
    ),
    click.option(
        "--max-cost",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop asking at this sum, in USD.",
    ),
    click.option("--prompt", type=FILE, help="Your own prompt, with {text} where the chunk goes."),
    click.option("--examples", type=FILE, help="Real questions of your users, one a line."),
    click.option("--judge", metavar=LLM, help="Model that grades the questions."),
    click.option(
        "--judge-price-per-million-tokens",
        metavar="IN,OUT",
        callback=_require_prices,
        help="The same of a judge that is another model.",
    ),
    click.option(
        "--set",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Set any spec field, such as generation.chunk_tokens=400; may be repeated.",
    ),
    click.option(
        "--device",
        type=DEVICE,
        default="auto",
        show_default=True,
        help="Device of the base model, and of a local language model.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print counts, cost and five prompts; ask nothing."
    ),
    click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
)
pairs_options = with_options(OPTIONS)
# Options that are fields of the section `generation`.
FIELDS = ("llm", "llm_url", "limit", "max_cost", "judge")


def settings_of(given: dict[str, Any]) -> list[str]:
    """Return the options as settings of the spec, files as their texts; `--set` comes first.

    Raises `StorageError` if a file cannot be read.
    """
    found: dict[str, object] = {f"generation.{name}": given[name] for name in FIELDS}
    found["model.base"] = given["model"]
    for prefix in ("", "judge_"):
        if price := given[f"{prefix}price_per_million_tokens"]:
            names = (f"generation.{prefix}{kind}_price" for kind in ("input", "output"))
            found |= zip(names, _prices(price), strict=True)
    if prompt := given["prompt"]:
        found["generation.prompt"] = _text(prompt, "prompt")
    if examples := given["examples"]:
        found["generation.examples"] = _lines(examples)
    options = [f"{name}={json.dumps(value)}" for name, value in found.items() if value is not None]
    return [*given["set"], *options]


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _text(path, "examples").splitlines() if line.strip()]
    if not lines:
        msg = f"`{path}` (`--examples`) has no line with a question."
        raise StorageError(msg)
    return lines


def _text(path: Path, name: str) -> str:
    try:
        # Editors on Windows begin a file with a mark.
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"`{path}` (`--{name}`) cannot be read: {error}."
        raise StorageError(msg) from None
