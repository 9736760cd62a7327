"""Stored runs of tiny models that were never trained: model, test set and report in one folder."""

import json

from reports import improved
from tiny_models import build_model

RECOMMENDED = 16
# Words of the tiny tokenizer.
PROMPTS = {"model.query_prompt": "ask9 is ", "model.document_prompt": "tell9 "}


def load_pairs(pairs_file):
    from job.data.dataset import load_dataset
    from job.spec.parse import build_spec

    settings = {"data.source": str(pairs_file), "data.limit": "120", "data.min_test_queries": "5"}
    return load_dataset(build_spec({}, settings).data, {})


def store_run(folder, shape, pairs_file):
    """Store a run of the tiny model of this shape, with prompts; return its folder."""
    import torch

    from job.data.dataset import write_splits
    from job.model.device import Machine
    from job.model.encoder import load_model
    from job.model.save import VectorSizes, write_model
    from job.spec.parse import build_spec

    base = build_model(shape, folder.with_name(f"{folder.name}-base"))
    spec = build_spec({}, {"model.base": str(base), **PROMPTS})
    model = load_model(spec.model, Machine("cpu", "float32", "set in the spec"))
    with torch.no_grad():
        for name, weights in model.encoder.named_parameters():
            # New weights are so small that all texts have almost the same vector.
            if weights.ndim == 2 and "position" not in name:
                weights.mul_(6)
    write_model(model, folder / "model", "float32", VectorSizes((64, RECOMMENDED)))
    write_splits(load_pairs(pairs_file), folder / "data")
    report = folder / "report" / "report.json"
    report.parent.mkdir()
    text = json.dumps(improved(recommendation__dimension=RECOMMENDED))
    report.write_text(text, "utf-8")
    return folder
