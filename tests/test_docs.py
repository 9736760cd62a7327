"""Documents that cannot lie: generated parts are current, shown commands run."""

import re
import shlex
from pathlib import Path

import pytest

from job.__main__ import train
from job.core.errors import Interrupted
from job.storage.hub import SHARED_CACHE
from job.storage.workspace import DATA_CHANNELS, Workspace
from launcher import reference
from launcher.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CONTRACT = (ROOT / "container" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("text", [README, CONTRACT], ids=["README", "contract"])
def test_the_generated_parts_are_current(text):
    """Command help, spec table and exit codes are those of the code (`make docs`)."""
    assert reference.render(text) == text


def test_the_contract_names_the_workspaces_paths(tmp_path):
    """Each path that the contract promises is where the job looks or writes."""
    place = Workspace(tmp_path)
    hyperparameters = tmp_path / "input" / "config" / "hyperparameters.json"
    known = [place.job_spec, hyperparameters]
    known += [place.channel_folder(name) for name in ("data", "model")]
    known += [place.checkpoints, place.model, place.results, place.failure]
    promised = re.findall(r"(?m)^\| `([\w./]+)`[^|]*\|", CONTRACT)
    assert [tmp_path / path for path in promised if "/" in path] == known
    assert {name for name in DATA_CHANNELS if f"`{name}/`" in CONTRACT} == {*DATA_CHANNELS[1:]}


def test_the_contract_names_the_jobs_variables():
    """Those that the job reads by itself, all of them and no other."""
    files = [ROOT / "job" / name for name in ("__main__.py", "distributed/topology.py")]
    source = "".join(path.read_text("utf-8") for path in files)
    read = set(re.findall(r'"((?:EMBEDTUNE|TRAINING|OMP)_\w+)"', source))
    own = [param.name.upper() for param in train.params if param.allow_from_autoenv]
    read |= {f"{train.context_settings['auto_envvar_prefix']}_{name}" for name in own}
    promised = set(re.findall(r"(?m)^\| `(\w+)`", CONTRACT))
    assert promised - {"HF_HOME", "HF_TOKEN"} == read | {SHARED_CACHE}


def test_the_contract_names_the_exit_code_of_an_interruption():
    assert f"exit with code {Interrupted.exit_code}." in CONTRACT


def test_every_embedtune_command_in_the_readme_is_one_that_exists():
    """Each `embedtune …` line of a code block parses, options included."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for b in blocks for line in b.splitlines() if line.startswith("embedtune ")]
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        command = main.commands[name]
        options = {option for param in command.params for option in param.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, line


def test_every_settable_field_in_the_readme_exists():
    """Each `--set FIELD=…` that the README shows is accepted."""
    fields = set(re.findall(r"--set ([a-z_.]+)=", README))
    known = {name for name, *_ in reference.field_rows()}
    assert fields
    assert fields <= known
