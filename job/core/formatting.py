"""How numbers and names are written, the same in every view of a report."""

RESCORED = "_rescored"
# What a terminal obeys instead of showing it, and what turns a line's direction around.
UNSEEN = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for span in ((0, 0x20), (0x7F, 0xA0), (0x2028, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000))
    for code in range(*span)
}
LINES = {code: sign for code, sign in UNSEEN.items() if chr(code) not in "\t\n"}


# What XML or a reader's eye does not take: written as a sign for it.
SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **dict.fromkeys((*range(128, 160), *range(55296, 57344), 65534, 65535), "�"),
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): " ",
    0x7F: "\u2421",
}


def on_one_line(text: str) -> str:
    """Write a stranger's text so that whatever shows it only shows it."""
    return text.translate(UNSEEN)


def on_its_lines(text: str) -> str:
    """Write a stranger's text likewise, and leave its lines and tabs."""
    return text.translate(LINES)


def visible(text: str) -> str:
    """Replace control characters, which have no form of their own and which XML forbids."""
    return text.translate(SIGNS)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def are(count: int) -> str:
    return f"{count} is" if count == 1 else f"{count} are"


# What terminals without Unicode show instead.
PLAIN_SIGNS = str.maketrans(
    {"█": "#", "…": "...", "×": "x", "–": "-", "—": "-", "“": '"', "”": '"', "’": "'", "µ": "u"}
)


def for_terminal(text: str, encoding: str | None) -> str:
    """Replace characters that the terminal's encoding lacks with plain ones."""
    parts = []
    for character in text:
        plain = character.translate(PLAIN_SIGNS)
        try:
            character.encode(encoding or "utf-8")
            parts.append(character)
        except UnicodeEncodeError:
            parts.append(plain if plain.isascii() else "?")
    return "".join(parts)


score = "{:.3f}".format
change = "{:+.3f}".format
share = "{:.1%}".format
one_decimal = "{:.1f}".format
rate = "{:.2e}".format
# Of both ends.
interval = "[{0[0]:+.3f}, {0[1]:+.3f}]".format
score_interval = "[{0[0]:.3f}, {0[1]:.3f}]".format
share_interval = "[{0[0]:.1%}, {0[1]:.1%}]".format


def format_p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def usd(value: float | None) -> str:
    return "unknown" if value is None else f"${value:.4f}"


def spoken(precision: str) -> str:
    """Write a precision for people: `int8, rescored`."""
    return precision.replace(RESCORED, ", rescored")


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"
