"""What importing costs, at run time; import-linter checks the direction of imports."""

import json
import subprocess
import sys
from pkgutil import walk_packages

import pytest

import launcher
from launcher.cli import main

# Every third-party package that a command of the launcher may need, but for Click.
HEAVY = {
    *("pydantic", "pydantic_core", "yaml", "rich", "structlog", "jinja2", "markupsafe"),
    *("boto3", "botocore", "sagemaker", "huggingface_hub", "pathspec"),
    *("numpy", "scipy", "pyarrow", "datasets", "datasketch", "bm25s", "matplotlib"),
    *("psycopg", "pgvector", "qdrant_client"),
    *("torch", "sentence_transformers", "transformers", "accelerate", "tensorboard"),
}


def loaded_by(statement):
    """Return the names of the modules that a statement loads in a fresh interpreter."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by_command(arguments):
    run = f"from click.testing import CliRunner as R; R().invoke(m, {arguments})"
    return loaded_by(f"from launcher.cli import main as m; {run}")


@pytest.mark.parametrize("path", [[], *([name] for name in main.commands), ["image", "build"]])
def test_help_needs_only_click(path):
    """`embedtune --help`, and that of each command, loads no other third-party package."""
    assert not HEAVY & loaded_by_command([*path, "--help"])


def test_the_only_third_party_package_imported_at_start_is_click():
    """Of `embedtune --help`; the rest is Python's own or ours."""
    ours = {"job", "launcher"}
    loaded = {name.partition(".")[0] for name in loaded_by_command(["--help"]) - loaded_by("pass")}
    assert loaded - ours - sys.stdlib_module_names == {"click"}


@pytest.mark.parametrize("arguments", [["schema"], ["schema", "--report"]])
def test_a_schema_needs_only_pydantic(arguments):
    """The JSON Schema comes from the models alone."""
    assert HEAVY & loaded_by_command(arguments) == {"pydantic", "pydantic_core"}


def test_the_launcher_never_loads_torch():
    """All its modules together import nothing that imports torch, numpy or a plotting library."""
    names = [found.name for found in walk_packages(launcher.__path__, "launcher.")]
    assert len(names) > 40
    loaded = loaded_by(f"import {', '.join(names)}")
    assert not loaded & {"torch", "transformers", "numpy", "pyarrow", "matplotlib", "sagemaker"}


def test_importing_a_job_module_does_nothing():
    """Importing the entry point loads no torch."""
    assert "torch" not in loaded_by("import job.__main__")
