"""The tuned model on disk, proven to be the one that was scored."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

from job.core.errors import TrainingError
from job.data.dataset import Dataset
from job.model.encoder import Model
from job.storage.workspace import sha256

# Texts of the sample that the saved model must embed as the one in memory does.
SAMPLE = 32
# Cosine similarity below which two embeddings of one text are not the same.
SAME = 0.999


def save_model(model: Model, folder: Path, dataset: Dataset) -> None:
    """Save the model and prove that what was saved is what was scored."""
    from sentence_transformers import SentenceTransformer

    shutil.rmtree(folder, ignore_errors=True)
    # What `encode_query` and `encode_document` apply, here and wherever the model is loaded.
    model.encoder.prompts = asdict(model.prompts)
    # A default of the base model's own would name a prompt that is gone, or apply one unasked.
    model.encoder.default_prompt_name = None
    model.encoder.save_pretrained(str(folder), create_model_card=False)
    for path in folder.rglob("*.safetensors"):
        # Written 0600 by default: nobody but the job's user could read the result.
        path.chmod(0o644)
    stored = SentenceTransformer(
        str(folder), device=model.machine.device, model_kwargs={"dtype": "float32"}
    )
    tested = {"encode_query": dataset.test.texts, "encode_document": dataset.corpus.texts}
    for encode, texts in tested.items():
        sample = texts[:SAMPLE].to_pylist()
        with model.machine.autocast():
            kept, loaded = (
                getattr(encoder, encode)(sample, convert_to_tensor=True, show_progress_bar=False)
                for encoder in (model.encoder, stored)
            )
        closest = float((kept * loaded).sum(1).div(kept.norm(dim=1) * loaded.norm(dim=1)).min())
        if not closest >= SAME:
            msg = f"The saved model embeds a text differently ({encode}: cosine {closest:.4f} to "
            msg += "the scored one); it was not published. Report this as a fault of embedtune, "
            raise TrainingError(msg + "with the name of the base model.")


def fingerprint(folder: Path) -> str:
    """Digest a model's weights, whatever their files are called: 16 hex digits."""
    digests = sorted(sha256(path) for path in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()[:16]
