"""Every architecture that people start from goes through a whole job, in bfloat16."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_models import ARCHITECTURES, TinyJobs, own_score

from job.core.errors import Interrupted
from job.runtime.signals import StopSignal

TEXTS = ["ask1 ask2", "tell3 the tell4", "tell5 of tell6 tell7 and tell8"]
# The others are resumed only in `make test-all`.
RESUMED = ("bert", "mpnet", "t5", "gemma3")
WITHOUT_SDPA = ("mpnet", "deberta-v2")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return TinyJobs(tmp_path_factory.mktemp("architectures"))


def moved(finished):
    """Return the largest difference of a vector of length 1 between base and stored model."""
    base, stored = (
        SentenceTransformer(str(folder), device="cpu").encode(
            TEXTS, normalize_embeddings=True, convert_to_tensor=True
        )
        for folder in (finished.base, finished.model)
    )
    return float((base.float() - stored.float()).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_trained_stored_and_scored(jobs, name):
    """The trained weights are stored, and their scores are those in the report."""
    finished = jobs.finished(name, "bfloat16")

    report = finished.report
    assert report["training"]["best_step"] > 0
    assert moved(finished) > 1e-2
    reported = report["scores"]["tuned"]["32"]["float32"]["ndcg@10"]
    assert own_score(finished, "bfloat16", 32) == pytest.approx(reported, abs=1e-9)
    assert report["environment"]["formats"] == {
        "published": "float32",
        "weights": "float32",
        "activations": "bfloat16",
        "vectors": "float32",
        "stored": "float32",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_auto_attention_is_what_the_architecture_has(jobs, name):
    """Without `sdpa` it is `eager`; on a CPU, training uses `eager` in any case."""
    encoding = "eager" if name in WITHOUT_SDPA else "sdpa"
    attention = jobs.finished(name, "bfloat16").report["environment"]["attention"]
    assert attention == {"encoding": encoding, "training": "eager"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in RESUMED else pytest.mark.exhaustive)
        for name in ARCHITECTURES
    ],
)
def test_a_resumed_job_of_an_architecture_equals_an_uninterrupted_one(jobs, name):
    """Bit by bit: the stored weights, and the scores."""
    whole = jobs.finished(name, "bfloat16")
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted):
        jobs.run(name, f"{name} cut", stop, model__precision="bfloat16")

    resumed = jobs.run(name, f"{name} cut", model__precision="bfloat16")

    assert resumed.report["training"]["resumed_from_step"] == 1
    assert resumed.weights() == whole.weights()
    assert resumed.report["scores"] == whole.report["scores"]


@pytest.mark.parametrize("name", ["albert", "T5 with dense layer, normalized", "dense layer"])
def test_vectors_are_float32_of_length_1_under_autocast(jobs, name):
    """Autocast would round them to the 8 bits of bfloat16, and their lengths with them."""
    from job.model.device import Machine
    from job.model.encode import embed_texts
    from job.model.encoder import load_model
    from job.spec.schema import ModelSpec

    model = load_model(ModelSpec(base=str(jobs.build(name))), Machine("cpu", "bfloat16", ""))

    vectors = embed_texts(model, TEXTS, "document", 2)

    assert vectors.dtype == torch.float32
    assert not torch.equal(vectors, vectors.bfloat16().float())
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
