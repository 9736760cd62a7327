"""The processes of a run do what the first one asks, and know what it knows."""

from contextlib import suppress
from pathlib import Path

import pytest
from worker_processes import together

from job import crew
from job.__main__ import exit_code
from job.errors import MachineError
from job.workspace import Workspace


def own_mate(folder=None):
    return crew.Mate(folder, None, "cpu")


# Alone


def test_a_process_alone_exchanges_nothing(tmp_path):
    """What others would be asked or told stays here, and costs no process group."""
    assert (crew.size(), crew.rank()) == (1, 0)
    assert crew.share({"a": 1}) == {"a": 1}
    assert crew.gather("mine") == ["mine"]
    assert [crew.any_of(flag) for flag in (True, False)] == [True, False]
    assert crew.share_folder(tmp_path, tmp_path / "copy") == tmp_path
    assert not crew.is_assisted()
    crew.ask(print, "nobody does")
    crew.dismiss()
    crew.leave()


def test_torchrun_is_known_by_its_variable(monkeypatch):
    """The command starts processes only where it is none of them itself."""
    assert not crew.is_member()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert crew.is_member()


# Together


def exchange(rank):
    import torch

    given = crew.share({"from": rank})
    gathered = crew.gather(f"rank {rank}")
    rows = torch.full((1, 2), float(rank))
    tensors = [found.tolist() for found in crew.gather_tensor(rows)]
    flags = [crew.any_of(rank == member) for member in (0, 2, 9)]
    return given, gathered, tensors, crew.add_up(rows).tolist(), flags


def test_every_process_knows_what_the_first_one_knows():
    """Values, tensors, sums and whether any says so: whole, in order of ranks."""
    ranks = [[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]]]
    same = (ranks, [[3.0, 3.0]], [True, True, False])

    assert together(3, exchange) == [
        ({"from": 0}, ["rank 0", "rank 1", "rank 2"], *same),
        ({"from": 0}, [], *same),
        ({"from": 0}, [], *same),
    ]


def add(mate, number):
    mate.workspace.append((crew.rank(), number))


def gather_so_far(mate):
    crew.gather(mate.workspace)


def conduct_or_assist(rank):
    """Ask for some work twice, and see what came of it."""
    if rank > 0:
        return crew.assist(own_mate([]))
    assisted = [crew.is_assisted()]
    with crew.others_engaged():
        assisted.append(crew.is_assisted())
    crew.ask(add, 5)
    crew.ask(add, 7)
    crew.ask(gather_so_far)
    found = crew.gather(None)
    crew.dismiss("that was all")
    return assisted, found


def test_the_others_do_what_they_are_asked_until_they_are_dismissed():
    """Each piece of work in its turn, with the conductor's values, and on the same mate."""
    conductor, *others = together(3, conduct_or_assist)

    assert conductor == ([True, False], [None, [(1, 5), (1, 7)], [(2, 5), (2, 7)]])
    assert others == ["that was all"] * 2


def share_some_weights(rank):
    import torch

    module = torch.nn.BatchNorm1d(3)
    for number, value in enumerate(module.state_dict().values()):
        value.fill_(10 * rank + number)
    crew.share_weights(module)
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


def test_every_process_gets_the_conductors_weights():
    """Buffers too, which no optimizer knows."""
    conductor, other = together(2, share_some_weights)

    assert conductor["running_mean"] == [2.0, 2.0, 2.0]
    assert other == conductor


def lose_the_other(rank):
    import os

    import torch

    if rank == 1:
        os._exit(0)
    with crew.deserted():
        crew.add_up(torch.ones(1))


def test_whom_another_process_leaves_is_told_so():
    """It is no bug of ours, whose traceback would hide what happened to the other one."""
    with pytest.raises(AssertionError, match=r"job\.crew\.Deserted: "):
        together(2, lose_the_other)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("gloo")])
def test_other_errors_stay_what_they_are(error):
    """A bug beside torch's communication must keep its traceback."""
    with pytest.raises(type(error)) as raised, crew.deserted():
        raise error

    assert raised.value is error


# Failures


def fail(error):
    def work():
        raise error

    return work


