"""The columns that the library's trainer reads, with the prompt and the role of each."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset as ArrowDataset

from job.data.dataset import TrainingPairs
from job.model.encoder import Model
from job.model.parts import Role
from job.storage.arrow_tables import one_array


def training_rows(pairs: TrainingPairs) -> ArrowDataset:
    """Return the columns that the trainer expects: anchor, positive, negatives, row number."""
    table = pairs.table.select(["anchor", "positive"])
    # All rows have the same number of negatives (`pad_negatives`).
    negatives = one_array(pairs.table["negatives"]).flatten()
    columns = len(negatives) // max(1, len(pairs))
    for column in range(columns):
        texts = negatives.take(pa.array(np.arange(column, len(negatives), columns)))
        table = table.append_column(f"negative_{column + 1}", texts)
    return ArrowDataset(table.append_column("label", pa.array(np.arange(len(pairs)))))


def column_arguments(model: Model, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the library's arguments with the prompt and the role of each column of texts."""
    roles: dict[str, Role] = {
        name: "query" if name == "anchor" else "document" for name in columns if name != "label"
    }
    prompts = {name: model.prompt(role) for name, role in roles.items()}
    return {
        "prompts": {name: prompt for name, prompt in prompts.items() if prompt},
        # As `encode_query` and `encode_document` pass it; routers choose by it.
        "router_mapping": {**roles},
    }
