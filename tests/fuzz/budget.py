"""The number of cases: few and fixed in CI; `FUZZ_CASES=20000 pytest -m exhaustive` runs many."""

import os

from hypothesis import HealthCheck, settings

GIVEN = os.environ.get("FUZZ_CASES")


def cases(in_ci):
    """Return a decorator that sets a property's number of cases."""
    return settings(
        max_examples=int(GIVEN or in_ci),
        derandomize=not GIVEN,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
