"""The documents agree with the code: generated parts, commands, fields, links."""

import re
import shlex
from collections import Counter
from pathlib import Path

import click
import pytest

from job.__main__ import train
from job.core.errors import Interrupted
from job.runtime.libraries import VARIABLES
from job.storage.hub import SHARED_CACHE
from job.storage.workspace import DATA_CHANNELS, Workspace
from launcher import reference
from launcher.cli import main

ROOT = Path(__file__).parents[1]
FOLDERS = ("job", "launcher", "container", "infra", "tests")
# README, CONTRIBUTING, CHANGELOG, SECURITY, LOG: not templates and golden files.
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md")))
    if path.stem.isupper()
)
READMES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in DOCUMENTS
    if path.stem == "README"
}
CONTRACT = READMES["container/README.md"]
FENCE = re.compile(r"(?ms)^```.*?^```$")
LINK = re.compile(
    r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)|(?:src|href)=\"([^\"]+)\"", re.MULTILINE
)


@pytest.mark.parametrize("text", READMES.values(), ids=READMES)
def test_the_generated_parts_are_current(text):
    """Command help, spec table and exit codes are those of the code (`make docs`)."""
    assert reference.render(text) == text


def test_each_generated_part_is_in_one_readme():
    names = Counter(
        name for text in READMES.values() for _, name, _ in reference.PART.findall(text)
    )
    assert names == Counter([*reference.PARTS])


def test_the_front_page_is_short_and_shows_a_report():
    picture = "docs/report.png"
    assert len(READMES["README.md"].splitlines()) <= 220
    assert f"]({picture})" in READMES["README.md"]
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / picture).stat().st_size < 200_000


def test_the_contract_names_the_workspaces_paths(tmp_path):
    """Each path that the contract promises is where the job looks or writes."""
    place = Workspace(tmp_path)
    hyperparameters = tmp_path / "input" / "config" / "hyperparameters.json"
    known = [place.job_spec, hyperparameters]
    known += [place.channel_folder(name) for name in ("data", "llm", "model")]
    known += [place.checkpoints, place.model, place.results, place.failure]
    promised = re.findall(r"(?m)^\| `([\w./]+)`[^|]*\|", CONTRACT)
    assert [tmp_path / path for path in promised if "/" in path] == known
    assert {name for name in DATA_CHANNELS if f"`{name}/`" in CONTRACT} == {*DATA_CHANNELS[1:]}


def test_the_contract_names_the_jobs_variables():
    """Those that the job reads by itself, all of them and no other."""
    files = ("__main__.py", "distributed/topology.py", "storage/aws_session.py")
    files += ("generation/llm/openai.py",)
    source = "".join((ROOT / "job" / name).read_text("utf-8") for name in files)
    read = set(re.findall(r'"((?:EMBEDTUNE|TRAINING|OMP)_\w+)"', source))
    own = [param.name.upper() for param in train.params if param.allow_from_autoenv]
    read |= {f"{train.context_settings['auto_envvar_prefix']}_{name}" for name in own}
    promised = set(re.findall(r"(?m)^\| `(\w+)`", CONTRACT))
    assert promised - {"HF_HOME", "HF_TOKEN", *VARIABLES} == read | {SHARED_CACHE}


def test_the_contract_names_the_exit_code_of_an_interruption():
    assert f"exit with code {Interrupted.exit_code}." in CONTRACT


def embedtune_commands():
    """Yield each `embedtune …` line of a bash block and each inline command, with its README."""
    for name, text in READMES.items():
        for block in re.findall(r"(?ms)^```bash\n(.*?)^```$", text):
            yield from (
                (name, line) for line in block.splitlines() if line.startswith("embedtune ")
            )
        inline = re.findall(r"(?<!`)`(embedtune [^`]+)`", FENCE.sub("", text))
        yield from ((name, line) for line in inline)


@pytest.mark.parametrize(("name", "line"), sorted(set(embedtune_commands())))
def test_every_embedtune_command_parses(name, line):
    """Its command exists and takes these options."""
    _, *arguments = shlex.split(line, comments=True)
    command = main
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        command = command.commands[arguments.pop(0)]
    command.make_parser(click.Context(command)).parse_args(arguments)


@pytest.mark.parametrize("text", READMES.values(), ids=READMES)
def test_every_field_exists(text):
    """Each `--set FIELD=…`, and each `section.field` in code style, is a field of the spec."""
    sections = "data|generation|model|training|evaluation|output"
    fields = {*re.findall(r"--set ([a-z_.]+)=", text)}
    fields |= {*re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:=[^`]*)?`", text)}
    assert fields - {"model.tar.gz"} <= {name for name, *_ in reference.field_rows()}


def anchors(text):
    """Return the anchors that GitHub gives to the headings of a Markdown text."""
    found = Counter()
    names = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.+?)[ #]*$", FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def broken_links(path):
    """List the relative links of a document whose file or heading does not exist."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text("utf-8")))
    targets = ["".join(groups) for groups in LINK.findall(text)]
    return [t for t in targets if not re.match(r"[a-z]+:", t) and not leads_somewhere(path, t)]


def leads_somewhere(path, target):
    file, _, anchor = target.partition("#")
    goal = (path.parent / file).resolve() if file else path
    if not goal.exists() or (path.is_relative_to(ROOT) and not goal.is_relative_to(ROOT)):
        return False
    return not anchor or (goal.suffix == ".md" and anchor in anchors(goal.read_text("utf-8")))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path):
    assert broken_links(path) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One\n## Two: `a` & b\n## One\n```\n# No\n```\n", "utf-8")
    good = ["other.md", "other.md#one", "other.md#one-1", "other.md#two-a--b", "https://x.y/z"]
    bad = ["gone.md", "other.md#one-2", "other.md#no", "#nothing"]
    page.write_text("".join(f"- [to `it`]({target})\n" for target in good + bad), "utf-8")
    assert broken_links(page) == bad
