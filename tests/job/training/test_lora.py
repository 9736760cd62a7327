"""LoRA: only an adapter is trained, its merged model is an ordinary one, and a run can resume."""

import json
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_models import ARCHITECTURES, build_model
from tiny_training import CPU, TinyTraining, tiny_training
from tokenizers import Tokenizer, models

from job.core.errors import Interrupted, SpecError, TrainingError
from job.data.dataset import Corpus
from job.evaluation.evaluate import encode_documents
from job.model.encoder import Model, load_model, size_of
from job.model.prompts import Prompts
from job.model.save import save_model
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.spec.schema import ModelSpec, ResolvedTraining
from job.storage.workspace import Workspace
from job.training.checkpoints import last_checkpoint, restore, write_checksums
from job.training.lora import Adapter
from job.training.loss import matryoshka_loss
from job.training.train import Training, prepare_model

FAMILIES = ("qwen3", "gemma3")
BASE = "tiny/decoder"
RESOLVED = {"epochs": 1, "batch_size": 32, "mini_batch_size": None, "learning_rate": 1e-2}
# Two epochs of three steps.
SETTINGS = {
    "data__limit": "120",
    "data__min_test_queries": "5",
    "training__epochs": "2",
    "training__learning_rate": "3e-2",
    "training__lora": "on",
    "training__lora_rank": "8",
}


@pytest.fixture(scope="module")
def decoder(made_once):
    """Return the folder of the tiny model of an architecture."""
    return lambda family: (
        made_once(f"tiny-{family}", lambda folder: build_model(family, folder / family)) / family
    )


@pytest.fixture
def prepare(tiny_spec, decoder, tmp_path):
    def make(family="qwen3", **settings):
        spec = tiny_spec(**SETTINGS | {"model__base": str(decoder(family))} | settings)
        return tiny_training(spec, tmp_path / "work")

    return make


def vectors(model, task):
    return encode_documents(model, task.dataset.corpus, 64)


def lowest_cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other).min())


def weights_of(encoder):
    return {name: weights.clone() for name, weights in encoder.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@dataclass(frozen=True)
class Whole:
    """An uninterrupted training, with the base model's weights and vectors."""

    task: TinyTraining
    weights: dict
    vectors: torch.Tensor
    outcome: Training


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request, decoder, pairs_file, tiny_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    given = {"data.source": str(pairs_file), "model.base": str(decoder(request.param))}
    own = {name.replace("__", "."): value for name, value in SETTINGS.items()}
    task = tiny_training(build_spec({}, given | tiny_settings | own), folder)
    model = task.load()
    weights, before = weights_of(model.encoder), vectors(model, task)
    return Whole(task, weights, before, task.train(model=model, base=BASE))


def test_a_merged_model_embeds_like_base_and_adapter(whole, tmp_path):
    """The training moved the vectors; the saved model is ordinary, and peft loads the adapter."""
    task, outcome = whole.task, whole.outcome
    save_model(outcome.model, tmp_path / "model", task.dataset)

    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    merged = vectors(replace(outcome.model, encoder=saved), task)
    base = task.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        PeftModel.from_pretrained(base.encoder[0].model, str(task.workspace.adapter))
    unmerged = vectors(base, task)
    assert outcome.best_step > 0
    assert lowest_cosine(whole.vectors, merged) < 1 - 1e-2
    assert lowest_cosine(unmerged, merged) > 1 - 1e-4
    assert outcome.lora["merged_cosine"] > 1 - 1e-4
    # Only weights of linear layers have changed, under the names of the base model.
    after = saved.state_dict()
    assert after.keys() == whole.weights.keys()
    changed = {name for name in after if not torch.equal(after[name], whole.weights[name])}
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }


