"""Save the tuned model and check that it gives the embeddings that were scored."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

from job.core.errors import TrainingError
from job.data.dataset import Dataset
from job.model.encoder import Model, open_encoder
from job.storage.workspace import sha256

# Texts to embed with both the saved model and the model in memory.
SAMPLE = 32
# Minimum cosine similarity of the two embeddings of a text.
MIN_COSINE = 0.999


def save_model(model: Model, folder: Path, dataset: Dataset) -> None:
    """Save the model; raise `TrainingError` if the saved model embeds texts differently."""
    from torch.nn.functional import cosine_similarity

    shutil.rmtree(folder, ignore_errors=True)
    # `encode_query` and `encode_document` apply these prompts, also when users load the model.
    model.encoder.prompts = asdict(model.prompts)
    # The base model's default may name a prompt that no longer exists, or apply one unexpectedly.
    model.encoder.default_prompt_name = None
    model.encoder.save_pretrained(str(folder), create_model_card=False)
    for path in folder.rglob("*.safetensors"):
        # The library writes mode 0600, so that only the job's user could read the result.
        path.chmod(0o644)
    saved = open_encoder(
        folder,
        model.machine.device,
        trust_code=model.encoder.trust_remote_code,
        dtype="float32",
    )
    tested = {"encode_query": dataset.test.texts, "encode_document": dataset.corpus.texts}
    for encode, texts in tested.items():
        sample = texts[:SAMPLE].to_pylist()
        with model.machine.autocast():
            expected, actual = (
                getattr(encoder, encode)(sample, convert_to_tensor=True, show_progress_bar=False)
                for encoder in (model.encoder, saved)
            )
        lowest = float(cosine_similarity(expected.float(), actual.float()).min())
        if not lowest >= MIN_COSINE:
            msg = f"The saved model embeds a text differently than the scored model ({encode}: "
            msg += f"cosine {lowest:.4f}), so it was not published. This is a bug of embedtune: "
            raise TrainingError(msg + "report it with the name of the base model.")


def fingerprint(folder: Path) -> str:
    """Hash a model's weights, independent of file names; returns 16 hex digits."""
    digests = sorted(sha256(path) for path in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()[:16]
