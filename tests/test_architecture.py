"""The direction of imports, and what importing costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for top in ("job", "launcher") for p in (ROOT / top).rglob("*.py"))


def imported_modules(path):
    """Name every module that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def loaded_by(statement):
    """Name the modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    """`job/` knows nothing of `launcher/`, and `launcher/` only the light part of `job/`."""
    ours = {name for name in imported_modules(path) if name.split(".")[0] in ("job", "launcher")}
    if path.is_relative_to(ROOT / "job"):
        assert not [name for name in ours if name.startswith("launcher")]
    else:
        light = (
            "job.spec.schema",
            "job.spec.parse",
            "job.storage.workspace",
            "job.storage.stores",
            "job.storage.s3",
            "job.storage.hub",
            "job.core.errors",
            "job.core.log_lines",
            "job.report.compare",
            "job.report.document",
            "job.evaluation.results",
            "job.core.formatting",
        )
        assert not [n for n in ours if n.startswith("job") and not n.startswith(light)]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["launch", "--help"], ["schema"], ["schema", "--report"]]
)
def test_help_needs_nothing_heavy(arguments):
    """`embedtune --help` loads none of the packages that take seconds to import."""
    heavy = {"torch", "sentence_transformers", "transformers", "datasets", "sagemaker", "boto3"}
    run = f"from click.testing import CliRunner as R; R().invoke(m, {arguments})"
    assert not heavy & loaded_by(f"from launcher.cli import main as m; {run}")


def test_importing_a_job_module_does_nothing():
    """Importing the entry point leaves torch, handlers and folders alone."""
    assert "torch" not in loaded_by("import job.__main__")