def test_a_resumed_adapter_equals_an_uninterrupted_one(whole, stop_after, tmp_path):
    """The weights are equal bit by bit; checkpoints hold the adapter and its optimizer only."""
    task, workspace = whole.task, Workspace(tmp_path)
    with pytest.raises(Interrupted, match="after step 5 of 6"):
        task.train(stop_after(4), workspace=workspace, base=BASE)
    stopped = last_checkpoint(workspace.checkpoints)
    adapter = load_file(stopped / "adapter_model.safetensors")
    optimizer = torch.load(stopped / "optimizer.pt")
    resumed = task.train(workspace=workspace, base=BASE)

    assert resumed.resumed_from_step == 5
    assert_same_weights(weights_of(resumed.model.encoder), weights_of(whole.outcome.model.encoder))
    assert replace(resumed, model=None, history=[], resumed_from_step=0) == replace(
        whole.outcome, model=None, history=[]
    )
    assert [path.name for path in stopped.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert sum(weights.numel() for weights in adapter.values()) == resumed.lora["parameters"]
    assert len(optimizer["state"]) == len(adapter) == 2 * 7 * 2


def test_the_adapter_names_its_base_and_no_path(prepare):
    """It is published; peft needs its layers and its rank."""
    task = prepare()
    Adapter(task.load(), ResolvedTraining(**RESOLVED, lora_rank=4), BASE).save(
        task.workspace.adapter
    )
    config = json.loads((task.workspace.adapter / "adapter_config.json").read_text("utf-8"))
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (BASE, 4, 8)
    assert config["target_modules"] == sorted(config["target_modules"])


@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_the_size_of_an_adapter_is_estimated_exactly(decoder, family):
    """The choice between LoRA and full training needs no loaded model."""
    model = load_model(ModelSpec(base=str(decoder(family))), CPU)
    expected = size_of(model).adapter_parameters(8)

    adapter = Adapter(model, ResolvedTraining(**RESOLVED, lora_rank=8), BASE)

    assert adapter.parameters == expected
    assert not any(
        "pooler" in name for name, w in model.encoder.named_parameters() if w.requires_grad
    )


@pytest.mark.parametrize("mini_batch_size", [None, 4])
@pytest.mark.parametrize("lora", ["on", "off"])
def test_checkpointed_activations_give_the_same_gradients(prepare, lora, mini_batch_size):
    """In one pass over the batch and in mini-batches; the backward pass computes them again."""
    task = prepare(model__attention="sdpa")
    pairs = task.dataset.train
    rows = pairs.table.slice(0, 12)

    def gradients(switch):
        spec = ResolvedTraining(
            **RESOLVED | {"mini_batch_size": mini_batch_size},
            lora=lora,
            gradient_checkpointing=switch,
        )
        model, _ = prepare_model(task.load(), spec, BASE)
        model.encoder.train()
        transformer = model.encoder[0].model
        assert transformer.is_activation_checkpointing == (switch == "on")
        passes = []
        transformer.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
        texts = (rows["anchor"].to_pylist(), rows["positive"].to_pylist())
        features = [model.encoder.preprocess(column) for column in texts]
        matryoshka_loss(model, pairs, (64, 16), spec)(features, torch.arange(12)).backward()
        weights = model.encoder.named_parameters()
        return {n: w.grad for n, w in weights if w.grad is not None}, len(passes)

    plain, passes = gradients("off")
    checkpointed, more = gradients("on")
    assert more > passes
    assert plain.keys() == checkpointed.keys()
    assert all("lora_" in name for name in plain) == (lora == "on")
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_checkpoint_restores_its_adapter_and_no_other(prepare, tmp_path):
    """The best checkpoint may be an earlier one; one of other layers is refused."""
    task = prepare()
    model, spec = task.load(), ResolvedTraining(**RESOLVED)
    adapter = Adapter(model, spec, BASE)
    adapted = [w for w in model.encoder.parameters() if w.requires_grad]
    with torch.no_grad():
        for weights in adapted:
            weights.normal_(std=0.1)
    trained = vectors(model, task)
    adapter.save(tmp_path / "checkpoint-1")
    write_checksums(tmp_path / "checkpoint-1")
    with torch.no_grad():
        for weights in adapted:
            weights.zero_()
    assert lowest_cosine(vectors(model, task), trained) < 0.99

    restore(model, tmp_path / "checkpoint-1", adapter)

    assert torch.equal(vectors(model, task), trained)
    other = task.load()
    fewer = Adapter(other, ResolvedTraining(**RESOLVED, lora_targets=("q_proj",)), BASE)
    with pytest.raises(TrainingError, match=r"cannot be loaded: the adapter has other layers"):
        restore(other, tmp_path / "checkpoint-1", fewer)


def test_a_whole_run_with_an_adapter_ends_with_an_ordinary_model(decoder, pairs_file, tmp_path):
    """In bfloat16: report, model, and the adapter beside it, all in the manifest."""
    given = {name.replace("__", "."): value for name, value in SETTINGS.items()}
    given |= {
        "data.source": str(pairs_file),
        "model.base": str(decoder("qwen3")),
        "model.precision": "bfloat16",
        "output.uri": str(tmp_path / "runs"),
        "training.batch_size": "32",
        "evaluation.permutations": "100",
    }
    run(build_spec({}, given), Workspace(tmp_path / "work"), RunContext("run", "cpu"), StopSignal())

    folder = tmp_path / "runs" / "run"
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert report["training"]["best_step"] > 0
    assert report["training"]["lora"]["rank"] == 8
    assert report["training"]["lora"]["merged_cosine"] > 1 - 1e-3
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= manifest.keys()
    assert not list((folder / "model").rglob("adapter*"))
    assert adapter["base_model_name_or_path"] == str(decoder("qwen3"))
    assert "LoRA (rank 8, " in (folder / "model" / "README.md").read_text("utf-8")
    assert SentenceTransformer(str(folder / "model"), device="cpu").encode("ask1").shape == (64,)


def test_a_merge_that_changes_vectors_is_refused(prepare, monkeypatch):
    """A broken merge must not be published."""
    task = prepare()
    model = task.load()
    adapter = Adapter(model, ResolvedTraining(**RESOLVED), BASE)
    # As if an adapter of other weights had been merged.
    shift = SimpleNamespace(
        merge_and_unload=lambda **_: (
            model.encoder[0].model.layers[0].mlp.down_proj.base_layer.weight.data.neg_()
        ),
        parameters=list,
    )
    monkeypatch.setattr(adapter, "_wrapped", shift)
    with pytest.raises(TrainingError, match=r"embeds a text differently \(cosine 0\.\d+\)"):
        adapter.merge(task.dataset.corpus, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ARCHITECTURES, "gpt2"])
