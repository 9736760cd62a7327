"""Where it gained and lost, as Markdown: the users' own texts, which may hold anything."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Whatever Markdown or HTML could take for its own.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$@])")
SHOWN = 5


def where_section(where: Mapping[str, Any], dimension: int) -> str:
    """Render the `where` section of report.json, which is of one dimension."""
    parts = [
        f"All at {dimension} dimensions; ranks are those of the best answer, before → after.",
        _slices(where["slices"]),
        _examples("Gained most", where["gained"]),
        _examples("Lost most", where["lost"]),
        _examples("Found by nothing: is the label right?", where["suspects"]),
        _hubs(where["hubs"]),
    ]
    return "\n\n".join(part for part in parts if part)


def plain(text: str) -> str:
    """Write a text on one line, so that it shows as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _slices(slices: Sequence[Mapping[str, Any]]) -> str:
    if not slices:
        return ""
    rows = [
        "| queries by | | n | base | tuned | lift | 95 % interval |",
        "|:---|:---|---:|---:|---:|---:|:---:|",
    ]
    for found in slices:
        low, high = found["ci"]
        rows.append(
            f"| {plain(found['by'])} | {plain(found['name'])} | {found['queries']} | "
            f"{found['base']:.3f} | {found['tuned']:.3f} | {found['lift']:+.3f} | "
            f"[{low:+.3f}, {high:+.3f}] |"
        )
    return "\n".join(rows)


def _examples(title: str, examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    lines = [f"**{title}**", ""]
    for example in examples[:SHOWN]:
        before, after = (example[key] or "beyond 100" for key in ("rank_base", "rank_tuned"))
        line = f"- {plain(example['query'])} ({before} → {after}); answer: "
        line += plain(example["answer"])
        if example["instead"]:
            line += f"; first instead: {plain(example['instead'])}"
        lines.append(line)
    return "\n".join(lines)


def _hubs(hubs: Sequence[Mapping[str, Any]]) -> str:
    if not hubs:
        return ""
    lines = ["**Documents in the way**: among the first ten of queries that they do not answer", ""]
    for hub in hubs[:SHOWN]:
        times = f"{hub['wrong_hits']} times, {hub['wrong_hits_base']} before"
        lines.append(f"- {times}: {plain(hub['text'])}")
    return "\n".join(lines)
