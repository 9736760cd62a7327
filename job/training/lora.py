"""LoRA: train a low-rank adapter on frozen weights, and merge it into them at the end."""

import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from job.core.errors import SpecError, TrainingError
from job.data.dataset import Corpus
from job.distributed.process_group import from_rank_zero
from job.evaluation.evaluate import encode_documents
from job.model.encoder import Model, transformer_of
from job.runtime.logs import tell
from job.spec.schema import ResolvedTraining

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Texts embedded before and after merging, and how far their cosines may be from 1: half precision
# rounds each merged weight (job/LOG.md).
SAMPLE = 64
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-3


class Adapter:
    """The adapter of a model's transformer: the only weights that are trained."""

    def __init__(self, model: Model, spec: ResolvedTraining, base: str) -> None:
        """Freeze the model and add an adapter without effect; `base` names the base model.

        Raises `SpecError` if the model has no transformer, or not the layers of the spec.
        """
        transformer = transformer_of(model)
        if not hasattr(transformer, "config"):
            msg = "`training.lora` is `on`, but the model has no transformer, or several. "
            raise SpecError(msg + "Set it to `off`.")
        targets = _targets(transformer, spec.lora_targets)
        layers = [transformer.get_submodule(name) for name in targets]
        config = LoraConfig(
            r=spec.lora_rank,
            lora_alpha=2 * spec.lora_rank,
            lora_dropout=spec.dropout or 0.0,
            target_modules=targets,
            # GPT-2 keeps its weights transposed.
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers),
        )
        model.encoder.requires_grad_(requires_grad=False)
        # The same first weights on every rank, and after an interruption.
        torch.manual_seed(spec.seed)
        with warnings.catch_warnings():
            # peft asks transformers about checkpointing by an old name.
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped: PeftModel = get_peft_model(transformer, config)
        # Otherwise a path of this machine would be published.
        config.base_model_name_or_path = base
        self._config, self._model = config, model
        tell("lora", rank=config.r, layers=len(targets), parameters=self.parameters)

    @property
    def parameters(self) -> int:
        """The number of trained weights."""
        return sum(w.numel() for w in self._wrapped.parameters() if w.requires_grad)

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does, so that `PeftModel.from_pretrained` loads it."""
        folder.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = self._config.to_dict()  # type: ignore[no-untyped-call]
        # peft writes its sets in random order.
        config = {
            n: sorted(value) if isinstance(value, set) else value for n, value in given.items()
        }
        text = json.dumps(config | {"inference_mode": True}, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG_FILE).write_text(text, "utf-8")
        weights = get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        save_file({name: w.contiguous() for name, w in weights.items()}, folder / WEIGHTS_FILE)
        (folder / WEIGHTS_FILE).chmod(0o644)

    def load(self, folder: Path) -> None:
        """Load weights that `save` wrote; raise `ValueError` if they are another adapter's."""
        loaded = load_file(folder / WEIGHTS_FILE)
        own = get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        if loaded.keys() != own.keys():
            msg = "the adapter has other layers"
            raise ValueError(msg)
        set_peft_model_state_dict(self._wrapped, loaded)

    def merge(self, corpus: Corpus, batch_size: int) -> dict[str, Any]:
        """Add the adapter to the frozen weights; return facts with the lowest cosine of a text.

        Afterwards the model is an ordinary one. A collective call.
        Raises `TrainingError` if the vectors of the texts change by more than rounding.
        """
        config, sample = self._config, corpus.take(np.arange(min(SAMPLE, len(corpus))))
        facts = {"rank": config.r, "alpha": config.lora_alpha, "parameters": self.parameters}
        before = encode_documents(self._model, sample, batch_size)
        self._wrapped.merge_and_unload(safe_merge=True)
        after = encode_documents(self._model, sample, batch_size)
        lowest = from_rank_zero(
            lambda: float(torch.nn.functional.cosine_similarity(before, after).min())
        )
        tell("lora", merged="yes", lowest_cosine=round(lowest, 6))
        is_exact = self._model.machine.precision == "float32"
        if not lowest >= 1 - (TOLERANCE if is_exact else HALF_TOLERANCE):
            msg = (
                f"With the adapter merged into its weights, the model embeds a text differently "
                f"(cosine {lowest:.5f}), so it was not published. Set `model.precision=float32`, "
                "or `training.lora=off`."
            )
            raise TrainingError(msg)
        return facts | {"merged_cosine": round(lowest, 6)}


def _targets(transformer: torch.nn.Module, chosen: Collection[str] | None) -> list[str]:
    """Return the linear layers to adapt; `chosen` are the last parts of their names."""
    layers = [
        name
        for name, module in transformer.named_modules()
        # BERT's pooler is no part of the embedding: its adapter would get no gradients.
        if isinstance(module, torch.nn.Linear | Conv1D) and "pooler" not in name
    ]
    if not layers:
        msg = "`training.lora` is `on`, but the model has no linear layers. Set it to `off`."
        raise SpecError(msg)
    parts = {name.rsplit(".", 1)[-1] for name in layers}
    if unknown := sorted(set(chosen or ()) - parts):
        msg = f"`training.lora_targets` contains `{unknown[0]}`, which is no linear layer of the "
        raise SpecError(msg + f"model. Choose from: {', '.join(sorted(parts))}.")
    return [name for name in layers if not chosen or name.rsplit(".", 1)[-1] in chosen]
