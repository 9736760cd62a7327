"""Estimate whether a job's training fits the memory of its GPU, in full and with LoRA."""

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from job.core.memory import (
    BUFFERS,
    GB,
    MIN_ROWS,
    USUAL_TOKENS,
    ModelSize,
    choose_lora,
    model_size,
    read_size,
    with_texts,
)
from launcher.plan.checks import CheckResult
from launcher.plan.plan import BUILTIN, Plan

NAME = "memory"
HUB_SECONDS = 5
# From this compute capability, NVIDIA GPUs compute in bfloat16; the V100 has 7.0, the T4 7.5.
BFLOAT16_CAPABILITY = 8.0


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of a machine's device in gigabytes, and the precision in which it computes."""

    gigabytes: float
    precision: str
    device: str = "GPU"


def check_memory(plan: Plan, memory: DeviceMemory | None) -> CheckResult:
    """Compare the estimates with the memory of a device."""
    base, training = plan.spec.model.base, plan.spec.training
    if memory is None:
        return CheckResult(NAME, "skipped", "the memory of that machine's GPU is unknown here")
    size = _model_size(plan)
    if size is None:
        return CheckResult(NAME, "skipped", f"the size of `{base}` is unknown here")
    set_in_spec, available = plan.spec.model.precision, int(memory.gigabytes * GB)
    precision = memory.precision if set_in_spec == "auto" else set_in_spec
    states = {
        "all weights": size.full_bytes(precision),
        "LoRA": size.lora_bytes(training.lora_rank, precision),
    }
    lora = choose_lora(training.lora, size, available, precision)
    needs = "; ".join(_needs(size, way, needed, precision) for way, needed in states.items())
    found = (
        f"`{base}`, {size.parameters:,} parameters, in {precision}: {needs}, each for {MIN_ROWS} "
        f"texts of {USUAL_TOKENS} tokens. The {memory.device} has {memory.gigabytes:.3g} GB. "
        f"`training.lora` is `{'on' if lora.on else 'off'}`: {lora.reason}"
    )
    checkpointing = training.gradient_checkpointing != "off"
    chosen = states["LoRA" if lora.on else "all weights"]
    if with_texts(size, chosen, precision, checkpointing=checkpointing) <= available:
        return CheckResult(NAME, "ok", found)
    ways = [] if lora.on else ["`training.lora=on`"]
    ways += [] if checkpointing else ["`training.gradient_checkpointing=auto`"]
    fix = " or ".join([*ways, "a machine with more memory"])
    return CheckResult(NAME, "doubtful", f"does not fit: {found}", fix)


def _needs(size: ModelSize, way: str, states: int, precision: str) -> str:
    plain, less = (
        with_texts(size, states, precision, checkpointing=checkpointing) / GB
        for checkpointing in (False, True)
    )
    return f"{way} {plain:.1f} GB ({less:.1f} GB with gradient checkpointing)"


def _model_size(plan: Plan) -> ModelSize | None:
    """Read a model's sizes from its local files, or from the Hub's metadata."""
    base = plan.spec.model.base
    if (folder := plan.inputs.get("model")) is not None:
        return read_size(folder) if folder.is_dir() else None
    if base.startswith(("s3://", BUILTIN)):
        return None
    from huggingface_hub import HfApi, hf_hub_download

    # Only the estimate depends on this; the job itself reports a wrong model id.
    with suppress(Exception):
        revision = plan.spec.model.revision
        found = HfApi().model_info(base, revision=revision, timeout=HUB_SECONDS)
        config = hf_hub_download(base, "config.json", revision=revision, etag_timeout=HUB_SECONDS)
        formats = found.safetensors.parameters if found.safetensors else {}
        parameters = sum(n for name, n in formats.items() if name not in BUFFERS) or None
        return model_size(json.loads(Path(config).read_text("utf-8")), parameters)
    return None


def memory_here() -> DeviceMemory:
    """Return the memory of this machine's smallest GPU; without a GPU, that of the machine."""
    if mebibytes := _ask_gpus("memory.total"):
        capability = min(_ask_gpus("compute_cap"), default=BFLOAT16_CAPABILITY)
        precision = "bfloat16" if capability >= BFLOAT16_CAPABILITY else "float16"
        return DeviceMemory(min(mebibytes) * 2**20 / GB, precision)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return DeviceMemory(host / GB, "float32", "machine")


def _ask_gpus(field: str) -> list[float]:
    """Return a field of each NVIDIA GPU; empty without GPUs, or if the driver lacks the field."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        return [float(line) for line in found.stdout.split()]
    return []
