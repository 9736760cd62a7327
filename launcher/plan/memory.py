"""Estimate whether a job's training fits the memory of its GPU, in full and with LoRA."""

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from job.core.memory import (
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
    needs = "; ".join(_needs(size, way, needed) for way, needed in states.items())
    found = (
        f"`{base}`, {size.parameters:,} parameters, in {precision}: {needs}, each for {MIN_ROWS} "
        f"texts of {USUAL_TOKENS} tokens. The {memory.device} has {memory.gigabytes:.3g} GB. "
        f"`training.lora` is `{'on' if lora.on else 'off'}`: {lora.reason}"
    )
    checkpointing = training.gradient_checkpointing != "off"
    chosen = states["LoRA" if lora.on else "all weights"]
    if with_texts(size, chosen, checkpointing=checkpointing) <= available:
        return CheckResult(NAME, "ok", found)
    ways = [] if lora.on else ["`training.lora=on`"]
    ways += [] if checkpointing else ["`training.gradient_checkpointing=auto`"]
    fix = " or ".join([*ways, "a machine with more memory"])
    return CheckResult(NAME, "doubtful", f"does not fit: {found}", fix)


def _needs(size: ModelSize, way: str, states: int) -> str:
    plain, less = (
        with_texts(size, states, checkpointing=checkpointing) / GB
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
        parameters = found.safetensors.total if found.safetensors else None
        return model_size(json.loads(Path(config).read_text("utf-8")), parameters)
    return None


def memory_here() -> DeviceMemory:
    """Return the memory of this machine's smallest GPU; without a GPU, that of the machine."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        mebibytes = min(map(int, found.stdout.split()))
        return DeviceMemory(mebibytes * 2**20 / GB, "bfloat16")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return DeviceMemory(host / GB, "float32", "machine")
