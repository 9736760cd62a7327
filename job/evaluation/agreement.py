"""Compare what two models rank first for the same queries; a sanity check, not a score."""

import numpy as np

from job.evaluation.results import Agreement
from job.storage.arrow_tables import IntArray

# Documents of a query that are compared.
FIRST = 10
# Of the first documents that the base model shares with the tested one. A model trained like the
# tested one shares more than the base model does; one whose training went wrong, nearly none.
MIN_SHARE_OF_BASE = 0.5


def compare_rankings(tested: IntArray, other: IntArray, base: IntArray) -> Agreement:
    """Compare a model's first documents with those of the tested model, and the base model's too.

    Each has the corpus positions of the best documents of each query, best first.
    """
    return Agreement(
        queries=len(tested),
        same_first=float(np.mean(tested[:, 0] == other[:, 0])),
        shared_of_ten=_shared(tested, other),
        base_shared_of_ten=_shared(tested, base),
    )


def is_plausible(found: Agreement) -> bool:
    return found.shared_of_ten >= MIN_SHARE_OF_BASE * found.base_shared_of_ten


def _shared(left: IntArray, right: IntArray) -> float:
    left, right = left[:, :FIRST], right[:, :FIRST]
    return float((left[:, :, None] == right[:, None, :]).any(axis=2).mean())
