"""The ranks of a run exchange values, wait for each other, and share the data of a host."""

import os
import shutil
import signal
import time
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError
from worker_processes import together

from job.core.errors import MachineError
from job.data.dataset import Corpus
from job.distributed import process_group
from job.distributed.shared_values import load_arrays, save_arrays
from job.distributed.torchrun import PEER_LOST, PeerLost
from job.outcome import exit_code
from job.storage.workspace import Workspace

# One process


def test_one_process_needs_no_process_group():
    """Every collective call returns its own value."""
    assert (process_group.world_size(), process_group.rank(), process_group.host_count()) == (
        1,
        0,
        1,
    )
    assert process_group.from_rank_zero(lambda: {"a": 1}) == {"a": 1}
    assert process_group.once_per_host(lambda: "read") == "read"
    assert process_group.broadcast("value") == "value"
    assert process_group.all_gather_objects("mine") == ["mine"]
    assert [process_group.any_rank(flag) for flag in (True, False)] == [True, False]
    process_group.barrier()
    process_group.destroy()


def test_torchruns_variable_identifies_a_worker(monkeypatch):
    """A worker must not start workers."""
    assert not process_group.is_worker()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert process_group.is_worker()


# Several


def read_data():
    """Return a table and arrays, some of them empty."""
    table = pa.table({"text": [f"ask{row}" for row in range(1000)], "empty": [""] * 1000})
    return {"table": table, "numbers": np.arange(1000), "none": np.empty(0), "host": os.getpid()}


def call_everything(rank):
    """Make every collective call; return what this rank got."""
    import torch

    process_group.SIGNAL_SECONDS = timedelta(milliseconds=50)
    rows = torch.full((1, 2), float(rank))
    module = torch.nn.BatchNorm1d(3)
    for number, value in enumerate(module.state_dict().values()):
        value.fill_(10 * rank + number)
    process_group.broadcast_weights(module)

    def work():
        # Longer than the interval at which waiting ranks check for signals.
        time.sleep(0.2)
        return {"from": rank}

    data = process_group.once_per_host(read_data)
    return {
        "value": process_group.from_rank_zero(work),
        "objects": process_group.all_gather_objects(rank),
        "rows": [found.tolist() for found in process_group.all_gather(rows)],
        "sum": process_group.all_reduce(rows).tolist(),
        "flags": [process_group.any_rank(rank == one) for one in (0, 2, 9)],
        "weights": {n: value.flatten().tolist() for n, value in module.state_dict().items()},
        "pid": os.getpid(),
        "data": (data["table"].to_pydict(), data["numbers"].tolist(), len(data["none"])),
        "read by": data["host"],
        "places": (process_group.host_count(), process_group.local_rank()),
    }


@pytest.fixture(scope="module")
def ranks():
    """Make every collective call on four ranks, two on each of two hosts."""
    return together(4, call_everything, hosts=2)


def test_every_rank_gets_the_value_and_weights_of_rank_zero(ranks):
    """Slow values and buffers included."""
    for found in ranks:
        assert found["value"] == {"from": 0}
        assert found["weights"] == ranks[0]["weights"]
    assert ranks[0]["weights"]["running_mean"] == [2.0] * 3


def test_values_are_gathered_in_rank_order(ranks):
    """On every rank."""
    rows = [[[float(rank)] * 2] for rank in range(4)]
    for found in ranks:
        assert found["objects"] == [0, 1, 2, 3]
        assert found["rows"] == rows
        assert found["sum"] == [[6.0, 6.0]]
        assert found["flags"] == [True, True, False]


def test_one_rank_per_host_reads_and_the_others_map_its_arrays(ranks):
    """All get the same values, and each host reads once."""
    expected = read_data()
    same = (expected["table"].to_pydict(), expected["numbers"].tolist(), 0)
    assert [found["data"] for found in ranks] == [same] * 4
    first, _, third, _ = (found["pid"] for found in ranks)
    assert [found["read by"] for found in ranks] == [first, first, third, third]
    assert [found["places"] for found in ranks] == [(2, 0), (2, 1), (2, 0), (2, 1)]


def test_mapped_arrays_allocate_no_memory(tmp_path):
    """Arrow and numpy read from the files, even after these are deleted."""
    value = (read_data(), Corpus(pa.array(["c1"]), pa.array(["answer1"])))
    before = pa.total_allocated_bytes()

    found, corpus = load_arrays(save_arrays(value, tmp_path))
    shutil.rmtree(tmp_path)

    assert pa.total_allocated_bytes() == before
    assert isinstance(found["numbers"], np.memmap)
    assert found["table"].equals(value[0]["table"])
    assert found["numbers"].tolist() == value[0]["numbers"].tolist()
    assert corpus == value[1]


# What goes wrong


def lose_the_other(rank):
    import torch

    if rank == 1:
        os._exit(0)
    with process_group.peer_loss_detected():
        process_group.all_reduce(torch.ones(1))


def test_a_lost_rank_raises_peer_lost():
    """A traceback of this rank would hide the cause on the other."""
    with pytest.raises(AssertionError, match=r"job\.distributed\.torchrun\.PeerLost: "):
        together(2, lose_the_other)


