"""Save the tuned model and check that it gives the embeddings that were scored."""

import hashlib
import inspect
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from job.core.errors import TrainingError
from job.data.dataset import Dataset
from job.model.dtypes import converted_to
from job.model.encode import embed_texts
from job.model.encoder import Model, open_encoder
from job.model.parts import Role, max_tokens
from job.model.server_files import write_for_servers
from job.storage.workspace import sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Texts to embed with both the saved model and the model in memory.
SAMPLE = 32
# Minimum cosine similarity of the two embeddings of a text.
MIN_COSINE = 0.999


@dataclass(frozen=True)
class VectorSizes:
    """The dimensions that may be asked of the saved model, and its default (None: full width)."""

    dimensions: Sequence[int] = ()
    default: int | None = None


FULL_WIDTH = VectorSizes()


def save_model(
    model: Model,
    folder: Path,
    dataset: Dataset,
    dtype: str = "float32",
    sizes: VectorSizes = FULL_WIDTH,
) -> None:
    """Save the model; raise `TrainingError` if the saved model embeds texts differently."""
    write_model(model, folder, dtype, sizes)
    samples: dict[Role, list[str]] = {
        "query": dataset.test.texts[:SAMPLE].to_pylist(),
        "document": dataset.corpus.texts[:SAMPLE].to_pylist(),
    }
    cosines, unequal = compare_saved(model, folder, samples)
    lowest = min(cosines, key=lambda role: cosines[role])
    if unequal or not cosines[lowest] >= MIN_COSINE:
        msg = f"The saved model embeds a text differently than the scored model ({lowest}: cosine "
        msg += f"{cosines[lowest]:.4f}; {len(unequal)} weights differ), so it was not published. "
        msg += "This is a bug of embedtune: report it with the name of the base model."
        raise TrainingError(msg)


def write_model(model: Model, folder: Path, dtype: str, sizes: VectorSizes = FULL_WIDTH) -> None:
    """Write the model to a folder, with weights of a number format; replace what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    # `encode_query` and `encode_document` apply these prompts, also when users load the model.
    model.encoder.prompts = asdict(model.prompts)
    # The base model's default may name a prompt that no longer exists, or apply one unexpectedly.
    model.encoder.default_prompt_name = None
    with (
        converted_to(model.encoder, dtype),
        model.encoder.truncate_embeddings(sizes.default),
    ):
        model.encoder.save_pretrained(str(folder), create_model_card=False)
    _copy_own_code(model.encoder, folder)
    write_for_servers(folder, max_tokens(model.encoder, "document"), sizes.dimensions)
    for path in folder.rglob("*.safetensors"):
        # The library writes mode 0600, so that only the job's user could read the result.
        path.chmod(0o644)


def _copy_own_code(encoder: "SentenceTransformer", folder: Path) -> None:
    """Copy the Python files of the model's own modules, which the library does not save."""
    for module in encoder.modules():
        # Where transformers imports the code of models from.
        if type(module).__module__.startswith("transformers_modules."):
            for path in Path(inspect.getfile(type(module))).parent.glob("*.py"):
                if path.name != "__init__.py" and not (folder / path.name).exists():
                    shutil.copyfile(path, folder / path.name)


def compare_saved(
    model: Model, folder: Path, samples: Mapping[Role, list[str]]
) -> tuple[dict[Role, float], list[str]]:
    """Return the lowest cosine of a text's embeddings by the saved model and the one in memory.

    The saved model embeds as users do it, with `encode_query` and `encode_document`. Also returns
    the names of weights that differ once loaded: a module that does not load what it saved may
    still embed nearly alike after few steps.
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
        # The saved model may truncate by default.
        expected = expected[:, : actual.shape[1]]
        lowest[role] = float(cosine_similarity(expected, actual.float()).min())
    return lowest, _unequal_weights(model.encoder, saved)


def _unequal_weights(kept: "SentenceTransformer", loaded: "SentenceTransformer") -> list[str]:
    """Name the weights that differ by more than a rounding to 16 bits."""
    import torch

    found = dict(loaded.named_parameters())
    pairs = (
        (name, weights.detach().float(), found[name].detach().float())
        for name, weights in kept.named_parameters()
        if name in found
    )
    # Mostly they are equal, which takes much less time to see.
    return [
        name
        for name, one, other in pairs
        if not torch.equal(one, other) and not torch.allclose(one, other, rtol=1e-2, atol=1e-5)
    ]


def fingerprint(folder: Path) -> str:
    """Hash a model's weights, independent of file names; returns 16 hex digits."""
    digests = sorted(sha256(path) for path in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()[:16]
