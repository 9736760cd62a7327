"""`pairs`: write questions about documents to a file, to be read before training on them."""

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from job.core.errors import SpecError, Stopped, StorageError
from job.core.formatting import share
from job.generation.chunks import Splitter, corpus_rows, token_splitter
from job.generation.facts import Generation
from job.generation.generate import generate
from job.generation.language_models import Host
from job.generation.plan import Plan, make_plan
from job.generation.results import DOCUMENT, pair_rows, rejected_rows, require_kept, write_rows
from job.generation.round_trip import base_searches
from job.inputs import fetch_data, fetch_language_model, fetch_model
from job.model.device import choose_machine
from job.report.pairs_page import write_page
from job.runtime.logs import disable_progress_bars, warn
from job.spec.generation_section import require_llm
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace

# Fields of `data` that say how the documents are read, and no longer apply to the pairs.
OF_DOCUMENTS = {"documents", "subset", "split", "revision", "columns.corpus_text"}
Echo = Callable[[str], object]


def make_pairs(
    spec: JobSpec, target: Path, device: str, echo: Echo, *, dry_run: bool, yes: bool
) -> None:
    """Write `target`, and files beside it with its stem; only print the plan for a `dry_run`.

    Started again, it continues with the journal beside the target.
    """
    if target.exists() and not dry_run:
        msg = f"`{target}` already exists, and was not changed. Delete it, or choose another "
        raise StorageError(msg + "`--to`; a journal beside it is used again.")
    require_llm(spec.data, spec.generation)
    if target.resolve().is_relative_to(Path(str(spec.data.documents)).resolve()):
        # The files beside the pairs would be read as documents by the next start.
        msg = f"`{target}` is in the folder of the documents, `{spec.data.documents}`. Choose "
        raise SpecError(msg + "another `--to`, such as `--to ../pairs.jsonl`.")
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        channels = {role: found.path for role, found in fetch_data(spec, workspace, {}).items()}
        source = Path(channels.get("documents") or str(spec.data.documents))

        def splitter() -> Splitter:
            # No weights: a dry run needs none.
            return token_splitter(fetch_model(spec.model, workspace, {}, only="*.json").path)

        plan = make_plan(source, spec, splitter)
        if shortage := plan.shortage(spec):
            warn("pairs", f"too few to train on. {shortage}")
        if dry_run:
            _show(plan, echo)
            return
        _confirm(plan, spec, yes=yes)
        disable_progress_bars()
        machine = choose_machine(device, spec.model.precision)
        found = generate(
            plan,
            spec,
            beside(target, "journal.jsonl"),
            lambda: base_searches(spec, machine, fetch_model(spec.model, workspace, {}).path),
            Host(machine, partial(fetch_language_model, spec=spec, workspace=workspace)),
        )
    write_rows(beside(target, "corpus.jsonl"), corpus_rows(plan.chunks))
    write_rows(beside(target, "rejected.jsonl"), rejected_rows(found))
    write_page(found, beside(target, "html"))
    require_kept(found, beside(target, "rejected.jsonl"))
    write_rows(target, pair_rows(found, spec.data.columns))
    for line in _summary(found.facts, target, spec):
        echo(line)


def beside(target: Path, ending: str) -> Path:
    """Return the file with the stem of `target` and another ending."""
    return target.with_name(f"{target.stem}.{ending}")


def _show(plan: Plan, echo: Echo) -> None:
    echo(f"{plan.sentence}.")
    for number, prompt in enumerate(plan.samples(), start=1):
        echo(f"--- prompt {number}")
        for line in prompt.splitlines():
            echo(line)


def _confirm(plan: Plan, spec: JobSpec, *, yes: bool) -> None:
    limit = spec.generation.max_cost
    if yes or limit is None or plan.usd is None or plan.usd <= limit:
        return
    question = f"That is {plan.sentence}, above --max-cost ${limit:g}"
    if not sys.stdin.isatty():
        msg = f"{question}. Pass `--yes` to ask about as many chunks as that pays for, an even "
        raise SpecError(msg + "sample of the documents.")
    if not click.confirm(f"{question}. Ask about an even sample for that sum?", err=True):
        msg = "Nothing was asked."
        raise Stopped(msg)


def _summary(facts: Generation, target: Path, spec: JobSpec) -> list[str]:
    lines = [f"Kept       {facts.kept} of {facts.questions} questions: {target}"]
    shares = facts.shares()
    for why, count in facts.rejected.items():
        lines.append(f"Rejected   {count} ({share(shares[why])}): {why}")
    read, written = facts.tokens_read, facts.tokens_written
    cost = f", ${facts.usd:.4f}" if facts.usd else ""
    lines.append(f"Tokens     {read:,} read, {written:,} written{cost}")
    lines.append(f"Read some  {beside(target, 'html')}")
    words = ["embedtune", "launch", "--data", str(target), "--model", spec.model.base]
    for name, value in _training_settings(target, spec).items():
        words += ["--set", f"{name}={value}"]
    return [*lines, f"Next       {shlex.join(words)}"]


def _training_settings(target: Path, spec: JobSpec) -> dict[str, str]:
    """Return how the pairs are read: as written here, and by the user's own section `data`."""
    given = spec.data.model_dump(mode="json", exclude_unset=True)
    columns = given.pop("columns", {})
    given |= {f"columns.{name}": value for name, value in columns.items()}
    given |= {"columns.document": DOCUMENT, "questions_by": spec.generation.llm}
    given |= {"corpus": str(beside(target, "corpus.jsonl"))}
    return {
        f"data.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
        if name not in OF_DOCUMENTS
    }
