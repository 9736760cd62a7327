"""Whole runs of two processes, on one host or two, give the same result as one process.

Also if a signal or a lost host interrupts them.
"""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from worker_processes import Host, start_hosts

from job.core.errors import DataError
from job.training.checkpoints import last_checkpoint

# Two processes cannot evenly divide batches of 33 rows, nor the last one of an epoch.
SETTINGS = {
    "training.epochs": "6",
    "training.batch_size": "33",
    "training.mined_negatives": "1",
    # An untrained encoder scores all contexts nearly the same.
    "training.negative_margin": "1",
    "training.checkpoint_steps": "3",
    "evaluation.permutations": "100",
}
# For two hosts: embed a few rows at a time.
IN_PARTS = {"training.mini_batch_size": "4"}
# Float32 sums in another order: over sixty steps the sixth and seventh digits change.
TOLERANCE = {"rel": 1e-4, "abs": 1e-6}
# Report fields about times, machine, processes and bytes, which may differ.
VOLATILE = {"finished", "seconds", "cost", "usage", "repeat", "environment", "models", "spec"}
VOLATILE_TRAINING = {"seconds", "pairs_per_second", "peak_memory", "tokens", "pairs"}
VOLATILE_TRAINING |= {"hyperparameters", "mini_batch_size", "resumed_from_step"}


@dataclass(frozen=True)
class Outcome:
    """The report, weights and log of a finished run."""

    report: dict
    weights: dict
    log: str

    @property
    def facts(self):
        """All report fields that must be equal between runs, flattened."""
        facts = {key: value for key, value in self.report.items() if key not in VOLATILE}
        training = facts["training"].items()
        facts["training"] = {k: v for k, v in training if k not in VOLATILE_TRAINING}
        return flat(facts)


def flat(value, name=""):
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in parts for k, v in flat(part, f"{name}.{key}").items()}


def outcome(host):
    assert host.wait() == 0, host.output
    results = host.workspace / "output" / "data"
    report = json.loads((results / "report" / "report.json").read_text("utf-8"))
    return Outcome(report, load_file(host.workspace / "model" / "model.safetensors"), host.output)


def files(folder):
    return {
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()
    }


def failure(host):
    path = host.workspace / "output" / "failure"
    return path.read_text("utf-8") if path.is_file() else None


@pytest.fixture(scope="module")
def desk(tmp_path_factory, tiny_encoder, pairs_file, tiny_settings):
    """Prepare workspaces and start runs in them; at the end, kill those still running."""
    root = tmp_path_factory.mktemp("several")
    started = []

    def prepare(name, **settings):
        given = {
            "data.source": str(pairs_file),
            "model.base": str(tiny_encoder),
            "output.uri": str(root / "runs" / name),
        }
        config = root / name / "input" / "config"
        config.mkdir(parents=True)
        text = json.dumps(given | tiny_settings | SETTINGS | settings)
        (config / "hyperparameters.json").write_text(text, "utf-8")
        return root / name

    def on_one_host(workspace, processes=2):
        host = Host(
            workspace,
            workspace.with_suffix(".log"),
            environment={"EMBEDTUNE_PROCESSES": str(processes)},
        )
        started.append(host)
        return host

    def on_two_hosts(workspace, **options):
        hosts = start_hosts([workspace, workspace.with_name(f"{workspace.name}-2")], **options)
        started.extend(hosts)
        return hosts

    prepare.on_one_host, prepare.on_two_hosts = on_one_host, on_two_hosts
    yield prepare
    for host in started:
        host.kill()


@pytest.fixture(scope="module")
def alone(desk):
    """A run of one process."""
    return outcome(desk.on_one_host(desk("alone"), 1))


@pytest.fixture(scope="module")
def pair(desk):
    """A run of two processes on one host."""
    return outcome(desk.on_one_host(desk("pair")))


@pytest.fixture(scope="module")
def hosts(desk):
    """A run on two hosts: the outcome of the first, and all files on the second."""
    first, second = desk.on_two_hosts(desk("hosts", **IN_PARTS))
    result = outcome(first)
    assert (second.wait(), second.output) == (0, "")
    return result, files(second.workspace)


# Whole


def nearly(value):
    return pytest.approx(value, **TOLERANCE) if isinstance(value, float) else value


def assert_the_same_run(found, expected):
    """Compare the report fields (history, scores, verdict, …) and the weights."""
    assert found.facts == {name: nearly(value) for name, value in expected.facts.items()}
    assert found.weights.keys() == expected.weights.keys()
    for name, values in expected.weights.items():
        assert found.weights[name] == pytest.approx(values, abs=1e-3), name


def test_two_processes_train_the_same_adapter(desk):
    """It is merged on both ranks, and the selected checkpoint is loaded on both."""
    adapter = {"training.lora": "on", "training.epochs": "2"}
    one, two = (
        outcome(desk.on_one_host(desk(f"adapter-{count}", **adapter), count)) for count in (1, 2)
    )
    assert one.report["training"]["lora"]["merged_cosine"] > 1 - 1e-4
    assert_the_same_run(two, one)


