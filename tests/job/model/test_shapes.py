"""Every shape of model around an architecture goes through a whole job.

`make test` runs the whole job of a few, and proves the others as a job does before its first step.
"""

import json

import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny_models import ARCHITECTURES, OTHERS, SHAPES, TinyJobs, library_score

from job.core.errors import Interrupted
from job.data.dataset import load_dataset
from job.model.device import Machine
from job.model.dtypes import published_dtype
from job.model.encoder import load_model
from job.runtime.signals import StopSignal
from job.spec.schema import DataSpec
from job.training.proof import prove_trainable

NAMES = [*(name for name in SHAPES if name not in ARCHITECTURES), *OTHERS]
# With four architectures, the six that `make test` resumes; it runs the second line without that.
RESUMED = ("static embeddings", "router")
WHOLE = (*RESUMED, "model2vec", "no padding token")
WITHOUT_TRANSFORMER = ("static embeddings", "model2vec")


def cells(names, usual):
    """Return the names as parameters; all but the `usual` ones run only in `make test-all`."""
    return [
        pytest.param(name, marks=() if name in usual else pytest.mark.exhaustive) for name in names
    ]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return TinyJobs(tmp_path_factory.mktemp("shapes"))


def stored_weights(finished):
    """Return the weights of both models by file and name."""
    return [
        {
            name: weights
            for path in sorted(folder.rglob("*.safetensors"))
            for name, weights in load_file(path).items()
        }
        for folder in (finished.base, finished.model)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", cells(NAMES, WHOLE))
def test_a_shape_is_trained_stored_and_scored(jobs, name):
    """The trained weights are stored, and the library's evaluator computes the report's scores."""
    finished = jobs.finished(name, "float32")

    report = finished.report
    assert report["training"]["best_step"] > 0
    before, after = stored_weights(finished)
    assert any(
        name not in before or not weights.equal(before[name]) for name, weights in after.items()
    )
    for dimension in (32, 16):
        reported = report["scores"]["tuned"][str(dimension)]["float32"]["ndcg@10"]
        assert library_score(finished, dimension) == pytest.approx(reported, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE])
def test_a_shape_passes_the_proof(jobs, tiny_spec, tmp_path, name):
    """It is trained by a step, saved, and loaded to the same vectors."""
    spec = tiny_spec(model__base=str(jobs.build(name)))
    data = DataSpec(source=str(jobs.pairs), min_test_queries=10)
    model = load_model(spec.model, Machine("cpu", "float32", ""))

    prove_trainable(model, "MODEL", load_dataset(data, {}).train, (32, 16), spec.training, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", cells(NAMES, RESUMED))
def test_a_resumed_job_of_a_shape_equals_an_uninterrupted_one(jobs, name):
    """Bit by bit: the stored weights, and the scores."""
    whole = jobs.finished(name, "float32")
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted):
        jobs.run(name, f"{name} cut", stop, model__precision="float32")

    resumed = jobs.run(name, f"{name} cut", model__precision="float32")

    assert resumed.report["training"]["resumed_from_step"] == 1
    assert resumed.weights() == whole.weights()
    assert resumed.report["scores"] == whole.report["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_TRANSFORMER)
def test_static_embeddings_have_no_attention_and_no_limit(jobs, name):
    report = jobs.finished(name, "float32").report
    assert report["environment"]["attention"] == {"encoding": "none", "training": "none"}
    assert report["data"]["truncation"]["max_tokens"] == 0
    assert report["data"]["truncation"]["documents"]["cut"] == 0


@pytest.mark.slow
def test_a_tokenizer_without_a_padding_token_is_saved_with_the_end_token(jobs):
    """The library advises so; users could not embed two texts at once otherwise."""
    finished = jobs.finished("no padding token", "float32")
    base, stored = (
        SentenceTransformer(str(folder), device="cpu").tokenizer.pad_token
        for folder in (finished.base, finished.model)
    )
    assert (base, stored) == (None, "[SEP]")


@pytest.mark.slow
@pytest.mark.parametrize("name", cells(["router", "router with static queries"], WHOLE))
def test_a_router_trains_the_modules_of_both_routes(jobs, name):
    """Questions take one way and documents another; both ways change."""
    finished = jobs.finished(name, "float32")
    texts = ["ask1 ask2", "ask3 the ask4"]
    base, stored = (
        SentenceTransformer(str(folder), device="cpu") for folder in (finished.base, finished.model)
    )
    for way in ("encode_query", "encode_document"):
        before, after = (getattr(encoder, way)(texts) for encoder in (base, stored))
        assert abs(before - after).max() > 1e-3
    assert abs(stored.encode_query(texts) - stored.encode_document(texts)).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", cells(["bfloat16 weights", "float16 weights", "model2vec"], WHOLE))
def test_half_precision_is_trained_and_stored_as_float32(jobs, name):
    """The report says in which format the weights were published, trained and stored."""
    finished = jobs.finished(name, "float32")

    published = "bfloat16" if name == "bfloat16 weights" else "float16"
    assert published_dtype(finished.base) == published
    assert finished.report["environment"]["formats"] == {
        "published": published,
        "weights": "float32",
        "activations": "float32",
        "vectors": "float32",
        "stored": "float32",
    }
    assert published_dtype(finished.model) == "float32"


@pytest.mark.exhaustive
def test_weights_stored_as_bfloat16_are_scored_as_stored(jobs):
    """Training is the same; then the library computes the report's scores from the stored file."""
    finished = jobs.run(
        "dense layer", "stored in half", output__dtype="bfloat16", model__precision="float32"
    )

    assert published_dtype(finished.model) == "bfloat16"
    assert finished.report["environment"]["formats"]["stored"] == "bfloat16"
    encoder = SentenceTransformer(str(finished.model), device="cpu")
    assert {str(weights.dtype) for weights in encoder.parameters()} == {"torch.bfloat16"}
    reported = finished.report["scores"]["tuned"]["32"]["float32"]["ndcg@10"]
    assert library_score(finished, 32) == pytest.approx(reported, abs=1e-9)
    whole = jobs.finished("dense layer", "float32").report
    assert finished.report["training"]["history"] == whole["training"]["history"]
    assert finished.report["scores"]["base"] == whole["scores"]["base"]
    settings = json.loads((finished.model / "config.json").read_text("utf-8"))
    assert settings["dtype"] == "bfloat16"
