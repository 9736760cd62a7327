"""Documents that cannot lie: generated parts are current, shown commands run."""

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from launcher import reference
from launcher.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_generated_parts_of_the_readme_are_current():
    """The README's command help, spec table and exit codes are those of the code (`make docs`)."""
    assert reference.render(README) == README


def test_every_embedtune_command_in_the_readme_is_one_that_exists():
    """Each `embedtune …` line of a code block parses, options included."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "embedtune " in line]
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        command = main.commands[name]
        options = {option for param in command.params for option in param.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, line


def test_every_settable_field_in_the_readme_exists(tmp_path, monkeypatch):
    """Each `--set FIELD=…` that the README shows is accepted."""
    monkeypatch.chdir(tmp_path)
    fields = set(re.findall(r"--set ([a-z_.]+)=", README))
    known = {name for name, *_ in reference.field_rows()}
    assert fields
    assert fields <= known


def test_init_then_launch_builds_the_articles_job(tmp_path, monkeypatch):
    """The README's example is accepted as it stands."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(main, ["init"]).exit_code == 0
    done = runner.invoke(main, ["launch", "job.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "philschmid/finanical-rag-embedding-dataset" in done.stdout
