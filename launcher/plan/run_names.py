"""Names of runs: readable, sortable by time, and valid at every backend."""

import re
import secrets
from datetime import UTC, datetime

from job.core.errors import SpecError

# SageMaker's rule for training jobs, with room for the suffix of a resumed run (`-12`).
PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_CHARACTERS = 60


def new_name(base_model: str) -> str:
    """Combine model, time and random digits: `bge-base-en-v1-5-20261123-101500-3fa2`."""
    last = re.split("[/:]", base_model.rstrip("/"))[-1]
    stem = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stem[:30].strip('-') or 'run'}-{now}-{secrets.token_hex(2)}"


def check_name(name: str) -> str:
    if len(name) > MAX_CHARACTERS or not PATTERN.fullmatch(name):
        rule = f"letters, digits and inner hyphens, at most {MAX_CHARACTERS} characters"
        msg = f"`--name {name}` is invalid; expected {rule}."
        raise SpecError(msg)
    return name
