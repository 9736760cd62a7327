"""Write pairs from the docstrings of installed packages: the first line, and the text below it.

A third data set besides finance and AWS, made where it is needed. Names and signatures are left
out, so that a pair is found by what its texts say.
"""

import argparse
import ast
import inspect
import json
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

# Dependencies of the job whose docstrings describe functions at length.
PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
MIN_WORDS, MAX_WORDS = 30, 300
MIN_SUMMARY_WORDS = 4
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def pairs_of(source: str) -> Iterator[tuple[str, str]]:
    """Yield (first line, up to 300 words below it) of the public docstrings in Python code."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, DOCUMENTED) or node.name.startswith("_"):
            continue
        summary, _, rest = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n\n")
        words = rest.split()
        if len(summary.split()) >= MIN_SUMMARY_WORDS and len(words) >= MIN_WORDS:
            yield " ".join(summary.split()), " ".join(words[:MAX_WORDS])


def all_pairs(packages: tuple[str, ...] = PACKAGES) -> list[dict[str, str]]:
    """Return the pairs of packages, each text once, in the order of their files."""
    found: dict[str, dict[str, str]] = {}
    contexts: set[str] = set()
    for package in packages:
        folder = Path(str(find_spec(package).origin)).parent
        for file in sorted(folder.rglob("*.py")):
            if {"tests", "test"} & set(file.relative_to(folder).parts):
                continue
            try:
                pairs = list(pairs_of(file.read_text("utf-8")))
            except SyntaxError:  # a file for newer versions of Python
                continue
            for summary, context in pairs:
                if summary not in found and context not in contexts:
                    contexts.add(context)
                    found[summary] = {"anchor": summary, "positive": context, "package": package}
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="a new .jsonl file")
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    pairs = all_pairs()
    chosen = random.Random(options.seed).sample(pairs, min(options.rows, len(pairs)))
    with options.to.open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in chosen)
    print(f"{len(chosen)} of {len(pairs)} pairs of {', '.join(PACKAGES)} in {options.to}")


if __name__ == "__main__":
    main()
