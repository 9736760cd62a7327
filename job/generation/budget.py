"""What asking costs: tokens, estimated before and counted after, and the limit in USD."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from job.generation.journal import Request
from job.generation.llm.protocol import Answer, Messages
from job.spec.generation_section import Prices
from job.spec.schema import GenerationSpec

# Of most tokenizers, in English; an API's template of a chat adds a few tokens a message.
BYTES_PER_TOKEN, TOKENS_PER_MESSAGE = 4, 8
# What a question takes in an answer.
TOKENS_PER_QUESTION = 20
GRADE_TOKENS = 3
MILLION = 1_000_000


def estimate_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def tokens_in(messages: Messages) -> int:
    return sum(estimate_tokens(each["content"]) + TOKENS_PER_MESSAGE for each in messages)


@dataclass(frozen=True)
class Tokens:
    read: int = 0
    written: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.read + other.read, self.written + other.written)

    def usd(self, price: Prices | None) -> float | None:
        """Return their price; None if a million tokens have no known price."""
        if price is None:
            return None
        return (self.read * price[0] + self.written * price[1]) / MILLION


# By the name of the language model.
ByModel = Mapping[str, Tokens]


def expected(requests: Iterable[Request], spec: GenerationSpec) -> ByModel:
    """Estimate the tokens of requests for questions, and of a judge's grades of them."""
    found: dict[str, Tokens] = defaultdict(Tokens)
    for request in requests:
        read, questions = tokens_in(request.messages), len(spec.kinds)
        found[request.model] += Tokens(read, questions * TOKENS_PER_QUESTION)
        if spec.judge:
            # A judge reads the chunk once a question.
            found[spec.judge] += Tokens(read * questions, questions * GRADE_TOKENS)
    return found


def total(tokens: ByModel) -> Tokens:
    return sum(tokens.values(), Tokens())


def total_usd(tokens: ByModel, spec: GenerationSpec) -> float | None:
    """Return the price of all models' tokens; None if that of one is unknown."""
    usd = [each.usd(spec.prices(model)) for model, each in tokens.items()]
    known = [each for each in usd if each is not None]
    return sum(known) if len(known) == len(usd) else None


def used(request: Request, answer: Answer) -> Tokens:
    """Return what a request took; estimated where the server does not say."""
    read = answer.tokens_in or tokens_in(request.messages)
    return Tokens(read, answer.tokens_out or estimate_tokens(answer.text))


class Budget:
    """Counts tokens, and tells whether another request is within `generation.max_cost`."""

    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self._tokens: dict[str, Tokens] = defaultdict(Tokens)

    def add(self, request: Request, answer: Answer) -> None:
        self._tokens[request.model] += used(request, answer)

    @property
    def tokens(self) -> Tokens:
        return total(self._tokens)

    @property
    def usd(self) -> float | None:
        return total_usd(self._tokens, self._spec)

    def allows(self, request: Request, running: Sequence[Request]) -> bool:
        """Tell whether the limit covers a request beside those that are running, at their worst."""
        if self._spec.max_cost is None:
            return True
        worst = self._tokens.copy()
        for each in (request, *running):
            worst[each.model] += Tokens(tokens_in(each.messages), each.settings.max_tokens)
        return (total_usd(worst, self._spec) or 0.0) <= self._spec.max_cost
