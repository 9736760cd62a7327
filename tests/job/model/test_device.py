"""The device, precision and batch shape that a job uses; a missing device is an error."""

import pytest

from job.core.errors import MachineError
from job.model.device import Machine, choose_machine

CPU = Machine("cpu", "float32", "set in the spec")


def test_an_explicit_device_and_precision_are_used():
    """The CPU is always available."""
    assert choose_machine("cpu", "float32") == CPU
    assert choose_machine("cpu", "bfloat16") == Machine("cpu", "bfloat16", "set in the spec")


def test_a_missing_device_is_an_error_that_lists_the_usable_ones():
    """A job does not silently use a slower device; `auto` uses the fastest one."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    usable = [*(name for name, found in available.items() if found), "cpu"]
    missing = available.keys() - usable
    assert missing
    for name in missing:
        with pytest.raises(MachineError, match=rf"`{name}` .*usable: {', '.join(usable)}"):
            choose_machine(name, "auto")
    assert choose_machine("auto", "float32").device == usable[0]


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Fake a driver with a GPU that torch cannot use; `gpu("nvidia0")` adds its device file."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a usable GPU")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("job.model.device.NVIDIA_GPUS", tmp_path / "gpus")
    monkeypatch.setattr("job.model.device.DEVICES", tmp_path / "dev")
    (tmp_path / "gpus" / "0000:00:1e.0").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    return lambda name: (tmp_path / "dev" / name).touch()


def test_a_gpu_that_torch_cannot_use_is_an_error_at_once(gpu, monkeypatch):
    """The job does not run on the CPU for hours; the message has the cause and a workaround."""
    for cuda, why in ((None, "this torch supports only CPUs"), ("13.0", "`--gpus all`")):
        monkeypatch.setattr("torch.version.cuda", cuda)
        with pytest.raises(MachineError, match=f"1 NVIDIA GPU.*{why}.*`--device cpu`"):
            choose_machine("auto", "float32")
    # With a device file and a torch for CUDA, the reason is torch's own: no driver, or an old one.
    gpu("nvidia0")
    with pytest.raises(MachineError, match=r"1 NVIDIA GPU\(s\) of this machine: "):
        choose_machine("auto", "float32")


def test_the_cpu_can_be_chosen_although_there_is_a_gpu(gpu, monkeypatch):
    assert choose_machine("cpu", "float32") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_machine("auto", "float32") == CPU


def test_an_automatic_precision_has_a_reason():
    """bfloat16 is chosen if the CPU supports it; the reason names the CPU's features."""
    import torch

    machine = choose_machine("cpu", "auto")

    units = torch.cpu.get_capabilities()
    fast = [name for name in ("amx_bf16", "avx512_bf16") if units.get(name)]
    if fast:
        assert machine == Machine("cpu", "bfloat16", f"the CPU has {' and '.join(fast)}")
    else:
        assert machine == Machine("cpu", "float32", "no faster precision is known for this cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_computes_in_the_chosen_precision(precision):
    """Matrix products use the chosen precision; the weights remain float32."""
    import torch

    one = torch.ones(2, 2)
    with Machine("cpu", precision, "").autocast():
        assert (one @ one).dtype == getattr(torch, precision)


@pytest.mark.parametrize(
    ("device", "attention", "tokens"),
    [("cpu", "eager", 2_048), ("cuda", "sdpa", 16_384), ("mps", "sdpa", None)],
)
def test_attention_and_tokens_per_pass_depend_on_the_device(device, attention, tokens):
    """What is fast on a CPU is slow on a GPU."""
    machine = Machine(device, "float32", "")
    assert (machine.training_attention, machine.tokens_per_pass) == (attention, tokens)


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_the_free_memory_is_between_zero_and_the_total(device):
    """It is in bytes, of the host or of the GPU."""
    import psutil
    import torch

    total = psutil.virtual_memory().total
    if device == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device")
        total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < Machine(device, "float32", "").free_memory() <= total
