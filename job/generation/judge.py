"""The judge: a language model grades how well a chunk answers its question."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from job.generation.answers import read_grade
from job.generation.asking import ask_all
from job.generation.budget import Budget
from job.generation.chunks import Chunk
from job.generation.filters import Question, Rejected
from job.generation.hopeless import Hopeless
from job.generation.journal import Journal, Request
from job.generation.llm.local import LocalModel
from job.generation.llm.protocol import Ask, Settings
from job.generation.prompting import judge_messages
from job.generation.round_trip import ELSEWHERE
from job.runtime.logs import warn
from job.spec.schema import GenerationSpec

GRADED_LOW, NO_GRADE = "graded low by the judge", "not graded: the budget was spent"
# A grade, and the words some models put around it.
ANSWER_TOKENS = 16


class Judge:
    def __init__(
        self, spec: GenerationSpec, chunks: Sequence[Chunk], journal: Journal, budget: Budget
    ) -> None:
        self._spec, self._chunks, self._journal, self._budget = spec, chunks, journal, budget
        self._model = str(spec.judge)

    def grade(
        self, questions: Sequence[Question], ask: Ask | LocalModel
    ) -> tuple[list[Question], list[Rejected]]:
        """Reject the questions that their chunks do not answer.

        Where a search found another chunk better, it is a second positive if it answers, too;
        an answer without a grade counts as the lowest.
        """
        requests = [request for question in questions for request in self._requests(question)]
        threads = self._spec.concurrency
        watch = Hopeless(
            "generation.judge",
            "grade",
            "Use a model that replies with a number at once, without thinking first.",
            lambda answer: read_grade(answer.text) is not None,
        )
        if not ask_all(requests, ask, self._journal, self._budget, threads, watch):
            warn("generate", "`generation.max_cost` does not cover all grades")
        watch.require_useful()
        accepted, rejected = [], []
        for question in questions:
            grades = [self._grade(request) for request in self._requests(question)]
            if None in grades:
                rejected.append(Rejected(question, NO_GRADE))
            elif (grades[0] or 0) < self._spec.judge_threshold:
                why = GRADED_LOW if question.second is None else ELSEWHERE
                rejected.append(Rejected(replace(question, second=None), why))
            else:
                is_second = len(grades) > 1 and (grades[1] or 0) >= self._spec.judge_threshold
                accepted.append(question if is_second else replace(question, second=None))
        return accepted, rejected

    def _requests(self, question: Question) -> Iterator[Request]:
        places = [question.chunk] + ([] if question.second is None else [question.second])
        for place in places:
            chunk = self._chunks[place]
            messages = judge_messages(question.text, chunk.text)
            settings = Settings(0.0, self._spec.seed, ANSWER_TOKENS)
            yield Request(self._model, chunk.id, messages, settings)

    def _grade(self, request: Request) -> int | None:
        """Return a grade, 0 for an answer without one; None if it was not asked for."""
        answer = self._journal.answers.get(request.key)
        return None if answer is None else read_grade(answer.text) or 0
