"""Embed texts: the same way for base and tuned model, in training and in the final check."""

from typing import TYPE_CHECKING

from job.model.encoder import Model
from job.model.parts import Role

if TYPE_CHECKING:
    from torch import Tensor


def embed_texts(model: Model, texts: list[str], role: Role, batch_size: int) -> "Tensor":
    """Embed texts, each with the prompt of its role in front.

    Returns float32 vectors of length 1, (n, width), on the model's device.
    """
    import torch

    with torch.inference_mode(), model.machine.autocast():
        found = model.encoder.encode(
            texts,
            prompt=model.prompt(role),
            task=role,
            batch_size=batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
    # Outside autocast, which would round the vectors.
    return torch.nn.functional.normalize(found.float(), dim=1)
