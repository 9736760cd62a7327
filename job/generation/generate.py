"""The stage `generate`: documents in, pairs out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from job.core.errors import DataError
from job.core.formatting import share
from job.generation import filters, judge
from job.generation.answers import Written, read_questions
from job.generation.asking import ask_all
from job.generation.budget import Budget
from job.generation.filters import Question, Rejected
from job.generation.hopeless import Hopeless
from job.generation.journal import Journal
from job.generation.language_models import Host, LanguageModels
from job.generation.llm.local import LocalModel
from job.generation.llm.protocol import Answer, Ask
from job.generation.plan import Plan
from job.generation.results import Generated, Unusable, generation_facts
from job.generation.round_trip import ELSEWHERE, Search, round_trip
from job.runtime.logs import tell, warn
from job.spec.schema import GenerationSpec, JobSpec


def generate(
    plan: Plan, spec: JobSpec, journal: Path, searches: Callable[[], Sequence[Search]], host: Host
) -> Generated:
    """Ask about each chunk of a plan, and filter the questions.

    `searches` are those of the round trip, made only once the questions are there.
    """
    generation = spec.generation
    log, budget = Journal(journal, plan.documents), Budget(generation)
    tell("generate", plan.sentence)
    if not plan.requests:
        msg = "No chunk of `data.documents` has enough words to ask about."
        raise DataError(msg)
    models = LanguageModels(generation, log, host)
    try:
        ask_for_questions(plan, generation, models.open("llm"), log, budget)
        # The base model searches next. A judge that is the same model is not loaded twice.
        models.free(but=generation.judge)
        written, unusable = read_answers(plan, log, generation)
        accepted, rejected = _filter(written, plan, spec, searches)
        if generation.judge:
            graded = judge.Judge(generation, plan.chunks, log, budget)
            accepted, more = graded.grade(accepted, models.open("judge"))
            rejected += more
    finally:
        models.free()
    facts = generation_facts(plan, spec, accepted, rejected, unusable, log, budget)
    shares = {f"{why.replace(' ', '_')}": share(part) for why, part in facts.shares().items()}
    tell("generate", f"kept {facts.kept} of {facts.questions} questions", **shares)
    return Generated(plan, tuple(accepted), tuple(rejected), tuple(unusable), facts)


def ask_for_questions(
    plan: Plan, generation: GenerationSpec, ask: Ask | LocalModel, log: Journal, budget: Budget
) -> None:
    """Ask about the chunks of a plan, as many as the budget covers."""
    watch = Hopeless(
        "generation.llm",
        "question",
        "Use a larger model, or your own prompt (`generation.prompt`).",
        lambda answer: _has_question(answer, generation),
    )
    is_whole = ask_all(plan.requests, ask, log, budget, generation.concurrency, watch)
    if not is_whole:
        asked = sum(request.key in log.answers for request in plan.requests)
        if not asked:
            msg = f"`generation.max_cost` is ${generation.max_cost:g}, which pays for no request. "
            raise DataError(msg + "Raise it.")
        spent = f"`generation.max_cost` allows no more: {asked} of {len(plan.requests)} chunks"
        warn("generate", f"{spent} were asked about, an even sample of the documents")
    watch.require_useful()


def _has_question(answer: Answer, spec: GenerationSpec) -> bool:
    questions = _questions(answer, spec)
    return any(not filters.is_from_the_prompt(question.text, spec) for question in questions)


def _filter(
    written: Sequence[Question], plan: Plan, spec: JobSpec, searches: Callable[[], Sequence[Search]]
) -> tuple[list[Question], list[Rejected]]:
    accepted, rejected = filters.apply_rules(written, plan.chunks, spec.generation)
    accepted, more = filters.reject_duplicates(accepted, spec.data.near_duplicate_threshold)
    rejected += more
    depth = spec.generation.round_trip_depth
    # No model is fetched or loaded for nothing.
    if depth is None or not any(question.split == "train" for question in accepted):
        return accepted, rejected
    tested = round_trip(accepted, plan.chunks, searches(), depth)
    rejected += tested.rejected
    if spec.generation.judge:
        # The judge decides whether the other chunk answers, too.
        seconds = [filters.with_second(question, other) for question, other in tested.elsewhere]
        return tested.accepted + seconds, rejected
    rejected += [Rejected(question, ELSEWHERE) for question, _ in tested.elsewhere]
    return tested.accepted, rejected


def read_answers(
    plan: Plan, journal: Journal, spec: GenerationSpec
) -> tuple[list[Question], list[Unusable]]:
    """Return the questions of all answers, and the answers without any."""
    found: list[Question] = []
    unusable: list[Unusable] = []
    for place, request in zip(plan.order, plan.requests, strict=True):
        if (answer := journal.answers.get(request.key)) is None:
            continue
        questions = _questions(answer, spec)
        found += [Question(each.text, each.kind, place, plan.splits[place]) for each in questions]
        if not questions:
            cut = "cut off at `generation.max_output_tokens`: " if answer.is_cut else ""
            unusable.append(Unusable(place, answer.refusal or f"{cut}{answer.text}"))
    return found, unusable


def _questions(answer: Answer, spec: GenerationSpec) -> list[Written]:
    # Half a question may look like a whole one.
    text = answer.text.rpartition("\n")[0] if answer.is_cut else answer.text
    return read_questions(text, spec.kinds)
