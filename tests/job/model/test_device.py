"""The device, precision and batch shape that a job uses; a missing device is an error."""

from types import SimpleNamespace

import pytest

from job.core.errors import MachineError
from job.model.device import M_MMAP_MAX, M_TRIM_THRESHOLD, Machine, choose_machine, fixed_order
from job.model.passes import PassCost

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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_freed_memory_is_kept_on_every_device(device, monkeypatch):
    """With a GPU, the host has large tensors too."""
    calls = []
    monkeypatch.setattr(
        "ctypes.CDLL", lambda _: SimpleNamespace(mallopt=lambda *a: calls.append(a))
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda _: None)
    choose_machine(device, "float32")
    assert [option for option, _ in calls] == [M_MMAP_MAX, M_TRIM_THRESHOLD]


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


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_driver_that_is_too_old_is_named_with_the_one_that_is_needed(
    gpu, monkeypatch, tmp_path, device
):
    """Also if the GPU is asked for: "not usable" alone would not help."""
    gpu("nvidia0")
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May\n")
    monkeypatch.setattr("job.core.drivers.VERSION_FILE", version)
    monkeypatch.setattr("torch.version.cuda", "13.0")

    expected = r"its driver is 535\.183\.01, but CUDA 13\.0 needs 580\.65\.06 .*`CUDA_COMPAT`"
    with pytest.raises(MachineError, match=expected):
        choose_machine(device, "float32")


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
    ("device", "precision", "attention", "cost"),
    [
        ("cpu", "bfloat16", "eager", PassCost(128, 16, 2_048)),
        ("cpu", "float32", "eager", PassCost(128, 8, 4_096)),
        ("cuda", "float32", "sdpa", PassCost(512, 8)),
        ("mps", "float32", "sdpa", None),
    ],
)
def test_attention_and_passes_depend_on_the_device(device, precision, attention, cost):
    """What is fast on a CPU is slow on a GPU."""
    machine = Machine(device, precision, "")
    assert (machine.training_attention, machine.pass_cost) == (attention, cost)


@pytest.mark.parametrize(("device", "is_fixed"), [("cuda", True), ("cpu", False)])
def test_a_gpu_can_be_made_to_add_in_a_fixed_order(device, is_fixed):
    """Only within the block; CPUs always do, and keep their kernels."""
    import torch

    def state():
        cuda = torch.backends.cuda
        fused = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()
        return torch.are_deterministic_algorithms_enabled(), *fused

    usual = state()
    with fixed_order(device):
        assert state() == ((True, False, False) if is_fixed else usual)
    assert state() == usual == (False, True, True)


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
