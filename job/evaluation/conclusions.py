"""What a lift with its interval shows, and what it does not.

A difference that is not significant is no proof of equality. Whether a gain or a loss is excluded
is decided by the interval and by the smallest lift that matters (`evaluation.worth`).
"""

import math

from job.core.formatting import change, format_p, interval
from job.evaluation.results import Lift

# The estimate of how many queries are needed says nothing if it is this many times their number:
# then the test set has too few groups.
MANY_TIMES = 200


def numbers(before: float, after: float, lift: Lift) -> str:
    """Return both scores, the lift, its interval and its p-value."""
    return (
        f"{before:.3f} → {after:.3f}, {change(lift.lift)} {interval(lift.ci)}, "
        f"{format_p(lift.p_value)}"
    )


def no_gain(lift: Lift, worth: float) -> str:
    """Return, as a clause, what is known of a gain that is not significant."""
    low, high = lift.bounds
    if high < worth:
        return f"there is no gain worth having ({caution(lift)}at most {change(max(0.0, high))})"
    if low <= 0:
        return f"the test cannot tell ({_range(lift, worth)})"
    return f"a gain is not shown ({caution(lift)}at most {change(high)})"


def no_loss(lift: Lift, worth: float, lost: str) -> str:
    """Return, as a clause, what is known of a loss that is not significant; `lost` is its verb."""
    low, _ = lift.bounds
    if low > -worth:
        return f"{caution(lift)}it lost at most {max(0.0, -low):.3f}"
    return f"the test cannot tell whether it {lost} ({_range(lift, worth)})"


def caution(lift: Lift) -> str:
    """Say why bounds are wider than the printed interval, if they are."""
    is_wider = interval(lift.bounds) != interval(lift.ci)
    return "with one more changed query or group, " if is_wider else ""


def _range(lift: Lift, worth: float) -> str:
    """Return the possible differences, and how many queries would narrow them to what matters."""
    low, high = lift.bounds
    between = f"{caution(lift)}the difference is between {change(low)} and {change(high)}"
    queries = lift.wins + lift.ties + lift.losses
    # Without a changed query the interval has the width that one more would give: it shrinks with
    # the number of queries, not with its root.
    power = 2 if lift.wins or lift.losses else 1
    needed = queries * ((high - low) / 2 / worth) ** power
    if needed <= queries:
        return between
    if needed > MANY_TIMES * queries:
        return f"{between}; far more test queries are needed"
    # Two digits: the interval is itself an estimate.
    digits = 1 - math.floor(math.log10(needed))
    return f"{between}; about {round(needed, digits):,.0f} test queries could tell"
