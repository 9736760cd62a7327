"""What commands print fits 80 columns; no name and no number is broken in two or lost."""

import os
import pty
import re
import subprocess
import sys
import termios
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import reports

from job.report.compare_runs import Group
from job.report.document import Exports, Report
from launcher import tables
from launcher.containers.image import Image, Layer
from launcher.export_tables import export_tables
from launcher.plan.checks import CheckResult
from launcher.runs.run import Run

# As long as names may be, and as `embedtune launch` makes them.
NAMES = (f"{'long-' * 8}model-20261128-120000", "bge-base-en-v1-5-20261128-120000-3fa2", "first")
DIMENSIONS = ("1024", "768", "512", "256", "128")
BUCKET = "s3://artifacts-eu-central-1/embedtune"


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def printed(capsys):
    """Print tables and return the lines."""

    def show(parts):
        tables.show(parts)
        return capsys.readouterr().out.splitlines()

    return show


def widest(lines):
    return max(map(len, lines))


def report(name, **changes):
    """Make a report of five dimensions; `changes` are those of `reports.improved`."""
    document = reports.improved(job_name=name, verdict__main_dimension=1024, **changes)
    scores = [
        found[model]
        for found in (document["scores"], document["fusion"]["scores"])
        for model in ("base", "tuned")
    ]
    for found in (*scores, document["comparison"]):
        usual = found["32"]
        found.clear()
        found.update(dict.fromkeys(DIMENSIONS, usual))
    document["fusion"]["comparison"] = dict.fromkeys(
        DIMENSIONS, document["fusion"]["comparison"]["32"]
    )
    return Report.model_validate(document)


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A finished run of each name, its results in S3."""
    made = []
    for name in NAMES:
        (tmp_path / name).mkdir()
        store = SimpleNamespace(
            uri=f"{BUCKET}/{name}", modified_at=lambda _: NOW, read=lambda _: None
        )
        run = Run(tmp_path / name, store)
        run.__dict__["stored_report"] = report(name)
        made.append(run)
    return made


def test_long_names_of_runs_have_lines_of_their_own(runs, printed):
    """A name is followed by its facts, below it; nothing of either is left out."""
    lines = printed(tables.run_lines(runs))
    assert widest(lines) <= 80
    assert lines[0::2] == ["NAME", *NAMES]
    assert lines[1].split() == ["STATE", "WHEN", "(UTC)", "BASE", "→", "TUNED", "IMPROVED"]
    for line in lines[3::2]:
        pattern = r" {4}finished  \d{4}-\d\d-\d\d \d\d:\d\d  \d\.\d{3} → \d\.\d{3} at 32  yes"
        assert re.fullmatch(pattern, line)


def test_short_names_share_a_line_with_their_facts(runs, printed):
    """Two lines a run are for long names only."""
    lines = printed(tables.run_lines(runs[2:]))
    assert [line.split()[0] for line in lines] == ["NAME", "first"]


def test_a_report_fits_80_columns(runs, printed):
    """Five dimensions, and sentences that wrap at spaces, intervals in one piece."""
    run = runs[1]
    lines = printed(
        tables.report_lines(run.stored_report, run.folder.relative_to(run.folder.parent))
    )
    assert widest(lines) <= 80
    assert [row[1:6].strip() for row in lines if row.startswith("│")] == list(DIMENSIONS)
    text = " ".join(lines)
    assert run.stored_report.verdict.sentence in text
    assert run.stored_report.recommendation.sentence in text
    assert all(line.count("[") == line.count("]") for line in lines)


def test_the_table_of_exports_fits_80_columns(printed):
    """No number is cut, for the longest name and the largest model that can be exported."""
    found = Exports.model_validate(reports.measured_exports())
    exports = [
        each.model_copy(update={"name": "openvino-float32", "keeps": False, "bytes": 2_100_000_000})
        for each in found.exports
    ]
    whole = report("first").model_copy(
        update={"exports": [found.model_copy(update={"exports": exports})]}
    )
    lines = printed(export_tables(whole))
    assert widest(lines) <= 80
    assert not [line for line in lines if "…" in line]
    row = next(line for line in lines if "openvino-float32" in line)
    assert row.split("│")[-2].strip() == "2100.0"


@pytest.mark.parametrize("helped", [True, False])
def test_on_a_terminal_a_report_begins_with_the_decision_in_three_lines(printed, tmp_path, helped):
    """Whether it helped, what to deploy, what it took; with the longest numbers, on 80 columns."""
    made = report(
        "first",
        verdict__improved=helped,
        verdict__deploy=helped,
        recommendation__dimension=1024,
        recommendation__precision="int8_rescored",
        recommendation__bytes_per_vector=1024,
        recommendation__sentence="Deploy them."
        if helped
        else "If you deploy this model, use them.",
    )
    lines = printed(tables.decision_lines(made, tmp_path))
    assert widest(lines[:-1]) <= 80
    if helped:
        before, after, found = made.swap.base, made.swap.tuned, made.swap
    else:
        before, after = made.ndcg("base", "1024"), made.ndcg("tuned", "1024")
        found = made.verdict.full_width
    assert lines[0] == (
        f"{'Improved' if helped else 'Not improved'}: nDCG@10 {before:.3f} → {after:.3f}, "
        f"{found.lift:+.3f} [{found.ci[0]:+.3f}, {found.ci[1]:+.3f}]"
    )
    opening = "Deploy" if helped else "If you deploy it:"
    vectors = "1024 dimensions as int8, rescored, 1024 bytes instead of 128"
    assert lines[1] == f"{opening} {vectors}"
    assert lines[2].startswith("Took ")
    assert lines[3:5] == ["", f"first: nDCG@10 on {made.data.queries['test']} test queries"]


@pytest.mark.parametrize("kind", ["tested", "refit", "average", "fold"])
def test_a_report_says_which_model_is_stored(printed, tmp_path, kind):
    """On a terminal in one line, in a pipe with the numbers of the check."""
    found = reports.stored() | {"kind": kind, "pairs": 1_000_000}
    made = Report.model_validate(reports.improved(stored=found))
    lines = printed(tables.decision_lines(made, tmp_path))
    assert widest(lines[:-1]) <= 80
    beginnings = {
        "tested": "a tested model, not",
        "refit": "not the",
        "average": "the average",
        "fold": "the model of one fold",
    }
    assert lines[3].startswith(f"Stored: {beginnings[kind]}")
    assert found["sentence"] in " ".join(printed(tables.report_lines(made, tmp_path)))


def test_a_long_path_is_in_one_piece(runs, printed, tmp_path):
    """It can be copied, however narrow the terminal is."""
    folder = tmp_path / "a folder" / NAMES[0]
    lines = printed(tables.report_lines(runs[0].stored_report, folder))
    assert lines[-2:] == ["Report:", str(folder / "report.html")]


def test_any_number_of_runs_can_be_compared(printed):
    """Each run has its number, so that the table grows downwards."""
    names = [*NAMES, *(f"{BUCKET}/{name}" for name in NAMES[1:])]
    group = Group("a123cee2b45957c6", {name: report(name) for name in names})
    lines = printed(tables.compare_lines(group))
    assert widest(lines) <= 80
    assert [line[3:] for line in lines if re.match(r" \d \S", line)] == names
    rows = [re.findall(r"[^│ ]+", line)[:2] for line in lines if line.startswith("│")]
    assert rows == [[d, str(n)] for d in DIMENSIONS for n in range(1, 6)]


def test_facts_of_a_run_fit_80_columns(runs, printed):
    """The log's last line wraps; an address that is too long begins below its name."""
    run = runs[0]
    run.workspace.logs.mkdir(parents=True)
    sentence = "train: step=30 of 900, loss 0.3, and whatever else is worth a line of the log."
    (run.workspace.logs / "job.log").write_text(f"{sentence}\n", "utf-8")
    lines = printed(tables.status_lines(run))
    assert lines[0] == f"name       {run.name}"
    assert " ".join(" ".join(lines[2:-2]).split()) == f"last line {sentence}"
    assert lines[-2:] == ["results", f"  {run.store.uri}"]
    assert widest(lines[:-1]) <= 80