def test_an_adapter_of_every_architecture_is_merged(decoder, name):
    """An adapter with effect changes the vectors, and merging it does not."""
    model = load_model(ModelSpec(base=str(decoder(name))), CPU)
    texts = pa.array([f"ask{n} tell{n} of tell{n + 1}" for n in range(8)], pa.large_string())
    corpus = Corpus(texts, texts)
    before = encode_documents(model, corpus, 8)
    names = model.encoder.state_dict().keys()
    adapter = Adapter(model, ResolvedTraining(**RESOLVED), BASE)
    trained = [weights for weights in model.encoder.parameters() if weights.requires_grad]
    with torch.no_grad():
        for weights in trained:
            weights.normal_(std=0.1)

    facts = adapter.merge(corpus, 8)

    assert facts["merged_cosine"] > 1 - 1e-4
    assert lowest_cosine(before, encode_documents(model, corpus, 8)) < 1 - 1e-2
    assert model.encoder.state_dict().keys() == names


def test_the_layers_of_the_adapter_can_be_chosen(prepare):
    """A layer that the model lacks is refused, with those that it has."""
    task = prepare()
    chosen = ResolvedTraining(**RESOLVED, lora_targets=("q_proj", "v_proj"))
    encoder = task.load()
    Adapter(encoder, chosen, BASE)
    trained = {
        name.split(".")[-4] for name, w in encoder.encoder.named_parameters() if w.requires_grad
    }
    assert trained <= {"q_proj", "v_proj", "self_attn"}

    wrong = ResolvedTraining(**RESOLVED, lora_targets=("query",))
    with pytest.raises(
        SpecError, match=r"`query`, which is no linear layer.*Choose from: down_proj, "
    ):
        Adapter(task.load(), wrong, BASE)


def test_a_model_without_a_transformer_has_no_adapter():
    """Static embeddings have no linear layers."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu"
    )
    model = Model(static, CPU, 8, Prompts())
    with pytest.raises(SpecError, match=r"has no transformer, or several. Set it"):
        Adapter(model, ResolvedTraining(**RESOLVED), BASE)


def test_a_model_without_linear_layers_has_no_adapter(prepare, monkeypatch):
    model = prepare().load()
    bare = torch.nn.Embedding(2, 2)
    bare.config = object()
    monkeypatch.setattr("job.training.lora.transformer_of", lambda _: bare)
    with pytest.raises(SpecError, match=r"has no linear layers. Set it to `off`"):
        Adapter(model, ResolvedTraining(**RESOLVED), BASE)
