"""Real runs through the command line: their output, their files, and resuming them."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_job import JOB

from job.core.errors import BackendError, DataError, ModelError, OutOfMemory
from job.spec.parse import build_spec
from launcher.backends.process import backend as process
from launcher.cli import main
from launcher.live.view import PlainView
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
# Enough to interrupt the run in the middle, few enough to wait for its end.
EPOCHS = 8
RESULT = {
    *("spec.json", "per_query.parquet"),
    *("report/report.html", "report/report.json", "report/report.md"),
    *("data/train.jsonl", "data/validation.jsonl", "data/test.jsonl"),
    *("data/corpus.jsonl", "data/qrels.tsv", "data/rejected.jsonl"),
    *("logs/job.log", "logs/metrics.jsonl", "logs/tensorboard/EVENTS"),
    *("model/README.md", "model/config.json", "model/config_sentence_transformers.json"),
    *("model/model.safetensors", "model/modules.json", "model/sentence_bert_config.json"),
    *("model/tokenizer.json", "model/tokenizer_config.json", "model/1_Pooling/config.json"),
    *("model/2_Dense/config.json", "model/2_Dense/model.safetensors"),
}


def in_a_shell(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], check=False, capture_output=True, text=True, cwd=folder
    )


def embedtune(folder, *arguments):
    """Run a command that starts no job, in this process."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, arguments)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module", autouse=True)
def _no_settings(tmp_path_factory):
    """Remove settings of the user and of other tests from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "EMBEDTUNE_")):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        # `readline`, which pytest imports, sets it for subprocesses alone.
        patch.setenv("COLUMNS", "1000")
        yield


def files(folder):
    """List the files of a run's folder, with a fixed name for TensorBoard's event file."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {re.sub(r"events\.out\.[^/]+$", "EVENTS", name) for name in names}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def rows(text):
    """Split a printed table into rows of cells."""
    lines = (line for line in text.splitlines() if line.startswith(("┃", "│")))
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


