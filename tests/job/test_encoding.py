"""Texts are encoded together as they are alone: the same vectors, in their order."""

import pytest
from conftest import make_pairs
from worker_processes import together

from job import crew
from job.encoding import TEXTS_WORTH_SHARING
from job.machine import Machine
from job.model import Model, Prompts

CPU = Machine("cpu", "float32", "as the spec says")
# One more than goes up among three, of several lengths.
COUNT = 3 * TEXTS_WORTH_SHARING + 1
TEXTS = [row["context"] * (1 + number % 3) for number, row in enumerate(make_pairs(COUNT))]


def load(folder):
    from sentence_transformers import SentenceTransformer

    return Model(SentenceTransformer(folder, device="cpu").eval(), CPU, 64, Prompts())


def spoil(model):
    """Give a process weights that are not the conductor's."""
    import torch

    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.0)


def count_texts(model):
    """Count what a process really encodes itself."""
    seen, tokenize = [], model.encoder.preprocess

    def counting(texts, *arguments, **options):
        seen.extend(texts)
        return tokenize(texts, *arguments, **options)

    model.encoder.preprocess = counting
    return seen


def encode_once(rank, folder, texts, prompt, capacity=None):
    """Return the vectors, or nothing, and how many texts this process has encoded."""
    from job.encoding import encode_block

    model = load(folder)
    if rank > 0:
        spoil(model)
    if rank == 1 and capacity:
        cramp(model, capacity)
    seen = count_texts(model)
    if rank > 0:
        crew.assist(crew.Mate(None, None, "cpu", model))
        return None, len(seen)
    vectors = encode_block(model, texts, prompt, 32)
    crew.dismiss()
    return vectors.numpy().tobytes(), len(seen)


def cramp(model, capacity):
    """Let a process have memory for so many texts at once."""
    forward = model.encoder.forward

    def limited(features, **options):
        if len(features["input_ids"]) > capacity:
            msg = "DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(msg)
        return forward(features, **options)

    model.encoder.forward = limited


@pytest.fixture(scope="module")
def alone(tiny_encoder):
    """Encode in one process, as the library does."""
    ((vectors, count),) = together(1, encode_once, str(tiny_encoder), TEXTS, "of ")
    assert count == COUNT
    return matrix(vectors)


def matrix(found):
    import numpy as np

    return np.frombuffer(found, np.float32).reshape(-1, 64)


@pytest.mark.parametrize("processes", [2, 3])
def test_shared_out_texts_get_the_vectors_that_they_get_alone(tiny_encoder, alone, processes):
    """In their order, with the prompt, by the conductor's weights, and each text once.

    Batches of other texts are padded otherwise, which moves the last bits.
    """
    import numpy as np

    found = together(processes, encode_once, str(tiny_encoder), TEXTS, "of ")

    np.testing.assert_allclose(matrix(found[0][0]), alone, rtol=0, atol=1e-6)
    shares = [count for _, count in found]
    assert sum(shares) == COUNT
    assert max(shares) - min(shares) <= 1


def test_the_prompt_and_the_weights_matter(tiny_encoder, alone):
    """Vectors of another prompt, or of a spoilt model, would have been noticed."""
    import numpy as np

    ((plain, _),) = together(1, encode_once, str(tiny_encoder), TEXTS, "")

    assert np.abs(matrix(plain) - alone).max() > 0.01


def test_few_texts_are_encoded_by_the_conductor_alone(tiny_encoder, alone):
    """Sharing out would take longer than the work."""
    few = TEXTS[: 2 * TEXTS_WORTH_SHARING - 1]

    (vectors, count), other = together(2, encode_once, str(tiny_encoder), few, "of ")

    assert (count, other) == (len(few), (None, 0))
    assert matrix(vectors).shape == (len(few), 64)


def test_memory_that_runs_out_in_another_process_halves_the_rows_of_all(tiny_encoder, alone):
    """The work begins anew with smaller batches, and ends with the same vectors."""
    import numpy as np

    found = together(2, encode_once, str(tiny_encoder), TEXTS, "of ", 8)

    np.testing.assert_allclose(matrix(found[0][0]), alone, rtol=0, atol=1e-6)
    # 32 rows at once, then 16, then 8.
    assert found[0][1] == 3 * ((COUNT + 1) // 2)


def introduced(rank, folder, fetched):
    """Introduce the model and have it encode; returns where the process has it from."""
    from pathlib import Path

    from job.encoding import encode_block, introduce
    from job.spec import ModelSpec
    from job.workspace import Workspace

    if rank > 0:
        mate = crew.Mate(Workspace(Path(fetched)), None, "cpu")
        crew.assist(mate)
        return sorted(path.name for path in mate.workspace.fetched.rglob("*.safetensors"))
    model = load(folder)
    introduce(model, ModelSpec(base=folder, precision="float32"), Path(folder))
    vectors = encode_block(model, TEXTS, "of ", 32)
    crew.dismiss()
    return vectors.numpy().tobytes()


def test_a_process_on_another_host_loads_the_model_from_its_copy(tiny_encoder, alone, tmp_path):
    """It has no model of its own before, and encodes its share with this one."""
    import numpy as np

    vectors, files = together(2, introduced, str(tiny_encoder), str(tmp_path / "host-2"), hosts=2)

    assert files == ["model.safetensors"]
    np.testing.assert_allclose(matrix(vectors), alone, rtol=0, atol=1e-6)
