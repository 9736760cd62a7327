"""Find the weights that no embedding depends on, such as the pooler of a BERT."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from job.distributed import process_group
from job.model.encoder import Model
from job.model.parts import ROLES, Role


def exclude_unused_weights(model: Model) -> bool:
    """Exclude them from the exchange of gradients; return whether to search others in each step.

    With several processes, torch waits for the gradient of every weight. Searching in each step
    for those that have none takes a walk through the graph of every forward pass and a collective
    call, and fails if a step has several passes. A router's weights all have gradients: each step
    embeds questions and documents.
    """
    if process_group.world_size() == 1:
        return False
    query, document = (_without_gradient(model, role) for role in ROLES)
    unused = [name for name in query if name in document]
    # Others, such as experts, may be used by other texts.
    if any("pooler" not in name for name in unused):
        return True
    # No gradient changes them, so they stay equal on all ranks.
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model.encoder, unused)
    return False


def _without_gradient(model: Model, role: Role) -> list[str]:
    """Return the names of the trainable weights that do not change the embedding of a text."""
    encoder = model.encoder
    trained = {name: w for name, w in encoder.named_parameters() if w.requires_grad}
    features = {
        name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
        for name, value in encoder.preprocess(["a text"], task=role).items()
    }
    gpus = [encoder.device] if model.machine.device == "cuda" else []
    with torch.random.fork_rng(gpus), model.machine.autocast(), model.training():
        total = encoder(features)["sentence_embedding"].float().sum()
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return [name for name, found in zip(trained, gradients, strict=True) if found is None]
