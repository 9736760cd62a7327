"""Save the tuned model and check that it gives the embeddings that were scored."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from job.core.errors import TrainingError
from job.data.dataset import Dataset
from job.model.dtypes import converted_to
from job.model.encode import embed_texts
from job.model.encoder import Model, open_encoder
from job.model.parts import Role
from job.storage.workspace import sha256

# Texts to embed with both the saved model and the model in memory.
SAMPLE = 32
# Minimum cosine similarity of the two embeddings of a text.
MIN_COSINE = 0.999


def save_model(model: Model, folder: Path, dataset: Dataset, dtype: str = "float32") -> None:
    """Save the model; raise `TrainingError` if the saved model embeds texts differently."""
    write_model(model, folder, dtype)
    samples: dict[Role, list[str]] = {
        "query": dataset.test.texts[:SAMPLE].to_pylist(),
        "document": dataset.corpus.texts[:SAMPLE].to_pylist(),
    }
    for role, cosine in compare_saved(model, folder, samples).items():
        if not cosine >= MIN_COSINE:
            msg = f"The saved model embeds a text differently than the scored model ({role}: "
            msg += f"cosine {cosine:.4f}), so it was not published. This is a bug of embedtune: "
            raise TrainingError(msg + "report it with the name of the base model.")


def write_model(model: Model, folder: Path, dtype: str) -> None:
    """Write the model's folder anew, with weights of a number format."""
    shutil.rmtree(folder, ignore_errors=True)
    # `encode_query` and `encode_document` apply these prompts, also when users load the model.
    model.encoder.prompts = asdict(model.prompts)
    # The base model's default may name a prompt that no longer exists, or apply one unexpectedly.
    model.encoder.default_prompt_name = None
    with converted_to(model.encoder, dtype):
        model.encoder.save_pretrained(str(folder), create_model_card=False)
    for path in folder.rglob("*.safetensors"):
        # The library writes mode 0600, so that only the job's user could read the result.
        path.chmod(0o644)


def compare_saved(
    model: Model, folder: Path, samples: Mapping[Role, list[str]]
) -> dict[Role, float]:
    """Return the lowest cosine of a text's embeddings by the saved model and the one in memory.

    The saved model embeds as users do it, with `encode_query` and `encode_document`.
    """
    from torch.nn.functional import cosine_similarity

    machine, trust_code = model.machine, model.encoder.trust_remote_code
    saved = open_encoder(folder, machine.device, trust_code=trust_code, dtype="float32")
    encoders = {"query": saved.encode_query, "document": saved.encode_document}
    lowest: dict[Role, float] = {}
    for role, texts in samples.items():
        expected = embed_texts(model, texts, role, len(texts))
        with machine.autocast():
            actual = encoders[role](texts, convert_to_tensor=True, show_progress_bar=False)
        lowest[role] = float(cosine_similarity(expected, actual.float()).min())
    return lowest


def fingerprint(folder: Path) -> str:
    """Hash a model's weights, independent of file names; returns 16 hex digits."""
    digests = sorted(sha256(path) for path in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()[:16]
