"""`doctor JOB_FILE` estimates the memory of a training: in full, with LoRA, on the chosen GPU."""

import json
import struct

import pytest
from click.testing import CliRunner

from job.core.memory import choose_lora, model_size, read_size
from job.spec.parse import build_spec
from launcher.aws.instances import gpu_memory
from launcher.cli import main
from launcher.plan.machine import MachineOptions
from launcher.plan.memory import DeviceMemory, check_memory, memory_here
from launcher.plan.plan import Plan

# The configurations of Qwen3-Embedding, from its model cards.
QWEN3 = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
             "intermediate_size": 3072, "vocab_size": 151_669},
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
           "intermediate_size": 9728, "vocab_size": 151_665},
}  # fmt: skip
SHARED = {"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "model_type": "qwen3"}
A10G = DeviceMemory(24, "bfloat16")
BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072}  # fmt: skip


def shapes_of(config):
    """Return the shapes of Qwen3's weights; the token embeddings are its only other large one."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    queries, keys = config["num_attention_heads"] * 128, 8 * 128
    layer = [(queries, width), (keys, width), (keys, width), (width, queries), (128,), (128,)]
    layer += [(inner, width), (inner, width), (width, inner), (width,), (width,)]
    return [(config["vocab_size"], width), (width,), *layer * config["num_hidden_layers"]]


@pytest.fixture
def qwen3(tmp_path):
    """Write the files of a model, with headers of weights but no values."""

    def write(size):
        folder = tmp_path / f"Qwen3-Embedding-{size}"
        folder.mkdir(exist_ok=True)
        config = SHARED | QWEN3[size]
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        shapes = enumerate(shapes_of(config))
        weights = {str(n): {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, 0]}
                   for n, shape in shapes}  # fmt: skip
        header = json.dumps(weights | {"__metadata__": {"format": "pt"}}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        return folder

    return write


def check(base, memory=A10G, **fields):
    given = {name.replace("__", "."): value for name, value in fields.items()}
    spec = build_spec({}, {"model.base": str(base)} | given)
    return check_memory(Plan("doctor", spec, MachineOptions()), memory)


def test_a_small_decoder_is_trained_by_an_adapter_although_it_would_fit(qwen3):
    """Qwen3-Embedding-0.6B on 24 GB, in full and with LoRA."""
    folder = qwen3("0.6B")
    found = check(folder)

    assert read_size(folder).parameters == 595_776_512
    assert found.state == "ok"
    assert found.found == (
        f"`{folder}`, 595,776,512 parameters, in bfloat16: all weights 20.8 GB (11.8 GB with "
        "gradient checkpointing); LoRA 11.4 GB (2.4 GB with gradient checkpointing), each for 8 "
        "texts of 512 tokens. The GPU has 24 GB. `training.lora` is `on`: a decoder with "
        "595,776,512 parameters"
    )
    assert "`training.lora` is `off`: set in the spec" in check(folder, training__lora="off").found


def test_a_large_decoder_fits_24_gb_with_an_adapter_only(qwen3):
    """Qwen3-Embedding-4B: the estimate of full training exceeds 24 GB."""
    folder = qwen3("4B")
    found = check(folder)
    full = check(folder, training__lora="off")

    assert read_size(folder).parameters == 4_021_774_336
    assert found.state == "ok"
    assert "all weights 105.4 GB (75.6 GB with gradient checkpointing)" in found.found
    assert "LoRA 41.5 GB (11.8 GB with gradient checkpointing)" in found.found
    assert (full.state, full.found[:12]) == ("doubtful", "does not fit")
    assert full.fix == "`training.lora=on` or a machine with more memory"
    without = check(folder, training__gradient_checkpointing="off")
    assert without.fix == "`training.gradient_checkpointing=auto` or a machine with more memory"


@pytest.mark.parametrize(
    ("config", "parameters", "gigabytes", "on"),
    [
        # An encoder as large is trained in full where it fits, with checkpointing if need be.
        (BERT, 600e6, 24, False),
        (BERT, 600e6, 8, True),
        # Below 200 M parameters, memory never changes the result.
        (BERT, 109e6, 0.1, False),
        (SHARED | QWEN3["0.6B"], 308e6, 24, False),
        (SHARED | QWEN3["0.6B"], 501e6, 1000, True),
        # A multimodal model states the sizes of its text model in a part of its configuration.
        ({"text_config": SHARED | QWEN3["0.6B"]}, 501e6, 1000, True),
        ({}, 600e6, 1, False),
    ],
)
def test_lora_is_automatic_for_decoders_and_where_memory_lacks(config, parameters, gigabytes, on):
    size = model_size(config, int(parameters))
    assert choose_lora("auto", size, int(gigabytes * 1e9), "bfloat16").on == on
    assert choose_lora("on", size, 0, "bfloat16").on
    assert not choose_lora("off", size, 0, "bfloat16").on


def test_the_precision_decides_the_bytes_of_frozen_weights(qwen3):
    """bfloat16 halves them; float16 does not, since models in bfloat16 exceed its range."""
    size = read_size(qwen3("0.6B"))
    halved, *others = (size.lora_bytes(16, name) for name in ("bfloat16", "float16", "float32"))
    assert others == [halved + 2 * size.parameters] * 2
    assert gpu_memory("ml.g4dn.xlarge") == (16, "float16")
    assert gpu_memory("ml.p3.2xlarge") == (16, "float16")
    assert gpu_memory("ml.g5.2xlarge") == (24, "bfloat16")
    assert gpu_memory("local") is None


@pytest.mark.parametrize(
    ("memory", "capabilities", "found"),
    [
        # A T4, two A10G, and an A10G beside a T4: the weaker one decides.
        ("15360", "7.5", DeviceMemory(16.106, "float16")),
        ("23028\n23028", "8.6\n8.6", DeviceMemory(24.147, "bfloat16")),
        ("23028\n15360", "8.6\n7.5", DeviceMemory(16.106, "float16")),
        # A driver that does not know the field.
        ("23028", None, DeviceMemory(24.147, "bfloat16")),
    ],
)
def test_the_gpu_of_this_machine_decides_the_precision(
    monkeypatch, tmp_path, memory, capabilities, found
):
    """GPUs below compute capability 8.0 have no bfloat16, and keep frozen weights as float32."""
    known = "" if capabilities is None else f"*compute_cap*) printf '{capabilities}\\n';;"
    script = f"case $1 in *memory.total*) printf '{memory}\\n';; {known} *) exit 2;; esac"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    here = memory_here()

    assert (round(here.gigabytes, 3), here.precision) == (found.gigabytes, found.precision)


def test_doctor_prints_the_estimate_of_a_job(qwen3, tmp_path):
    """Without it, the first step of a paid run would tell."""
    job = tmp_path / "job.yaml"
    job.write_text(f"model:\n  base: {qwen3('4B')}\n", "utf-8")
    done = CliRunner(env={"COLUMNS": "600"}).invoke(
        main, ["doctor", str(job), "--backend", "process"]
    )
    assert "memory" in done.stdout
    assert "4,021,774,336 parameters" in done.stdout


def test_an_unknown_model_or_gpu_is_no_obstacle():
    assert check("builtin:minilm").state == "skipped"
    assert check("builtin:minilm", memory=None).state == "skipped"
