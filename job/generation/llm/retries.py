"""When to ask again, the same for every kind of language model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urllib3 import Retry

# Answers that mean "try again": too many requests, a fault of the server or of what is before it.
BUSY = (408, 409, 429, 500, 502, 503, 504)
# Two minutes in all: many limits are those of a minute.
ATTEMPTS, BACKOFF_SECONDS = 8, 0.5
# Of those, attempts that found no server, and those that ended without a whole answer.
CONNECTIONS, TIMEOUTS = 6, 2
# A server that wants a longer pause is not asked again in this run.
MAX_PAUSE_SECONDS = 600
# Answers that are cut off, or no answers of such an API, are asked for again so many times.
CUT_ATTEMPTS = 3
LATER = "Relaunch later: what was answered is kept."


def new_retries() -> "Retry":
    """Return the attempts of one request, and the pauses between them."""
    import urllib3

    return urllib3.Retry(
        ATTEMPTS,
        connect=CONNECTIONS,
        read=TIMEOUTS,
        redirect=0,
        status_forcelist=BUSY,
        allowed_methods=None,
        backoff_factor=BACKOFF_SECONDS,
        backoff_jitter=BACKOFF_SECONDS,
        backoff_max=60,
        retry_after_max=MAX_PAUSE_SECONDS,
        raise_on_status=False,
        raise_on_redirect=False,
    )
