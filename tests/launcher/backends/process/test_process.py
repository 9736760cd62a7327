"""Real runs through the command line: what they print, what they leave, and how they resume."""

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
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
# Long enough to be hit in the middle, short enough to be waited for.
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
    """Forget what whoever runs the tests, or another test, has set for themselves."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "EMBEDTUNE_")):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        yield


def files(folder):
    """Name the files of a run's folder; the name of the event file is its writer's own."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {re.sub(r"events\.out\.[^/]+$", "EVENTS", name) for name in names}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def rows(text):
    """Cut a printed table into its rows' cells."""
    lines = (line for line in text.splitlines() if line.startswith(("┃", "│")))
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


def listing(folder):
    """List the runs: each name with its state, what it changed and whether that is better."""
    done = embedtune(folder, "ls")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *runs = rows(done.stdout)
    assert heading == ["name", "state", "when (UTC)", "base → tuned", "improved"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", when) for _, _, when, _, _ in runs)
    return {name: (state, change, better) for name, state, _, change, better in runs}


def load(path):
    return json.loads(path.read_text("utf-8"))


def wait_for(process, path, text=""):
    """Wait until a file of a living process holds a text."""
    for _ in range(12_000):
        if path.is_file() and text in path.read_text("utf-8"):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"`{path}` never held {text!r}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_encoder, pairs_file):
    """The current folder of every command here: a job file beside its `runs`."""
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
    """Launch a run, look at it while it works, and press Ctrl-C in the middle of its training."""
    run = folder / "runs" / "halted"
    arguments = ["launch", "job.yaml", "--name", "halted", "--device", "cpu"]
    # Where we ourselves were started to ignore SIGINT, our children would ignore it too.
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
    """Do what the interrupted run's last line says."""
    line = halted.done.stderr.splitlines()[-1]
    command, *arguments = shlex.split(line.removeprefix("To resume: "))
    assert command == "embedtune"
    return in_a_shell(folder, *arguments, "--device", "cpu")


# A run that finishes.


def test_a_finished_run_leaves_exactly_the_documented_files(folder, whole):
    """Results, manifest and receipt; in the workspace no checkpoints, which only cost space."""
    assert whole.returncode == 0, whole.stderr
    run = folder / "runs" / "whole"
    own = {name for name in files(run) if not name.startswith(".work/")}
    assert own == RESULT | {"manifest.json", "receipt.json"}
    assert not (run / ".work" / "checkpoints").exists()
    assert not (run / ".work" / "output" / "failure").exists()


def test_the_manifest_lists_every_file_with_its_size_and_digest(folder, whole):
    """Who copied a run can prove it; who may read the folder may read each file of it."""
    run = folder / "runs" / "whole"
    manifest = load(run / "manifest.json")
    assert {re.sub(r"events\.out\.[^/]+$", "EVENTS", name) for name in manifest} == RESULT
    for name, entry in manifest.items():
        data = (run / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        # Weights are saved for their owner only by default, which is root in a container.
        assert (run / name).stat().st_mode & 0o444 == 0o444


def test_the_receipt_says_what_only_the_launcher_knows(folder, whole):
    """Exit code, seconds from start to end, and their price: $3.6 an hour is 0.1 cent a second."""
    receipt = load(folder / "runs" / "whole" / "receipt.json")
    seconds, usd = receipt.pop("seconds"), receipt.pop("usd")
    assert receipt == {"backend": "process", "exit_code": 0}
    report = load(folder / "runs" / "whole" / "report" / "report.json")
    assert seconds > sum(report["seconds"].values())
    assert usd == pytest.approx(seconds / 1000, abs=1e-4)


def test_the_comparison_is_printed_on_stdout(folder, whole):
    """BM25, base and tuned at every dimension, the verdict, what to deploy, cost and place."""
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
    assert lines[-4:] == [
        report["verdict"]["sentence"],
        report["recommendation"]["sentence"],
        f"Took {seconds:.0f} s, ${cost['usd']:.4f} ({cost['basis']})",
        "Report: runs/whole/report/report.html",
    ]


def test_talk_goes_to_stderr_and_into_the_log(folder, whole):
    """First where the results will be, then the stages in their order; nothing redraws itself."""
    first, *log = whole.stderr.splitlines()
    assert first == "Run whole; results will be in runs/whole"
    stages = [m[1] for line in log if (m := re.search(r"Z ([a-z ]+): (?:start|done)", line))]
    names = ["fetch", "data", "model", "score base", "train", "score tuned", "compare", "store"]
    assert stages == [name for name in names for _ in ("start", "done")]
    assert "Traceback" not in whole.stderr
    assert "\r" not in whole.stderr
    # `logs/job.log` is the job's own talk, line by line.
    own = (folder / "runs" / "whole" / "logs" / "job.log").read_text("utf-8").splitlines()
    said = [line for line in log if re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert own == said[: len(own)]
    assert any("verdict: Improved." in line for line in own)


def test_launching_a_finished_run_again_changes_nothing(folder, whole):
    """With its spec or by its name: it says so and shows the report; another spec is refused."""
    before = times(folder / "runs" / "whole")
    for arguments in (["job.yaml"], []):
        again = embedtune(folder, "launch", *arguments, "--name", "whole", "--device", "cpu")
        assert (again.returncode, again.stdout) == (0, whole.stdout)
        assert again.stderr == "The run whole is finished already; nothing was changed.\n"
    settings = ("--set", "training.epochs=1", "--set", "data.seed=7")
    done = embedtune(folder, "launch", "job.yaml", "--name", "whole", *settings)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.match(
        r"Error: `runs/whole[^`]*` .* differ: `data\.seed`, `training\.epochs`\.", done.stderr
    )
    assert times(folder / "runs" / "whole") == before


def test_a_pipeline_sees_by_the_exit_code_what_was_not_reached(folder, whole):
    """The report is shown all the same; the line says which bound fell short."""
    met = embedtune(folder, "report", "whole", "--require", "lift>0")
    assert (met.returncode, met.stdout) == (0, whole.stdout)
    missed = embedtune(folder, "report", "whole", "--require", "lift>1 at 64")
    assert (missed.returncode, missed.stdout) == (9, whole.stdout)
    assert missed.stderr.startswith("Error: Required: `lift>1 at 64`; the interval at 64 ")
    again = embedtune(folder, "launch", "--name", "whole", "--require", "ndcg@10>1")
    assert again.returncode == 9


# A run that fails.


def test_a_failed_run_ends_with_the_jobs_line_and_code(folder, failed):
    """The job's exit code is the launcher's; the receipt keeps it, and there is no manifest."""
    run = folder / "runs" / "failed"
    assert (failed.returncode, failed.stdout) == (DataError.exit_code, "")
    line = (run / ".work" / "output" / "failure").read_text("utf-8")
    assert line.startswith("`few.jsonl` has 0 test queries")
    assert failed.stderr.endswith(f"\nError: {line}")
    receipt = load(run / "receipt.json")
    assert (receipt["exit_code"], receipt["usd"]) == (4, None)
    assert not (run / "manifest.json").exists()


# A run that is interrupted and taken up again.


def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint(halted):
    """Exit code 10, the step it came to, the way to go on, and a checkpoint of that very step."""
    assert (halted.done.returncode, halted.done.stdout) == (10, "")
    *_, reason, how = halted.done.stderr.splitlines()
    interrupted = r"Error: The run was interrupted after step (\d+) of 80\. Launch it again .*"
    step = int(re.fullmatch(interrupted, reason)[1])
    assert how == "To resume: embedtune launch --name halted --device cpu"
    assert 0 < step < 80
    assert f".work/checkpoints/checkpoint-{step}/trainer_state.json" in halted.files
    # Nothing is published that could pass for a result; the spec keeps the name for this job.
    own = {name for name in halted.files if not name.startswith(".work/")}
    assert own == {"receipt.json", "spec.json"}
    assert halted.receipt["exit_code"] == 10


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(folder, whole, halted, resumed):
    """Not about as well: the same files, splits, scores of every query, verdict and weights."""
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


def test_a_run_that_is_being_worked_on_is_left_alone(halted):
    """A second launch of it ends with code 6 and writes nothing into the first one's folder."""
    assert (halted.second_launch.returncode, halted.second_launch.stdout) == (6, "")
    assert "Another process is working on " in halted.second_launch.stderr.splitlines()[-1]
    assert "receipt.json" not in halted.files_after_second_launch
    assert ".work/output/failure" not in halted.files_after_second_launch


# What `status`, `logs` and `stop` make of them.


def test_status_shows_a_running_job_and_its_end(folder, halted, failed):
    """Where it runs while it does; afterwards the last line and the exit code in words."""
    assert re.search(r"(?m)^state +running *$", halted.status_while_running)
    assert re.search(r"(?m)^job +process \d+ *$", halted.status_while_running)
    shown = embedtune(folder, "status", "failed").stdout
    assert re.search(r"(?m)^state +failed *$", shown)
    assert re.search(r"(?m)^exit code +4, the data cannot be read", shown)
    assert re.search(r"(?m)^last line +`few\.jsonl` has 0 test queries", shown)


def test_logs_are_what_the_job_said_and_following_tells_its_code(folder, whole, failed):
    """On stdout, for pipes; a script that waits does not take a failure for a success."""
    log = (folder / "runs" / "whole" / "logs" / "job.log").read_text("utf-8")
    assert embedtune(folder, "logs", "whole").stdout == log
    followed = embedtune(folder, "logs", "whole", "--follow")
    assert (followed.returncode, followed.stdout) == (0, log)
    said = embedtune(folder, "logs", "failed", "--follow")
    assert said.stdout.splitlines()[-1].startswith("`few.jsonl` has 0 test queries")
    assert said.returncode == DataError.exit_code


def test_a_job_is_followed_and_stopped_from_another_shell(folder):
    """`logs -f` shows it to its end with the job's code, `stop` waits for its checkpoint."""
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
    said, _ = follower.communicate(timeout=300)
    assert follower.returncode == 10
    assert said.decode() == (run / ".work/output/data/logs/job.log").read_text("utf-8")
    assert list((run / ".work" / "checkpoints").glob("checkpoint-*"))
    again = embedtune(folder, "stop", "watched")
    assert (again.returncode, "there is nothing to stop" in again.stderr) == (0, True)
    shutil.rmtree(run)


# Jobs that are killed.


COUNT = "nr_free_pages 7\noom_kill 3\n"


@pytest.mark.parametrize(
    ("number", "before", "after", "error", "advice"),
    [
        # The kernel's count of those whom it has killed for want of memory has risen.
        (9, COUNT, "oom_kill 4", OutOfMemory, "`training.mini_batch_size`"),
        (9, COUNT, "oom_kill 3", BackendError, "SIGKILL"),
        (9, "nr_free_pages 7\n", "nr_free_pages 7", BackendError, "SIGKILL"),
        # Somebody else's process was killed for it, while the job crashed.
        (11, COUNT, "oom_kill 9", BackendError, "SIGSEGV"),
    ],
    ids=["for memory", "not for memory", "nobody counts", "another's memory"],
)
def test_a_job_that_was_killed_is_explained(
    tiny_spec, tmp_path, monkeypatch, number, before, after, error, advice
):
    """By the class and code of the failure, which the receipt keeps."""
    kills = tmp_path / "vmstat"
    kills.write_text(before, "utf-8")
    monkeypatch.setattr(process, "KILLS", (tmp_path / "no cgroup", kills))
    plan = Plan("killed", tiny_spec(), MachineOptions("process"))
    code = (
        f"import os, pathlib; pathlib.Path({str(kills)!r}).write_text({after!r}); "
        f"os.kill(os.getpid(), {number})"
    )
    request = process.request(plan) | {"argv": [sys.executable, "-c", code]}
    job = process.submit(plan, request)
    job.follow_logs(sys.stderr, stop_on_interrupt=True)
    with pytest.raises(error, match=advice):
        job.outcome()
    assert load(plan.folder / "receipt.json")["exit_code"] == error.exit_code


# Folders that may not be entered.


@pytest.mark.parametrize(
    ("field", "error"), [("data.source", DataError), ("model.base", ModelError)]
)
def test_an_input_that_may_not_be_looked_for_is_one_line(forbidden, field, error):
    """Whether a path in a folder of others exists cannot be known: no traceback, no guess."""
    path = str(forbidden / "within")
    spec = build_spec({}, {"data.source": "s3://box/pairs.jsonl", field: path})
    with pytest.raises(error) as caught:
        _ = Plan("run", spec, MachineOptions("process")).inputs
    assert path in str(caught.value)


# What `ls` and `report` show of them.


def test_the_listing_shows_how_far_each_run_came(folder, whole, failed, halted, resumed):
    """Running, unfinished, failed and finished; for the finished what they gained."""
    report = load(folder / "runs" / "whole" / "report" / "report.json")
    base, tuned = (report["scores"][m]["32"]["float32"]["ndcg@10"] for m in ("base", "tuned"))
    gained = ("finished", f"{base:.3f} → {tuned:.3f} at 32", "yes")

    assert halted.listing_while_running["halted"] == ("running", "", "")
    assert halted.listing["halted"] == ("unfinished", "", "")
    everything = {"whole": gained, "halted": gained, "failed": ("failed", "", "")}
    assert listing(folder) == everything


def test_a_report_is_shown_again_as_it_was_shown_first(folder, whole, resumed):
    """By its name, or as the latest finished one."""
    assert embedtune(folder, "report", "whole").stdout == whole.stdout
    assert embedtune(folder, "report", "halted").stdout == resumed.stdout
    assert embedtune(folder, "report").stdout == resumed.stdout
    elsewhere = embedtune(folder.parent, "report", "whole", "--output", str(folder / "runs"))
    assert elsewhere.stdout == whole.stdout.replace("runs/", f"{folder / 'runs'}/")


def test_a_report_is_opened_as_a_page_for_browsers(folder, whole, monkeypatch):
    """What is printed stays the same."""
    opened = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr("launcher.cli.click.launch", opened.append)
    told = CliRunner().invoke(main, ["report", "whole", "--open"])
    CliRunner().invoke(main, ["report", "whole"])
    assert opened == ["runs/whole/report/report.html"]
    assert told.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
