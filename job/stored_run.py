"""A stored run: its report, and the model that it proved."""

import json
from pathlib import Path

from job.core.errors import StorageError
from job.model.device import choose_machine
from job.model.encoder import Model, open_encoder, whole_model
from job.model.prompts import Prompts
from job.report.document import Report
from job.storage.workspace import explained


def read_stored_report(folder: Path) -> Report:
    """Read the report; raises `StorageError` if the run has no report or no model."""
    path = folder / "report" / "report.json"
    if not path.is_file() or not (folder / "model" / "modules.json").is_file():
        msg = f"`{folder}` has no report, or no model. Fetch both: `embedtune fetch NAME --model`."
        raise StorageError(msg)
    return Report.read(path.read_text("utf-8"), str(path))


def stored_prompts(folder: Path) -> Prompts:
    """Return the prompts that the stored model puts before texts."""
    path = folder / "model" / "config_sentence_transformers.json"
    with explained(path, "read"):
        found = json.loads(path.read_text("utf-8")).get("prompts") or {}
    return Prompts(found.get("query") or "", found.get("document") or "")


def load_stored_model(folder: Path, report: Report, device: str) -> Model:
    """Load the model of a run's folder, computing in float32, with vectors of full width."""
    machine = choose_machine(device, "float32")
    trust_code = bool(report.spec["model"].get("trust_remote_code"))
    model = folder / "model"
    encoder = open_encoder(model, machine.device, trust_code=trust_code, dtype="float32")
    return whole_model(encoder, machine)