@pytest.mark.exhaustive
def test_two_processes_train_the_same_seeds_also_if_they_are_interrupted(desk):
    """The second start loads the first seed's scores on rank 0; the report has both lifts."""
    several = {"training.seeds": "2", "training.epochs": "2"}
    one = outcome(desk.on_one_host(desk("seeds-alone", **several), 1))
    workspace = desk("seeds-pair", **several)
    cut = desk.on_one_host(workspace)
    cut.wait_for("seed: start seed=43 training=2 trainings=2")
    cut.send(signal.SIGTERM)
    assert cut.wait() == 10, cut.output

    two = outcome(desk.on_one_host(workspace))

    assert "seed: done seed=42" in cut.output
    assert [each["seed"] for each in two.report["scope"]["seeds"]["seeds"]] == [42, 43]
    assert_the_same_run(two, one)


@pytest.mark.exhaustive
def test_two_processes_train_the_same_folds_and_the_same_model_of_all_pairs(desk):
    """They are interrupted while they train on all pairs; no fold is trained again.

    With so many test queries, rounding exchanges neighbors in the ranking of some.
    """
    folds = {"evaluation.folds": "3", "training.refit": "true", "training.epochs": "2"}
    one = outcome(desk.on_one_host(desk("folds-alone", **folds), 1))
    workspace = desk("folds-pair", **folds)
    cut = desk.on_one_host(workspace)
    cut.wait_for("refit: start")
    cut.send(signal.SIGTERM)
    assert cut.wait() == 10, cut.output

    two = outcome(desk.on_one_host(workspace))

    assert two.report["stored"]["kind"] == "refit"
    assert two.log.count("fold: start") == 3
    assert "hyperparameters: " not in two.log
    for found, expected in zip(*(run.report["scope"]["folds"] for run in (two, one)), strict=True):
        assert found == pytest.approx(expected, abs=5e-3)
    for name, values in one.weights.items():
        assert two.weights[name] == pytest.approx(values, abs=1e-3), name


def assert_really_tuned(run):
    training = run.report["training"]
    rows = run.report["data"]["splits"]["train"]
    assert rows % 33 % 2 == 1
    assert training["steps"] == 6 * -(-rows // 33)
    assert training["best_step"] > 0
    mined = int(run.log.partition("negatives: mined=")[2].split()[0])
    assert mined > 10


def test_two_processes_on_one_host_equal_one_process(alone, pair):
    """The same losses, scores, verdict and weights, with mined negatives and uneven batches."""
    assert_really_tuned(alone)
    assert_the_same_run(pair, alone)


def test_two_hosts_equal_one_process(alone, hosts):
    """Each host reads the data itself and embeds a few rows at a time."""
    assert hosts[0].report["training"]["mini_batch_size"] == {"asked": 4, "used": 4, "halved": 0}
    assert_the_same_run(hosts[0], alone)


def test_only_rank_zero_writes(hosts):
    """The second host has only its configuration and the lock, and shares the checkpoints."""
    assert hosts[1] == {"input/config/resourceconfig.json", "lock"}


# Interrupted


def without_losses(facts):
    """Drop losses, which the trainer averages over the steps of one start."""
    return {name: value for name, value in facts.items() if not name.endswith(".loss")}


def test_a_run_resumes_after_its_hosts_were_stopped_or_lost(desk, hosts):
    """A signal to one host stops both after a checkpoint; a lost host ends the other.

    The resumed run equals one that was never interrupted, bit by bit.
    """
    workspace = desk("cut-hosts", **IN_PARTS)
    first, second = desk.on_two_hosts(workspace)
    first.wait_for("train: step=6/")
    second.send(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (10, 10), first.output
    line = failure(first)
    assert line.startswith("The run was interrupted after step "), first.output
    assert last_checkpoint(workspace / "checkpoints").name == f"checkpoint-{line.split()[6]}"
    assert first.output.count("Error: ") == second.output.count("Error: ") == 1

    first, second = desk.on_two_hosts(workspace, lost_after=5.0)
    first.wait_for("train: step=")
    second.kill()
    assert first.wait() == 6
    assert failure(first).startswith("algo-2: The host stopped responding.")

    first, second = desk.on_two_hosts(workspace)
    run, whole = outcome(first), hosts[0]
    assert second.wait() == 0, second.output
    assert run.report["training"]["resumed_from_step"] > 0
    assert without_losses(run.facts) == without_losses(whole.facts)
    assert all((run.weights[name] == values).all() for name, values in whole.weights.items())


# What goes wrong


def give_data(workspace, lines):
    """Write data to a host's channel, which wins over the spec's source."""
    path = workspace / "input" / "data" / "data" / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def assert_both_end_with(first, second, code):
    """Check the exit code of both hosts; return the failure line that each printed once."""
    assert (first.wait(), second.wait()) == (code, code), first.output + second.output
    for host in (first, second):
        assert host.output.endswith(f"Error: {failure(host)}")
        assert host.output.count("Error: ") == 1
    return failure(first), failure(second)


def test_every_host_reports_the_failure_of_one(desk):
    """Each reads its own data; the other host's line names the failing host."""
    workspace = desk("bad-host")
    give_data(workspace.with_name("bad-host-2"), ['{"a": 1}'])

    line, own = assert_both_end_with(*desk.on_two_hosts(workspace), DataError.exit_code)

    assert line == f"algo-2: {own}"


def test_hosts_with_different_data_do_not_train(desk, pairs_file):
    """Each detects that the other's data has another fingerprint."""
    workspace = desk("other-data")
    rows = pairs_file.read_text("utf-8").splitlines()
    give_data(workspace.with_name("other-data-2"), rows[:-1])

    lines = assert_both_end_with(*desk.on_two_hosts(workspace), DataError.exit_code)

    assert all("The data of host 2 (of 2) differs" in line for line in lines)
    assert all("`FullyReplicated`" in line for line in lines)
