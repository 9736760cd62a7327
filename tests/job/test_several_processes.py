"""Whole runs of two processes, on one host or on two: they end as a run of one process does.

However often they are cut: by a signal to one host, by its loss, by a process's death.
"""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from worker_processes import Host, start_hosts
from safetensors.numpy import load_file

from job.checkpoints import last_checkpoint
from job.errors import StorageError

# Neither the batches of 33 rows nor the last one of an epoch go up between two.
SETTINGS = {
    "training.epochs": "6",
    "training.batch_size": "33",
    "training.mined_negatives": "1",
    # An untrained encoder scores all contexts much the same.
    "training.negative_margin": "1",
    "training.checkpoint_steps": "3",
    "evaluation.permutations": "100",
}
# The same on two hosts, a few rows at a time.
IN_PARTS = {"training.mini_batch_size": "4"}
# Float32 is added up in another order: over sixty steps the seventh digit moves, and the sixth.
TOLERANCE = {"rel": 1e-4, "abs": 1e-6}
# What a report tells of a run's times, place, parts and bytes.
VOLATILE = {"finished", "seconds", "cost", "usage", "repeat", "environment", "models", "spec"}
VOLATILE_TRAINING = {"seconds", "pairs_per_second", "peak_memory", "tokens", "pairs"}
VOLATILE_TRAINING |= {"recipe", "rows_at_once", "resumed_from_step"}
STOPPED = "Launch it again to go on from there."
GONE = "it has gone, without a word. Launch the run again to go on from its last checkpoint."


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves, and how long it had been."""

    report: dict
    weights: dict
    log: str

    @property
    def facts(self):
        """All that the report says, field by field, but for what each run has of its own."""
        told = {key: value for key, value in self.report.items() if key not in VOLATILE}
        training = told["training"].items()
        told["training"] = {k: v for k, v in training if k not in VOLATILE_TRAINING}
        return flat(told)


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
    """Prepare workspaces and start runs in them; whatever still runs in the end is killed."""
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

    prepare.root = root
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
    """A run on two hosts: the outcome of the first, and all that lies on the second."""
    first, second = desk.on_two_hosts(desk("hosts", **IN_PARTS))
    result = outcome(first)
    assert (second.wait(), second.output) == (0, "")
    return result, files(second.workspace)


# Whole


def nearly(value):
    return pytest.approx(value, **TOLERANCE) if isinstance(value, float) else value


def assert_the_same_run(found, expected):
    """Compare history, scores, verdict and all else that the reports say, and the weights."""
    assert found.facts == {name: nearly(value) for name, value in expected.facts.items()}
    assert found.weights.keys() == expected.weights.keys()
    for name, values in expected.weights.items():
        assert found.weights[name] == pytest.approx(values, abs=1e-3), name


def assert_really_tuned(run):
    training = run.report["training"]
    rows = run.report["data"]["splits"]["train"]
    assert rows % 33 % 2 == 1
    assert training["steps"] == 6 * -(-rows // 33)
    assert training["best_step"] > 0
    mined = int(run.log.partition("negatives: mined=")[2].split()[0])
    assert mined > 10


def test_two_processes_on_one_host_end_as_one_does(alone, pair):
    """The same losses, scores, verdict and weights, with mined negatives and uneven batches."""
    assert_really_tuned(alone)
    assert_the_same_run(pair, alone)


def test_two_hosts_end_as_one_process_does(alone, hosts):
    """The second one, with nothing but its name, takes part; a few rows are embedded at a time."""
    assert hosts[0].report["training"]["rows_at_once"] == {"asked": 4, "used": 4, "halved": 0}
    assert_the_same_run(hosts[0], alone)


def test_only_the_first_host_writes(hosts, tiny_encoder):
    """On the second one lie its own name and the model, and neither checkpoints nor results."""
    model = {f"input/fetched/model/{name}" for name in files(tiny_encoder)}
    assert hosts[1] == {"input/config/resourceconfig.json", *model}


def test_what_several_processes_have_tuned_can_be_loaded(pair, desk):
    """By the library alone, as whoever uses it does."""
    from sentence_transformers import SentenceTransformer

    folder = desk.root / "pair" / "model"

    assert SentenceTransformer(str(folder), device="cpu").encode(["ask1"]).shape == (1, 64)


# Cut


def interrupted(host):
    """Read after which step a run says that it was interrupted."""
    line = failure(host)
    assert line.startswith("The run was interrupted after step "), host.output
    assert line.endswith(f"{STOPPED}\n")
    return int(line.split()[6])


def assert_sealed(host, step):
    checkpoint = last_checkpoint(host.workspace / "checkpoints")
    assert checkpoint.name == f"checkpoint-{step}"


def without_losses(facts):
    """Leave out what the trainer averages over the steps of a start."""
    return {name: value for name, value in facts.items() if not name.endswith(".loss")}


def assert_taken_up(run, expected):
    """It goes on from a checkpoint and has every bit of a run that was never cut."""
    assert run.report["training"]["resumed_from_step"] > 0
    assert without_losses(run.facts) == without_losses(expected.facts)
    assert all((run.weights[name] == values).all() for name, values in expected.weights.items())


def test_a_process_that_is_killed_ends_the_run_which_is_stopped_and_taken_up(desk, pair):
    """Each end says its reason, leaves a checkpoint that is whole, and costs nothing but time."""
    workspace = desk("cut-pair")
    host = desk.on_one_host(workspace)
    host.wait_for("train: step=6/")
    host.workers()[1].kill()
    assert host.wait() == 14
    assert failure(host).startswith("A process of the run was killed (signal 9)")
    assert host.output.count("Error: ") == 1

    host = desk.on_one_host(workspace)
    host.wait_for("train: step=")
    host.send(signal.SIGTERM)
    assert host.wait() == 10, host.output
    assert_sealed(host, interrupted(host))

    assert_taken_up(outcome(desk.on_one_host(workspace)), pair)


def test_hosts_that_are_stopped_or_lost_are_taken_up(desk, hosts):
    """A signal to one stops both, the loss of one ends the other, which names it."""
    workspace = desk("cut-hosts", **IN_PARTS)
    first, second = desk.on_two_hosts(workspace)
    first.wait_for("train: step=6/")
    second.send(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (10, 10), first.output
    step = interrupted(first)
    assert_sealed(first, step)
    assert not any("checkpoint" in name for name in files(second.workspace))

    first, second = desk.on_two_hosts(workspace, silence=5.0)
    first.wait_for("train: step=")
    second.kill()
    assert first.wait() == 6
    assert failure(first) == f"algo-2: {GONE}\n"

    first, second = desk.on_two_hosts(workspace)
    assert_taken_up(outcome(first), hosts[0])
    assert second.wait() == 0, second.output


# What goes wrong


def test_what_is_wrong_with_the_data_is_said_on_every_host(desk, tmp_path):
    """The first host alone reads them; the second one ends with the same code and line."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": 1}\n', "utf-8")

    first, second = desk.on_two_hosts(desk("bad-data", **{"data.source": str(path)}))

    assert (first.wait(), second.wait()) == (4, 4), first.output
    line = failure(first)
    assert first.output.endswith(f"Error: {line}")
    assert failure(second) == f"algo-1: {line}"
    assert second.output == f"Error: algo-1: {line}"


def test_what_goes_wrong_on_another_host_is_said_on_the_first(desk):
    """A file lies where the model's copy is to go: who reads the first host's log is told."""
    workspace = desk("bad-host")
    fetched = workspace.with_name("bad-host-2") / "input" / "fetched"
    fetched.parent.mkdir(parents=True)
    fetched.touch()

    first, second = desk.on_two_hosts(workspace)

    codes = first.wait(), second.wait()
    assert codes == (StorageError.exit_code,) * 2, first.output
    line = failure(second)
    assert line.startswith(f"`{fetched}/model/")
    assert line.endswith("` cannot be written: Not a directory.\n")
    assert failure(first) == f"algo-2: {line}"
    assert first.output.endswith(f"Error: algo-2: {line}")
