"""How many cases: few and always the same ones in CI, `FUZZ_CASES=20000` new ones by hand."""

import os

from hypothesis import HealthCheck, settings

GIVEN = os.environ.get("FUZZ_CASES")


def cases(in_ci):
    """Decorate a property with its number of cases."""
    return settings(
        max_examples=int(GIVEN or in_ci),
        derandomize=not GIVEN,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
