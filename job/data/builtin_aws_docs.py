"""`builtin:aws-docs`: real pairs mined from the AWS API reference that botocore contains.

The first sentence of an operation's documentation is the question, the rest is its context.
The same botocore version gives the same pairs in the same order.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

# A sentence ends before a capital letter, a quote or a parenthesis: not in "e.g. foo" or "v1.2".
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
MIN_QUESTION_WORDS = 5
MIN_CONTEXT_WORDS = 20
MAX_CONTEXT_WORDS = 120
# Boxes precede the main text and say little about the operation itself.
BOXES = ("important", "note")
BLOCKS = ("p", "li", "ul", "ol", "dd", "dt", "dl", "div", "br", "h1", "h2", "h3", "h4")


def mine_pairs() -> Iterator[dict[str, str]]:
    """Yield `question`, `context` and `source` (service.Operation) of each usable operation."""
    from botocore.loaders import Loader

    loader = Loader()
    for service in sorted(loader.list_available_services("service-2")):
        operations = loader.load_service_model(service, "service-2")["operations"]
        for name in sorted(operations):
            if pair := split_documentation(operations[name].get("documentation", "")):
                yield {"question": pair[0], "context": pair[1], "source": f"{service}.{name}"}


def split_documentation(html: str) -> tuple[str, str] | None:
    """Split HTML into its first sentence and the rest; return None if either is too short."""
    sentences = SENTENCE_END.split(plain_text(html), maxsplit=1)
    if len(sentences) < 2:
        return None
    question, rest = sentences[0], sentences[1].split()
    if len(question.split()) < MIN_QUESTION_WORDS or len(rest) < MIN_CONTEXT_WORDS:
        return None
    return question, " ".join(rest[:MAX_CONTEXT_WORDS])


def plain_text(html: str) -> str:
    parser = _TextParser()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._boxes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._boxes += tag in BOXES
        if tag in BLOCKS:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._boxes -= tag in BOXES
        if tag in BLOCKS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._boxes <= 0:
            self.parts.append(data)
