"""Texts to vectors: by this process alone, or shared out among all those of the run."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from job import crew
from job.machine import choose_machine
from job.memory import retry_on_oom
from job.model import Model, load_model
from job.spec import ModelSpec

if TYPE_CHECKING:
    import torch

# With fewer texts for each process, sharing them out takes longer than encoding them.
TEXTS_WORTH_SHARING = 256


def encode_block(model: Model, texts: list[str], prompt: str, batch_size: int) -> "torch.Tensor":
    """Embed texts with a prompt before each: (n, width), float32, on the model's device."""
    if not crew.is_assisted() or len(texts) < TEXTS_WORTH_SHARING * crew.size():
        return _encode(model, texts, prompt, batch_size)
    from sentence_transformers.util.distributed import distributed_evaluation

    crew.ask(_serve)
    crew.share_weights(model.encoder)
    # The library deals them out in runs: neighbours, often of one length, go to different ones.
    order = np.concatenate([np.arange(k, len(texts), crew.size()) for k in range(crew.size())])
    with distributed_evaluation(model.encoder):
        vectors = _encode(model, [texts[row] for row in order], prompt, batch_size)
    return vectors[np.argsort(order)]


def _serve(own: crew.Mate) -> None:
    """Encode what the conductor's library deals out, until it has enough."""
    from sentence_transformers.util.distributed import distributed_evaluation

    model = own.known_model
    crew.share_weights(model.encoder)
    with model.machine.autocast(), distributed_evaluation(model.encoder):
        return


def _encode(model: Model, texts: list[str], prompt: str, batch_size: int) -> "torch.Tensor":
    import torch

    def vectors(rows: int) -> "torch.Tensor":
        with torch.inference_mode(), model.machine.autocast():
            found: torch.Tensor = model.encoder.encode(
                texts,
                prompt=prompt,
                batch_size=rows,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        return found.float()

    return retry_on_oom(batch_size, vectors, "encode")


def introduce(model: Model, spec: ModelSpec, folder: Path) -> None:
    """Have the other processes of the run load the model from its folder as well."""
    crew.ask(_meet, spec, model.machine.precision)
    crew.share_folder(folder)


def _meet(own: crew.Mate, spec: ModelSpec, precision: str) -> None:
    machine = choose_machine(own.device, precision)
    folder = crew.share_folder(None, own.workspace.fetched / "model")
    own.model = load_model(spec, machine, folder)