def signal_a_waiting_rank(rank):
    import psutil
    import torch

    from job.runtime import signals

    waiting = process_group.all_gather_objects(os.getpid())[1]
    if rank == 0:
        time.sleep(0.5)
        os.kill(waiting, signal.SIGTERM)
        # It waits for this rank, and would do so for half an hour.
        psutil.Process(waiting).wait(60)
        return
    signals.UNHANDLED_SECONDS = 0.5
    stop = signals.StopSignal()
    stop.install()
    stop.exit_if_unhandled()
    process_group.all_reduce(torch.ones(1))


def test_a_rank_that_waits_in_a_collective_call_obeys_a_stop_signal():
    """Python's handler cannot run there: torchrun would kill the rank after 110 seconds."""
    with pytest.raises(AssertionError, match=r"it died with code 10"):
        together(2, signal_a_waiting_rank)


NCCL = (
    "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, {}, NCCL version "
    "2.29.7\n{}: what this code means in general.\nLast error:\n{}"
)
GLOO = "[../third_party/gloo/gloo/transport/tcp/{}] {}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            DistBackendError(
                NCCL.format(
                    "unhandled system error",
                    "ncclSystemError",
                    "Error while creating shared memory segment /dev/shm/nccl-xQz (size 9637888)",
                )
            ),
            r"segment /dev/shm/nccl-xQz \(size 9637888\)\. .*`docker run --shm-size 1g`",
        ),
        (
            DistBackendError(
                NCCL.format(
                    "invalid usage",
                    "ncclInvalidUsage",
                    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1e0",
                )
            ),
            r"both on CUDA device 1e0\. .*`EMBEDTUNE_PROCESSES`",
        ),
        (
            DistBackendError(NCCL.format("internal error", "ncclInternalError", "strange")),
            r"communicate: strange\. .*`NCCL_DEBUG=INFO`",
        ),
        (
            RuntimeError(GLOO.format("device.cc:98", "Unable to find address for: eth7")),
            r"communicate: Unable to find address for: eth7\. .*`GLOO_SOCKET_IFNAME`",
        ),
    ],
)
def test_a_failure_of_nccl_or_gloo_is_told_with_its_cause(error, expected):
    """Only the loss of a peer has its cause elsewhere."""
    with pytest.raises(MachineError, match=expected), process_group.peer_loss_detected():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        DistBackendError(
            NCCL.format(
                "remote process exited or there was a network error",
                "ncclRemoteError",
                "socketProgress: Connection closed by remote peer algo-2<41234>",
            )
        ),
        DistBackendError("NCCL communicator was aborted on rank 0."),
        DistNetworkError("Failed to recv, got 0 bytes."),
        DistStoreError("wait timeout after 1800000ms"),
        RuntimeError(GLOO.format("pair.cc:538", "Connection closed by peer [127.0.0.1]:1")),
        RuntimeError(GLOO.format("unbound_buffer.cc:81", "Timed out waiting 1800000ms for recv")),
    ],
)
def test_the_loss_of_a_peer_is_recognized_in_every_backend(error):
    with pytest.raises(PeerLost), process_group.peer_loss_detected():
        raise error


def test_memory_that_runs_out_in_nccl_keeps_its_exit_code():
    text = NCCL.format("unhandled cuda error", "ncclUnhandledCudaError", "failure 2 out of memory")
    with pytest.raises(DistBackendError), process_group.peer_loss_detected():
        raise DistBackendError(text)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("gloo")])
def test_other_errors_pass_unchanged(error):
    """A bug keeps its traceback."""
    with pytest.raises(type(error)) as raised, process_group.peer_loss_detected():
        raise error

    assert raised.value is error


def fail(error):
    def work():
        raise error

    return work


def test_only_the_first_failure_of_a_host_is_reported(tmp_path, monkeypatch, capsys):
    """torchrun then stops the other workers, which would report an interruption.

    The failure file is written although rank 0 holds the workspace's lock.
    """
    monkeypatch.setenv("LOCAL_RANK", "1")
    workspace = Workspace(tmp_path)

    with workspace.locked():
        codes = [
            exit_code(fail(error), workspace)
            for error in (MachineError("It lacks something."), KeyboardInterrupt())
        ]

    assert codes == [6, 10]
    assert workspace.failure.read_text("utf-8") == "It lacks something.\n"
    assert capsys.readouterr().err == "Error: It lacks something.\n"


def test_a_worker_that_lost_a_peer_reports_nothing(tmp_path, monkeypatch, capsys):
    """It waits first, so that the peer's failure is reported."""
    monkeypatch.setattr("job.outcome.PEER_LOST_SECONDS", 0.0)
    monkeypatch.setattr("job.outcome.signal.signal", lambda *_: None)

    code = exit_code(fail(PeerLost("connection closed")), Workspace(tmp_path))

    assert (code, capsys.readouterr().err) == (PEER_LOST, "")
    assert not Workspace(tmp_path).failure.exists()
