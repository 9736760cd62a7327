"""End a run whose first answers are all useless: the rest would be the same, and would cost."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from job.core.errors import DataError
from job.generation.journal import Request
from job.generation.llm.protocol import REFUSED, Answer

# After so many answers without any useful one, the run ends.
HOPELESS = 50
SHOWN, SHOWN_CHARACTERS = 3, 120


@dataclass
class Hopeless:
    """Watches a model's answers; raises `DataError` if none of the first `HOPELESS` is useful."""

    # The field that names the model, such as `generation.llm`.
    setting: str
    # What a useful answer has.
    wanted: str
    advice: str
    is_useful: Callable[[Answer], bool]
    useless: list[str] = field(default_factory=list)
    has_useful: bool = False

    def __call__(self, _: Request, answer: Answer) -> None:
        if self.has_useful:
            return
        self.has_useful = self.is_useful(answer)
        self.useless.append(answer.refusal or answer.text)
        if len(self.useless) >= HOPELESS:
            self.require_useful()

    def require_useful(self) -> None:
        """Raise `DataError` if there are answers, but no useful one."""
        if self.has_useful or not self.useless:
            return
        common = [text for text, _ in Counter(self.useless).most_common(SHOWN)]
        shown = "; ".join(f"`{' '.join(text.split())[:SHOWN_CHARACTERS]}`" for text in common)
        msg = f"None of {len(self.useless)} answers of `{self.setting}` has a {self.wanted}. "
        msg += f"Such as: {shown}. "
        advice = self.advice
        if all(text.startswith(REFUSED) for text in self.useless):
            advice = f"Check `{self.setting}`, `generation.llm_url` and the server's own settings."
        raise DataError(msg + advice)
