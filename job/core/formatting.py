"""Formats of numbers and names, the same in every view of a report."""

RESCORED = "_rescored"
# Escapes for characters that control a terminal, break a line or reverse its direction.
ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for span in ((0, 0x20), (0x7F, 0xA0), (0x2028, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000))
    for code in range(*span)
}
ESCAPES_KEEPING_LINES = {code: sign for code, sign in ESCAPES.items() if chr(code) not in "\t\n"}

# Visible replacements for characters that XML forbids or a reader cannot see.
VISIBLE_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **dict.fromkeys((*range(128, 160), *range(55296, 57344), 65534, 65535), "�"),
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): " ",
    0x7F: "\u2421",
}


def escape_to_one_line(text: str) -> str:
    """Escape control characters and line breaks in untrusted text."""
    return text.translate(ESCAPES)


def escape_keeping_lines(text: str) -> str:
    """Escape control characters in untrusted text; keep its line breaks and tabs."""
    return text.translate(ESCAPES_KEEPING_LINES)


def visible(text: str) -> str:
    """Replace control characters by visible signs; XML forbids them."""
    return text.translate(VISIBLE_SIGNS)


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
# `[low, high]`, both ends formatted.
interval = "[{0[0]:+.3f}, {0[1]:+.3f}]".format
score_interval = "[{0[0]:.3f}, {0[1]:.3f}]".format
share_interval = "[{0[0]:.1%}, {0[1]:.1%}]".format


def format_p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def usd(value: float | None) -> str:
    return "unknown" if value is None else f"${value:.4f}"


def precision_label(precision: str) -> str:
    """Return the label of a precision, such as `int8, rescored`."""
    return precision.replace(RESCORED, ", rescored")


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"
