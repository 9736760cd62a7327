"""Records of a launch for later commands: launch.json at the start, receipt.json at the end."""

import json
from datetime import UTC, datetime
from typing import Any

import click

from job.core.errors import StorageError
from job.storage.workspace import write_atomically
from launcher.runs.run import LAUNCH, RECEIPT, Run


def record_launch(run: Run, request: dict[str, Any], **facts: object) -> None:
    """Write launch.json, and delete the receipt of an earlier attempt."""
    (run.folder / RECEIPT).unlink(missing_ok=True)
    launch = {"backend": request["backend"], "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    document = {**launch, **facts, "request": request}
    write_atomically(run.workspace.root / LAUNCH, json.dumps(document, indent=2))


def write_receipt(run: Run, code: int, seconds: float, **facts: object) -> dict[str, Any]:
    """Write and return the backend's facts about the ended job; they are not in the manifest."""
    price = (run.launch or {}).get("price_per_hour")
    receipt = {
        "backend": (run.launch or {}).get("backend"),
        "exit_code": code,
        "seconds": round(seconds, 1),
        "usd": None if price is None else round(seconds / 3600 * price, 4),
        **facts,
    }
    text = json.dumps(receipt, indent=2) + "\n"
    write_atomically(run.folder / RECEIPT, text)
    if code == 0 and run.is_remote:
        try:
            run.store.write(RECEIPT, text)
        except StorageError as error:
            # The run is complete without the receipt.
            click.echo(f"The receipt is in `{run.folder}` only: {error}", err=True)
    return receipt
