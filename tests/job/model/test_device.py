"""Which device, arithmetic and shapes a job uses; a device that is not there is refused."""

import pytest

from job.core.errors import MachineError
from job.model.device import Machine, choose_machine

CPU = Machine("cpu", "float32", "as the spec says")


def test_the_cpu_is_always_there():
    """An explicit device and precision are taken as they are."""
    assert choose_machine("cpu", "float32") == CPU
    assert choose_machine("cpu", "bfloat16") == Machine("cpu", "bfloat16", "as the spec says")


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    """It says so, and what it found, instead of going slow; `auto` takes the fastest there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    usable = [*(name for name, found in there.items() if found), "cpu"]
    missing = there.keys() - usable
    assert missing
    for name in missing:
        with pytest.raises(MachineError, match=rf"`{name}` .*found: {', '.join(usable)}"):
            choose_machine(name, "auto")
    assert choose_machine("auto", "float32").device == usable[0]


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Show a driver's GPU that torch here cannot use; `gpu("nvidia0")` hands it in."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("the GPU here is usable")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("job.model.device.NVIDIA_GPUS", tmp_path / "gpus")
    monkeypatch.setattr("job.model.device.DEVICES", tmp_path / "dev")
    (tmp_path / "gpus" / "0000:00:1e.0").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    return lambda name: (tmp_path / "dev" / name).touch()


def test_a_gpu_that_torch_cannot_use_is_an_error_at_once(gpu, monkeypatch):
    """Not hours on the CPU: what stands between them is named, and the way around it."""
    for cuda, why in ((None, "torch was built for CPUs"), ("13.0", "`--gpus all`")):
        monkeypatch.setattr("torch.version.cuda", cuda)
        with pytest.raises(MachineError, match=f"1 NVIDIA GPU.*{why}.*`--device cpu`"):
            choose_machine("auto", "float32")
    # It is there, and torch for CUDA has its own reason: the driver, its age.
    gpu("nvidia0")
    with pytest.raises(MachineError, match="cannot be used here: "):
        choose_machine("auto", "float32")


def test_whoever_wants_the_cpu_gets_it_beside_a_gpu(gpu, monkeypatch):
    assert choose_machine("cpu", "float32") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_machine("auto", "float32") == CPU


def test_an_automatic_precision_has_a_reason():
    """bfloat16 is chosen where the CPU computes in it, and the report can say by which units."""
    import torch

    machine = choose_machine("cpu", "auto")

    units = torch.cpu.get_capabilities()
    fast = [name for name in ("amx_bf16", "avx512_bf16") if units.get(name)]
    if fast:
        assert machine == Machine("cpu", "bfloat16", f"the CPU has {' and '.join(fast)}")
    else:
        assert machine == Machine("cpu", "float32", "no faster arithmetic is known of this cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_computes_in_the_chosen_precision(precision):
    """Products are computed in the machine's precision while the weights stay as they are."""
    import torch

    one = torch.ones(2, 2)
    with Machine("cpu", precision, "").autocast():
        assert (one @ one).dtype == getattr(torch, precision)


@pytest.mark.parametrize(
    ("device", "attention", "tokens"),
    [("cpu", "eager", 2_048), ("cuda", "sdpa", 16_384), ("mps", "sdpa", None)],
)
def test_each_device_has_its_passes_and_its_kernels(device, attention, tokens):
    """What is fast on a CPU is slow on a GPU."""
    machine = Machine(device, "float32", "")
    assert (machine.training_attention, machine.tokens_at_once) == (attention, tokens)


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_the_free_memory_is_some_of_the_machines_or_of_the_gpus(device):
    """It is counted in bytes: more than nothing, and no more than there is."""
    import psutil
    import torch

    total = psutil.virtual_memory().total
    if device == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device is here")
        total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < Machine(device, "float32", "").free_memory() <= total