def test_a_process_of_several_leaves_its_reason_while_another_holds_the_workspace(
    tmp_path, monkeypatch
):
    """The conductor has the lock, and what another process died of is the run's failure."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    workspace = Workspace(tmp_path)

    with workspace.locked():
        code = exit_code(fail(MachineError("It lacks something.")), workspace)

    assert code == 6
    assert workspace.failure.read_text("utf-8") == "It lacks something.\n"


def test_the_first_of_several_reasons_is_kept(tmp_path, monkeypatch):
    """Who fails makes torchrun end the others, which tell of an interruption only."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    workspace = Workspace(tmp_path)

    codes = [
        exit_code(fail(error), workspace)
        for error in (MachineError("It lacks something."), KeyboardInterrupt())
    ]

    assert codes == [6, 10]
    assert workspace.failure.read_text("utf-8") == "It lacks something.\n"


# Folders


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def receive_folder(rank, source, copies):
    crew.CHUNK_BYTES = 1000
    given = crew.share_folder(Path(source) if rank == 0 else None, Path(copies) / f"host-{rank}")
    # Whoever reads at once finds everything.
    return str(given), contents(given)


@pytest.fixture
def folder(tmp_path):
    """Make a folder with files below folders, empty ones, and some that are sent in pieces."""
    source = tmp_path / "source"
    (source / "1_Pooling" / "deep").mkdir(parents=True)
    for name, content in {
        "config.json": b"{}",
        "empty": b"",
        "1_Pooling/deep/empty": b"",
        "1_Pooling/config.json": b"x" * 999,
        "exact": bytes(range(250)) * 4,
        "twice": bytes(range(250)) * 8,
        "model.safetensors": bytes(range(256)) * 13,
    }.items():
        (source / name).write_bytes(content)
    return source


def test_another_host_gets_a_copy_of_a_folder(folder, tmp_path):
    """In every byte, instead of what an earlier start left there."""
    stale = tmp_path / "copies" / "host-1" / "1_Pooling"
    stale.mkdir(parents=True)
    (stale / "config.json").write_bytes(b"old")
    (stale / "gone").write_bytes(b"old")

    conductor, other = together(2, receive_folder, str(folder), str(tmp_path / "copies"), hosts=2)

    assert conductor == (str(folder), contents(folder))
    assert other == (str(tmp_path / "copies" / "host-1"), contents(folder))


def receive_for_the_host(rank, source, copies):
    crew.CHUNK_BYTES = 1000
    copy = Path(copies) / f"host-{rank // 2}"
    given = crew.share_folder(Path(source) if rank == 0 else None, copy)
    return str(given), contents(given)


def test_the_processes_of_a_host_share_a_copy(folder, tmp_path):
    """One of them writes, and the conductor's neighbour reads the folder itself."""
    copies = tmp_path / "copies"

    found = together(4, receive_for_the_host, str(folder), str(copies), hosts=2)

    where = [str(folder)] * 2 + [str(copies / "host-1")] * 2
    assert found == [(place, contents(folder)) for place in where]
    assert [path.name for path in copies.iterdir()] == ["host-1"]


def test_on_one_host_a_folder_is_its_own_copy(folder, tmp_path):
    """Nothing is copied: all processes read the same disk."""
    copies = tmp_path / "copies"

    found = together(2, receive_folder, str(folder), str(copies))

    assert found == [(str(folder), contents(folder))] * 2
    assert not copies.exists()


def receive_where_nothing_can_be(rank, source, copies):
    # The conductor, whom the other leaves, is not what this is about.
    with suppress(RuntimeError):
        receive_folder(rank, source, copies)


def test_a_host_that_cannot_write_its_copy_says_so(folder, tmp_path):
    """It names the file, with the code for what cannot be written, not a traceback."""
    copies = tmp_path / "copies"
    copies.write_bytes(b"a file, where a folder should be")
    said = rf"StorageError: `{copies}/host-1/.+` cannot be written: Not a directory\."
    with pytest.raises(AssertionError, match=said):
        together(2, receive_where_nothing_can_be, str(folder), str(copies), hosts=2)


def receive_nothing(rank, copies):
    return crew.share_folder(None, Path(copies) / f"host-{rank}")


def test_no_folder_is_none_for_all(tmp_path):
    """A training that begins has no checkpoint, on any host."""
    assert together(2, receive_nothing, str(tmp_path), hosts=2) == [None, None]
    assert list(tmp_path.iterdir()) == []