def test_an_image_fits_80_columns(printed, monkeypatch):
    """Commands are cut at the terminal's edge; a pipe gets them whole."""
    command = "RUN pip install --no-cache-dir 'embedtune[train]' && rm -rf /root/.cache /tmp/*"
    layers = [Layer(80_000_000, ""), Layer(4_321_000_000, command), Layer(0, "ENV A=1")]
    image = Image(f"sha256:{'a1' * 32}", "linux/amd64", 4_401_000_000, {"revision": "0a1b"}, layers)
    lines = printed(tables.image_lines("embedtune", image))
    assert lines == [
        "image     embedtune",
        "id",
        f"  {image.id}",
        "size      4,401 MB",
        "platform  linux/amd64",
        "",
        "revision  0a1b",
        "",
        "      MB  MADE BY",
        "   80.00  the base image",
        f"4,321.00  {command[:69]}…",
    ]
    monkeypatch.delenv("COLUMNS")
    assert printed(tables.image_lines("embedtune", image))[-1].endswith(command)


def test_findings_fit_80_columns(printed):
    """Sentences wrap at spaces; one with a name that is too long begins below its check."""
    role = "arn:aws:iam::123456789012:role/service-role/embedtune-job-role-eu-central-1"
    findings = [
        CheckResult("settings", "ok", "words " * 15),
        CheckResult("role", "missing", f"the role {role} cannot be assumed"),
    ]
    assert printed(tables.check_lines(findings)) == [
        "CHECK     STATE    FOUND",
        f"settings  ok       {'words ' * 10}".rstrip(),
        f"{' ' * 19}{'words ' * 5}".rstrip(),
        "role      missing",
        "  the role",
        f"  {role}",
        "  cannot be assumed",
    ]


SHOW = (
    "from launcher.plan.checks import CheckResult; from launcher import tables; "
    "tables.show(tables.check_lines([CheckResult('role', 'missing', 'words ' * 30)]))"
)


def test_a_pipe_gets_each_row_on_one_line():
    """Programs that read lines find all of a row in one."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-c", SHOW]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert [len(line) for line in done.stdout.splitlines()] == [21, 195]


def test_a_terminals_own_width_counts():
    """Without `COLUMNS` the terminal is asked."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", SHOW], stdout=theirs, check=True, env=environment)
    os.close(theirs)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", os.read(ours, 10_000).decode()).splitlines()
    os.close(ours)
    assert len(lines) == 4
    assert widest(lines) <= 80