def listing(folder):
    """Return what `ls` shows by run name: state, change of the score, whether it improved."""
    done = embedtune(folder, "ls")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *runs = (re.split(" {2,}", line) for line in done.stdout.splitlines())
    assert heading == ["NAME", "STATE", "WHEN (UTC)", "BASE → TUNED", "IMPROVED"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", when) for _, _, when, *_ in runs)
    return {name: (state, *(found or ("", ""))) for name, state, _, *found in runs}


def load(path):
    return json.loads(path.read_text("utf-8"))


def wait_for(process, path, text=""):
    """Wait until a file contains a text; fail if the process ends before."""
    for _ in range(12_000):
        if path.is_file() and text in path.read_text("utf-8"):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"`{path}` never contained {text!r}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_encoder, pairs_file):
    """The working folder of all commands, with a job file."""
    folder = tmp_path_factory.mktemp("process")
    job = JOB.format(pairs=pairs_file, encoder=tiny_encoder, epochs=EPOCHS)
    (folder / "job.yaml").write_text(job, "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """Launch a run and let it finish."""
    options = ("--name", "whole", "--device", "cpu", "--price-per-hour", "3.6")
    return in_a_shell(folder, "launch", "job.yaml", *options)


@pytest.fixture(scope="module")
def failed(folder):
    """Launch a run with too little data."""
    few = folder / "few.jsonl"
    few.write_text('{"question": "What is it?", "context": "A number"}\n', "utf-8")
    return in_a_shell(folder, "launch", "job.yaml", "--data", few.name, "--name", "failed")


@pytest.fixture(scope="module")
def halted(folder):
    """Launch a run, list it while it is running, and press Ctrl-C during training."""
    run = folder / "runs" / "halted"
    arguments = ["launch", "job.yaml", "--name", "halted", "--device", "cpu"]
    # If pytest itself was started with SIGINT ignored, child processes would ignore it too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        try:
            wait_for(process, run / ".work" / "lock")
            running = listing(folder)
            status = embedtune(folder, "status", "halted").stdout
            second = embedtune(folder, *arguments)
            after_second = files(run)
            wait_for(process, run / ".work/output/data/logs/job.log", "train: step=")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
            signal.signal(signal.SIGINT, before)
    return SimpleNamespace(
        status_while_running=status,
        done=subprocess.CompletedProcess(arguments, process.returncode, out, err),
        files=files(run),
        receipt=load(run / "receipt.json"),
        listing=listing(folder),
        listing_while_running=running,
        second_launch=second,
        files_after_second_launch=after_second,
    )


@pytest.fixture(scope="module")
def resumed(folder, halted):
    """Run the command in the interrupted run's last line."""
    line = halted.done.stderr.splitlines()[-1]
    command, *arguments = shlex.split(line.removeprefix("To resume: "))
    assert command == "embedtune"
    return in_a_shell(folder, *arguments, "--device", "cpu", "--quiet")


# A run that finishes.


def test_a_finished_run_leaves_exactly_the_documented_files(folder, whole):
    """Results, manifest and receipt; the workspace keeps no checkpoints."""
    assert whole.returncode == 0, whole.stderr
    run = folder / "runs" / "whole"
    own = {name for name in files(run) if not name.startswith(".work/")}
    assert own == RESULT | {"manifest.json", "receipt.json"}
    assert not (run / ".work" / "checkpoints").exists()
    assert not (run / ".work" / "output" / "failure").exists()


def test_the_manifest_lists_every_file_with_its_size_and_digest(folder, whole):
    """Copies of a run can be verified; every file is readable for all users of the folder."""
    run = folder / "runs" / "whole"
    manifest = load(run / "manifest.json")
    assert {re.sub(r"events\.out\.[^/]+$", "EVENTS", name) for name in manifest} == RESULT
    for name, entry in manifest.items():
        data = (run / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        # By default only the owner can read saved weights; in a container that may be root.
        assert (run / name).stat().st_mode & 0o444 == 0o444


def test_the_receipt_holds_exit_code_duration_and_cost(folder, whole):
    """$3.6 per hour is 0.1 cent per second."""
    receipt = load(folder / "runs" / "whole" / "receipt.json")
    seconds, usd = receipt.pop("seconds"), receipt.pop("usd")
    assert receipt == {"backend": "process", "exit_code": 0}
    report = load(folder / "runs" / "whole" / "report" / "report.json")
    assert seconds > sum(report["seconds"].values())
    assert usd == pytest.approx(seconds / 1000, abs=1e-4)


def test_the_comparison_is_printed_on_stdout(folder, whole):
    """Scores of BM25, base and tuned at every dimension, verdict, recommendation, cost, path."""
    report = load(folder / "runs" / "whole" / "report" / "report.json")
    lines = whole.stdout.splitlines()
    assert lines[0].rstrip() == "whole: nDCG@10 on 40 test queries"
    table = rows(whole.stdout)
    assert table[0] == ["dim", "BM25", "base", "tuned", "lift", "95 % interval", "p", "kept"]
    assert [row[0] for row in table[1:]] == ["64", "32", "16"]
    for dimension, bm25, base, tuned, lift, *_ in table[1:]:
        assert bm25 == f"{report['scores']['bm25']['ndcg@10']:.3f}"
        for model, shown in (("base", base), ("tuned", tuned)):
            score = report["scores"][model][dimension]["float32"]["ndcg@10"]
            assert shown == f"{score:.3f}"
        assert lift == f"{report['comparison'][dimension]['float32']['lift']:+.3f}"

    seconds, cost = sum(report["seconds"].values()), report["cost"]
    assert lines[-5:] == [
        report["verdict"]["sentence"],
        report["recommendation"]["sentence"],
        report["scope"]["corpus_sentence"],
        f"Took {seconds:.0f} s, ${cost['usd']:.4f} ({cost['basis']})",
        "Report: runs/whole/report/report.html",
    ]


def test_progress_goes_to_stderr_and_into_the_log(folder, whole):
    """First the path of the results, then the stages in order; no line is redrawn."""
    first, *log = whole.stderr.splitlines()
    assert first == "Run whole; results will be in runs/whole"
    stages = [m[1] for line in log if (m := re.search(r"Z ([a-z ]+): (?:start|done)", line))]
    names = [
        "fetch",
        "data",
        "model",
        "proof",
        "score base",
        "train",
        "score tuned",
        "compare",
        "store",
    ]
    names.append("publish")
    assert stages == [name for name in names for _ in ("start", "done")]
    assert "Traceback" not in whole.stderr
    # A pipe gets no escape codes.
    assert not {"\r", "\x1b"} & {*whole.stderr, *whole.stdout}
    # `logs/job.log` contains the job's own lines.
    own = (folder / "runs" / "whole" / "logs" / "job.log").read_text("utf-8").splitlines()
    lines = [line for line in log if re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert own == lines[: len(own)]
    assert any("verdict: Improved." in line for line in own)


def test_launching_a_finished_run_again_changes_nothing(folder, whole):
    """With its spec or by its name, the report is shown again; another spec is refused."""
    before = times(folder / "runs" / "whole")
    for arguments in (["job.yaml"], []):
        again = embedtune(folder, "launch", *arguments, "--name", "whole", "--device", "cpu")
        assert (again.returncode, again.stdout) == (0, whole.stdout)
        assert again.stderr == "The run whole has already finished; nothing was changed.\n"
    settings = ("--set", "training.epochs=1", "--set", "data.seed=7")
    done = embedtune(folder, "launch", "job.yaml", "--name", "whole", *settings)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.match(
        r"Error: `runs/whole[^`]*` .* differ: `data\.seed`, `training\.epochs`\.", done.stderr
    )
    assert times(folder / "runs" / "whole") == before


def test_an_unmet_requirement_has_an_exit_code(folder, whole):
    """The report is still shown; the error line names the bound that was not reached."""
    met = embedtune(folder, "report", "whole", "--require", "lift>0")
    assert (met.returncode, met.stdout) == (0, whole.stdout)
    missed = embedtune(folder, "report", "whole", "--require", "lift>1 at 64")
    assert (missed.returncode, missed.stdout) == (9, whole.stdout)
    assert missed.stderr.startswith("Error: Required: `lift>1 at 64`, but the interval of 64 ")
    again = embedtune(folder, "launch", "--name", "whole", "--require", "ndcg@10>1")
    assert again.returncode == 9


# A run that fails.


def test_a_failed_run_ends_with_the_jobs_line_and_code(folder, failed):
    """The launcher exits with the job's code; the receipt records it; there is no manifest."""
    run = folder / "runs" / "failed"
    assert (failed.returncode, failed.stdout) == (DataError.exit_code, "")
    line = (run / ".work" / "output" / "failure").read_text("utf-8")
    assert line.startswith("`few.jsonl` has 0 test queries")
    assert failed.stderr.endswith(f"\nError: {line}")
    receipt = load(run / "receipt.json")
    assert (receipt["exit_code"], receipt["usd"]) == (4, None)
    assert not (run / "manifest.json").exists()


# A run that is interrupted and resumed.


def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint(halted):
    """Exit code 10, the last step, the command to resume, and a checkpoint of that step."""
    assert (halted.done.returncode, halted.done.stdout) == (10, "")
    *_, reason, how = halted.done.stderr.splitlines()
    interrupted = r"Error: The run was interrupted after step (\d+) of 80\. Relaunch it .*"
    step = int(re.fullmatch(interrupted, reason)[1])
    assert how == "To resume: embedtune launch --name halted --device cpu"
    assert 0 < step < 80
    assert f".work/checkpoints/checkpoint-{step}/trainer_state.json" in halted.files
    # No partial results are published; `spec.json` reserves the name for this job.
    own = {name for name in halted.files if not name.startswith(".work/")}
    assert own == {"receipt.json", "spec.json"}
    assert halted.receipt["exit_code"] == 10


def test_quiet_shows_the_result_alone(resumed):
    """No log line, and no word about the run; a library may still warn."""
    assert resumed.stdout.startswith("halted: nDCG@10 on 40 test queries")
    lines = resumed.stderr.splitlines()
    assert not [line for line in lines if re.match(r"\d{4}-|Run ", line)]


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(folder, whole, halted, resumed):
    """Files, splits, scores of every query, verdict and weights are identical."""
    assert resumed.returncode == 0, resumed.stderr
    assert "do not match the ones in" not in resumed.stderr
    runs = folder / "runs"
    both = ("whole", "halted")
    one, other = (load(runs / name / "report" / "report.json") for name in both)
    for section in ("scores", "comparison", "verdict", "recommendation", "data", "prompts", "spec"):
        assert other[section] == one[section], section
    ranks = [pq.read_table(runs / name / "per_query.parquet") for name in both]
    assert ranks[0].equals(ranks[1])

    step = re.search(r"interrupted after step (\d+)", halted.done.stderr)[1]
    expected = one["training"] | {"resumed_from_step": int(step)}
    assert expected["steps"] == 80
    for field in ("steps", "best_step", "best_validation", "resumed_from_step", "hyperparameters"):
        assert other["training"][field] == expected[field], field
    assert files(runs / "halted") == files(runs / "whole")
    weights = [load(runs / name / "manifest.json")["model/model.safetensors"] for name in both]
    assert weights[0] == weights[1]
    assert load(runs / "halted" / "receipt.json")["exit_code"] == 0


def test_a_running_run_cannot_be_launched_again(halted):
    """The second launch exits with code 6 and writes nothing into the run's folder."""
    assert (halted.second_launch.returncode, halted.second_launch.stdout) == (6, "")
    assert "Another process is working on " in halted.second_launch.stderr.splitlines()[-1]
    assert "receipt.json" not in halted.files_after_second_launch
    assert ".work/output/failure" not in halted.files_after_second_launch


# What `status`, `logs` and `stop` do with these runs.


def test_status_shows_a_running_job_and_its_end(folder, halted, failed):
    """The process while it runs; afterwards the last line and the meaning of the exit code."""
    assert re.search(r"(?m)^state +running *$", halted.status_while_running)
    assert re.search(r"(?m)^job +process \d+ *$", halted.status_while_running)
    shown = embedtune(folder, "status", "failed").stdout
    assert re.search(r"(?m)^state +failed *$", shown)
    assert re.search(r"(?m)^exit code +4, the data cannot be read", shown)
    assert re.search(r"(?m)^last line +`few\.jsonl` has 0 test queries", shown)


def test_logs_go_to_stdout_and_following_exits_with_the_jobs_code(folder, whole, failed):
    """So a script that follows a job notices its failure."""
    log = (folder / "runs" / "whole" / "logs" / "job.log").read_text("utf-8")
    assert embedtune(folder, "logs", "whole").stdout == log
    followed = embedtune(folder, "logs", "whole", "--follow")
    assert (followed.returncode, followed.stdout) == (0, log)
    failure = embedtune(folder, "logs", "failed", "--follow")
    assert failure.stdout.splitlines()[-1].startswith("`few.jsonl` has 0 test queries")
    assert failure.returncode == DataError.exit_code


@pytest.mark.exhaustive
def test_a_job_is_followed_and_stopped_from_another_shell(folder):
    """`logs -f` shows the log to its end and exits with the job's code; `stop` waits."""
    run = folder / "runs" / "watched"
    arguments = ["launch", "job.yaml", "--name", "watched", "--device", "cpu"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*COMMAND, *arguments], cwd=folder, **quiet) as launcher:
        try:
            wait_for(launcher, run / ".work" / "launch.json")
            wait_for(launcher, run / ".work/output/data/logs/job.log", "fetch: start")
            follower = subprocess.Popen(
                [*COMMAND, "logs", "watched", "--follow"], cwd=folder, stdout=subprocess.PIPE
            )
            wait_for(launcher, run / ".work/output/data/logs/job.log", "train: step=")
            stopped = embedtune(folder, "stop", "watched")
            assert (stopped.returncode, stopped.stderr) == (0, "The run watched is unfinished.\n")
            assert launcher.wait(timeout=300) == 10
        finally:
            launcher.kill()
    log, _ = follower.communicate(timeout=300)
    assert follower.returncode == 10
    text = (run / ".work/output/data/logs/job.log").read_text("utf-8")
    # If the job has ended before it starts to follow, the reason comes too.
    assert log.decode() in (text, text + (run / ".work/output/failure").read_text("utf-8"))
    assert list((run / ".work" / "checkpoints").glob("checkpoint-*"))
    again = embedtune(folder, "stop", "watched")
    assert (again.returncode, "there is nothing to stop" in again.stderr) == (0, True)
    shutil.rmtree(run)


# Jobs that are killed.


COUNT = "nr_free_pages 7\noom_kill 3\n"


@pytest.mark.parametrize(
    ("number", "before", "after", "error", "advice"),
    [
        # The kernel's counter of processes killed for lack of memory has increased.
        (9, COUNT, "oom_kill 4", OutOfMemory, "`training.mini_batch_size`"),
        (9, COUNT, "oom_kill 3", BackendError, "SIGKILL"),
        (9, "nr_free_pages 7\n", "nr_free_pages 7", BackendError, "SIGKILL"),
        # Another process was killed for lack of memory, while the job crashed.
        (11, COUNT, "oom_kill 9", BackendError, "SIGSEGV"),
    ],
    ids=["out of memory", "not out of memory", "no counter", "another process"],
)
def test_a_job_that_was_killed_is_explained(
    tiny_spec, tmp_path, monkeypatch, number, before, after, error, advice
):
    """The class and exit code of the failure depend on the cause; the receipt records the code."""
    kills = tmp_path / "vmstat"
    kills.write_text(before, "utf-8")
    monkeypatch.setattr(process, "OOM_COUNTERS", (tmp_path / "no cgroup", kills))
    plan = Plan("killed", tiny_spec(), MachineOptions("process"))
    code = (
        f"import os, pathlib; pathlib.Path({str(kills)!r}).write_text({after!r}); "
        f"os.kill(os.getpid(), {number})"
    )
    request = process.request(plan) | {"argv": [sys.executable, "-c", code]}
    job = process.submit(plan, request)
    job.follow_logs(PlainView(sys.stderr), stop_on_interrupt=True)
    with pytest.raises(error, match=advice):
        job.outcome()
    assert load(plan.folder / "receipt.json")["exit_code"] == error.exit_code


# Folders without permission.


@pytest.mark.parametrize(
    ("field", "error"), [("data.source", DataError), ("model.base", ModelError)]
)
def test_an_input_in_an_unreadable_folder_is_one_line(forbidden, field, error):
    """Whether the path exists cannot be known; there is no traceback."""
    path = str(forbidden / "within")
    spec = build_spec({}, {"data.source": "s3://box/pairs.jsonl", field: path})
    with pytest.raises(error) as caught:
        _ = Plan("run", spec, MachineOptions("process")).inputs
    assert path in str(caught.value)


# What `ls` and `report` show.


def test_the_listing_shows_the_state_of_each_run(folder, whole, failed, halted, resumed):
    """Running, unfinished, failed or finished; a finished run has its scores."""
    report = load(folder / "runs" / "whole" / "report" / "report.json")
    swap = report["swap"]
    scores = f"{swap['base']:.3f} → {swap['tuned']:.3f} at {swap['dimension']}"
    gained = ("finished", scores, "yes")

    assert halted.listing_while_running["halted"] == ("running", "", "")
    assert halted.listing["halted"] == ("unfinished", "", "")
    everything = {"whole": gained, "halted": gained, "failed": ("failed", "", "")}
    assert listing(folder) == everything


def test_a_report_is_shown_again_unchanged(folder, whole, resumed):
    """By its run's name, or without a name for the latest finished run."""
    assert embedtune(folder, "report", "whole").stdout == whole.stdout
    assert embedtune(folder, "report", "halted").stdout == resumed.stdout
    assert embedtune(folder, "report").stdout == resumed.stdout
    elsewhere = embedtune(folder.parent, "report", "whole", "--output", str(folder / "runs"))
    assert elsewhere.stdout == whole.stdout.replace("runs/", f"{folder / 'runs'}/")


def test_a_report_can_be_opened_in_a_browser(folder, whole, monkeypatch):
    """The printed report stays the same."""
    opened = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr("launcher.cli.click.launch", opened.append)
    done = CliRunner().invoke(main, ["report", "whole", "--open"])
    CliRunner().invoke(main, ["report", "whole"])
    assert opened == ["runs/whole/report/report.html"]
    assert done.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
