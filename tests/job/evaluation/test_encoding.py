"""Several ranks encode texts to the same vectors, in the same order, as one process."""

import numpy as np
import pytest
from conftest import make_pairs
from sentence_transformers import SentenceTransformer
from worker_processes import together

from job.evaluation.evaluate import encode_block
from job.model.device import Machine
from job.model.encoder import Model, Prompts

CPU = Machine("cpu", "float32", "as the spec says")
# Not divisible by three ranks, and of several lengths.
TEXTS = [row["context"] * (1 + number % 3) for number, row in enumerate(make_pairs(100))]


def encode_once(rank, folder, texts, prompt, capacity=None):
    """Return the vectors' bytes (or the device of a `meta` tensor), and the texts it encoded."""
    model = Model(SentenceTransformer(folder, device="cpu").eval(), CPU, 64, Prompts(prompt))
    seen, forward = [], model.encoder.forward

    def limited(features, **options):
        seen.extend(features["input_ids"])
        if rank == 1 and capacity and len(features["input_ids"]) > capacity:
            msg = "DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(msg)
        return forward(features, **options)

    model.encoder.forward = limited
    vectors = encode_block(model, texts, "query", 32)
    assert vectors.shape == (len(texts), 64)
    found = vectors.device.type if vectors.is_meta else vectors.numpy().tobytes()
    return found, len(seen)


def matrix(found):
    return np.frombuffer(found, np.float32).reshape(-1, 64)


@pytest.fixture(scope="module")
def alone(tiny_encoder):
    """Encode in one process, like the library."""
    ((vectors, count),) = together(1, encode_once, str(tiny_encoder), TEXTS, "of ")
    assert count == len(TEXTS)
    ((plain, _),) = together(1, encode_once, str(tiny_encoder), TEXTS, "")
    # The prompt changes the vectors.
    assert np.abs(matrix(plain) - matrix(vectors)).max() > 0.01
    return matrix(vectors)


def test_several_ranks_compute_the_vectors_of_one(tiny_encoder, alone):
    """Each text is encoded once, with the prompt; only rank 0 gets the vectors, in order.

    Batches of other texts have other padding, which changes the last bits.
    """
    (vectors, count), *others = together(3, encode_once, str(tiny_encoder), TEXTS, "of ")

    np.testing.assert_allclose(matrix(vectors), alone, rtol=0, atol=1e-6)
    assert (count, others) == (34, [("meta", 33), ("meta", 33)])


def test_a_rank_may_have_no_text_to_encode(tiny_encoder, alone):
    """It still takes part in the collective calls."""
    found = together(3, encode_once, str(tiny_encoder), TEXTS[:2], "of ")

    np.testing.assert_allclose(matrix(found[0][0]), alone[:2], rtol=0, atol=1e-6)
    assert [count for _, count in found] == [1, 1, 0]


def test_a_rank_that_runs_out_of_memory_halves_its_batch_size(tiny_encoder, alone):
    """It retries its shard with smaller batches; the other ranks only wait."""
    found = together(2, encode_once, str(tiny_encoder), TEXTS, "of ", 8)

    np.testing.assert_allclose(matrix(found[0][0]), alone, rtol=0, atol=1e-6)
    # The first pass, of the 16 longest texts, did not fit with batches of 32, nor with 16.
    assert [count for _, count in found] == [50, 16 + 16 + 50]
