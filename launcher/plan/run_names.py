"""Names of runs: readable, sortable by time, legal wherever a job can run."""

import re
import secrets
from datetime import UTC, datetime

from job.core.errors import SpecError

# SageMaker's rule for training jobs; a suffix for taken-up runs (`-12`) must fit as well.
PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_CHARACTERS = 60


def new_name(base_model: str) -> str:
    """Make a name from the model, the time and chance: `bge-base-en-v1-5-20261123-101500-3fa2`."""
    last = re.split("[/:]", base_model.rstrip("/"))[-1]
    stem = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stem[:30].strip('-') or 'run'}-{now}-{secrets.token_hex(2)}"


def check_name(name: str) -> str:
    if len(name) > MAX_CHARACTERS or not PATTERN.fullmatch(name):
        legal = f"letters, digits and inner hyphens, at most {MAX_CHARACTERS} characters"
        msg = f"`--name {name}` is not legal: {legal}."
        raise SpecError(msg)
    return name
