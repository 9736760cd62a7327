"""Send requests, in threads or in batches, journal each answer, and stop at the budget."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from job.generation.budget import Budget
from job.generation.journal import Journal, Request
from job.generation.llm.local import LocalModel
from job.generation.llm.protocol import Answer, Ask
from job.runtime.counter import Counter

Done = tuple[Request, Answer | Exception]
Answers = Generator[tuple[Request, Answer], None, None]
# Called with each answer, first with those of the journal; it may raise to end the run.
Watch = Callable[[Request, Answer], None]


def ask_all(
    requests: Sequence[Request],
    ask: Ask | LocalModel,
    journal: Journal,
    budget: Budget,
    threads: int,
    watch: Watch = lambda _, __: None,
) -> bool:
    """Ask what the journal does not answer yet; return whether the budget sufficed.

    After a failure, or Ctrl-C, only the requests that are running are lost. A local model gets
    batches; others are asked by so many threads.
    """
    waiting = _unanswered(requests, journal, budget, watch)
    counter = Counter("generate", "requests", len(requests), len(requests) - len(waiting))
    if isinstance(ask, LocalModel):
        answers = _in_batches(waiting, ask, budget)
    else:
        answers = _in_threads(waiting, ask, budget, threads)
    with journal.opened(), closing(answers):
        for request, answer in answers:
            journal.add(request, answer)
            budget.add(request, answer)
            counter.add()
            watch(request, answer)
    return not waiting


def _unanswered(
    requests: Sequence[Request], journal: Journal, budget: Budget, watch: Watch
) -> list[Request]:
    """Return the requests to send, the last one first; count the others into the budget."""
    by_key = {request.key: request for request in requests}
    # In the order of the journal, as the start that asked saw them.
    for key, answer in journal.answers.items():
        if request := by_key.pop(key, None):
            budget.add(request, answer)
            watch(request, answer)
    return [*by_key.values()][::-1]


def _in_batches(waiting: list[Request], model: LocalModel, budget: Budget) -> Answers:
    """Take requests off the list, and yield them with their answers."""
    while waiting:
        batch: list[Request] = []
        while waiting and len(batch) < model.batch_size and budget.allows(waiting[-1], batch):
            batch.append(waiting.pop())
        if not batch:
            return
        answers = model.answer([(request.messages, request.settings) for request in batch])
        yield from zip(batch, answers, strict=True)


def _in_threads(waiting: list[Request], ask: Ask, budget: Budget, threads: int) -> Answers:
    """Take requests off the list, and yield them with their answers as they come."""
    todo: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[Done] = queue.SimpleQueue()
    running: list[Request] = []
    _start(min(threads, len(waiting)), ask, todo, done)
    is_within = True
    try:
        while waiting or running:
            while waiting and is_within and len(running) < threads:
                is_within = budget.allows(waiting[-1], running)
                if is_within:
                    running.append(waiting.pop())
                    todo.put(running[-1])
            if not running:
                return
            request, answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            running.remove(request)
            yield request, answer
            # The running requests may have taken less than their worst.
            is_within = True
    finally:
        for _ in range(threads):
            todo.put(None)


def _start(
    count: int,
    ask: Ask,
    todo: "queue.SimpleQueue[Request | None]",
    done: "queue.SimpleQueue[Done]",
) -> None:
    def work() -> None:
        while (request := todo.get()) is not None:
            try:
                done.put((request, ask(request.messages, request.settings)))
            except Exception as error:  # noqa: BLE001  raised again by the thread that waits
                done.put((request, error))

    for _ in range(count):
        # Python waits for other threads at its exit, which may take as long as an answer.
        threading.Thread(target=work, daemon=True).start()
