"""Texts to vectors: by one process alone, or by all ranks together, each of which has a share."""

import torch

from job import process_group
from job.memory import retry_on_oom
from job.model import Model


def encode_block(model: Model, texts: list[str], prompt: str, batch_size: int) -> torch.Tensor:
    """Embed texts with a prompt before each: (n, width), float32, on the model's device.

    A collective call; rank 0 alone gets the vectors, the others a tensor without values (`meta`).
    """
    size = process_group.world_size()
    if size == 1:
        return _encode(model, texts, prompt, batch_size)
    # Neighbours, often of one length, go to different ranks.
    own = _encode(model, texts[process_group.rank() :: size], prompt, batch_size)
    padded = own.new_zeros(-(-len(texts) // size), model.width)
    padded[: len(own)] = own
    shares = process_group.all_gather(padded)
    if not process_group.is_rank_zero():
        return torch.empty(len(texts), model.width, device="meta")
    return torch.stack(shares, dim=1).flatten(end_dim=1)[: len(texts)]


def _encode(model: Model, texts: list[str], prompt: str, batch_size: int) -> torch.Tensor:
    def vectors(rows: int) -> torch.Tensor:
        with torch.inference_mode(), model.machine.autocast():
            found: torch.Tensor = model.encoder.encode(
                texts,
                prompt=prompt,
                batch_size=rows,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        return found.float()

    if not texts:
        return torch.empty(0, model.width, device=model.encoder.device)
    return retry_on_oom(batch_size, vectors, "encode")
