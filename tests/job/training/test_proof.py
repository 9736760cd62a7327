"""Before the first step, two pairs prove that a model can be trained, saved and loaded."""

import json
import logging
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import WORDS, TinyJobs, build_model
from tokenizers import Regex
from tokenizers.normalizers import Replace

from job.core.errors import ModelError
from job.model.device import Machine
from job.model.encoder import load_model
from job.model.vocabulary import require_known_words
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.spec.schema import ModelSpec
from job.storage.workspace import Workspace
from job.training.proof import prove_trainable

CPU = Machine("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return TinyJobs(tmp_path_factory.mktemp("proofs"))


@pytest.fixture(scope="module")
def pairs(jobs):
    from job.data.dataset import load_dataset
    from job.spec.schema import DataSpec

    return load_dataset(DataSpec(source=str(jobs.pairs), min_test_queries=10), {}).train


@pytest.fixture
def prove(pairs, tiny_spec, tmp_path):
    def work(model):
        prove_trainable(model, "MODEL", pairs, (32, 16), tiny_spec().training, tmp_path)

    return work


def state_of(model):
    """Return everything that a proof touches."""
    encoder = model.encoder
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    randoms = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    modes = [module.training for module in encoder.modules()]
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    return weights, randoms, modes, trained, encoder.prompts, encoder.default_prompt_name


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("prompts", "float32"),
        ("prompts", "bfloat16"),
        ("static embeddings", "float32"),
        ("router", "bfloat16"),
        ("t5", "bfloat16"),
    ],
)
def test_a_proof_leaves_no_trace(jobs, prove, tmp_path, name, precision):
    """Weights, settings, modes and random numbers are as before, and no file is left."""
    base = jobs.build(name)
    model = load_model(ModelSpec(base=str(base)), replace(CPU, precision=precision))
    weights, randoms, *others = state_of(model)

    prove(model)

    weights_after, randoms_after, *others_after = state_of(model)
    assert others_after == others
    assert weights.keys() == weights_after.keys()
    assert all(torch.equal(weights[key], weights_after[key]) for key in weights)
    assert torch.equal(randoms[0], randoms_after[0])
    assert np.array_equal(randoms[1], randoms_after[1])
    assert randoms[2] == randoms_after[2]
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert list(tmp_path.iterdir()) == []


def test_of_a_large_model_only_vectors_get_gradients(jobs, prove, monkeypatch):
    """They take hardly any memory, and the gradients still pass every layer."""
    monkeypatch.setattr("job.training.proof.LARGE", 1_000)
    model = load_model(ModelSpec(base=str(jobs.build("qwen3"))), CPU)
    seen = []
    monkeypatch.setattr(
        "job.training.proof._save_and_compare",
        lambda model, *_: seen.extend(
            name for name, weights in model.encoder.named_parameters() if weights.grad is not None
        ),
    )

    prove(model)

    assert any("layers.0.input_layernorm" in name for name in seen)
    assert all("norm" in name for name in seen)
    assert all(weights.requires_grad for weights in model.encoder.parameters())


def test_a_model_whose_weights_cannot_be_trained_is_refused(jobs, prove):
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    model.encoder.requires_grad_(requires_grad=False)

    with pytest.raises(ModelError, match=r"^The model `MODEL` cannot be trained: none of its w"):
        prove(model)


def keep_words(folder, words):
    """Replace the tokenizer by one that knows only these words."""
    settings = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings["model"]["vocab"] = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps(settings), "utf-8")


@pytest.mark.parametrize("name", ["bert", "static embeddings"])
def test_a_tokenizer_that_does_not_know_the_words_of_the_data_is_refused(prove, tmp_path, name):
    """It knows the special tokens only: the model would be trained on unknown ones."""
    folder = build_model(name, tmp_path / "base")
    keep_words(next(folder.rglob("tokenizer.json")).parent, (*WORDS[:5], "unused", "unheard"))
    model = load_model(ModelSpec(base=str(folder)), CPU)

    with pytest.raises(ModelError) as caught:
        prove(model)

    message = str(caught.value)
    assert message.startswith(
        "The tokenizer of the model `MODEL` does not know the words of the data: "
    )
    assert message.endswith(
        " are unknown (`[UNK]`). Use a model for their language, or restore `tokenizer.json`."
    )


@pytest.mark.parametrize("names", [0, 4, 40])
def test_many_unknown_names_are_a_warning_and_almost_only_names_a_refusal(jobs, caplog, names):
    """A model learns from the words around them, as long as the texts differ."""
    encoder = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU).encoder
    known = [f"ask{i} tell{j} the of" for i in range(5) for j in range(5)]
    texts = [f"{text} {' '.join(f'name{n}' for n in range(names))}" for text in known]

    with caplog.at_level(logging.WARNING, logger="embedtune"):
        if names == 40:
            with pytest.raises(ModelError, match=r"91% of the tokens of 25 documents are unknown"):
                require_known_words("MODEL", encoder, "", texts, "document")
        else:
            require_known_words("MODEL", encoder, "", texts, "document")

    warned = "50% of the tokens of 25 documents are unknown (`[UNK]`)" in caplog.text
    assert warned == (names == 4)


def test_texts_that_differ_at_their_ends_suit_a_model_that_reads_ends(jobs):
    """Its tokenizer cuts their starts, which are equal."""
    encoder = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU).encoder
    texts = ["the " * 90 + f"ask{i}" for i in range(9)]

    with pytest.raises(ModelError, match=r"of 9 documents, only 1 differ in the tokens"):
        require_known_words("MODEL", encoder, "", texts, "document")
    encoder[0].tokenizer.truncation_side = "left"
    require_known_words("MODEL", encoder, "", texts, "document")


def test_texts_that_look_alike_without_unknown_words_are_refused(jobs, prove):
    """A tokenizer may drop what it does not know."""
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    tokenizer = model.encoder[0].tokenizer.backend_tokenizer
    tokenizer.normalizer = Replace(Regex(r"(ask|tell)\d+"), "the")

    with pytest.raises(ModelError, match=r"only \d+ differ in the tokens that it reads. Use a mod"):
        prove(model)


def test_a_prompt_longer_than_the_limit_is_refused(jobs, prove):
    """It would hide every question."""
    spec = ModelSpec(base=str(jobs.build("bert")), query_prompt="ask1 " * 70)

    with pytest.raises(ModelError) as caught:
        prove(load_model(spec, CPU))

    message = str(caught.value)
    assert "questions, only 1 differ in the tokens that it reads. It cuts them after 64" in message
    assert "Set a larger `model.max_length`, a shorter prompt, or use another model." in message


@pytest.mark.parametrize("name", ["bert", "qwen3", "static embeddings", "router"])
def test_padding_changes_no_vector(jobs, prove, caplog, name):
    """A short text is embedded alone and next to one of the model's whole length."""
    model = load_model(ModelSpec(base=str(jobs.build(name))), CPU)
    with caplog.at_level(logging.WARNING, logger="embedtune"):
        prove(model)
    assert "next to a longer one" not in caplog.text


def test_vectors_that_depend_on_padding_are_a_warning(jobs, prove, caplog, monkeypatch):
    """Here the pooling counts padding; FNet mixes it into every token."""
    model = replace(load_model(ModelSpec(base=str(jobs.build("bert"))), CPU), packs=False)
    transformer = model.encoder[0]
    forward = transformer.forward

    def unmask(features, **options):
        found = forward(features, **options)
        return found | {"attention_mask": torch.ones_like(found["attention_mask"])}

    monkeypatch.setattr(transformer, "forward", unmask)
    monkeypatch.setattr("job.training.proof._save_and_compare", lambda *_: None)
    with caplog.at_level(logging.WARNING, logger="embedtune"):
        prove(model)
    assert "`MODEL` embeds a text differently next to a longer one (cosine 0." in caplog.text


def test_a_model_that_cannot_read_a_text_of_its_length_is_refused(jobs, prove):
    """Its positions end before its limit, in a table of its own."""
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    model.encoder.max_seq_length = 80

    with pytest.raises(ModelError) as caught:
        prove(model)

    message = str(caught.value)
    assert message.startswith("The model `MODEL` cannot embed a text of 80 tokens (")
    assert message.endswith(". Set a smaller `model.max_length`, or use another base model.")


def test_code_that_the_saved_model_lacks_is_named(jobs, prove, monkeypatch):
    def fail(*_):
        msg = "No module named 'own_code'"
        raise ModuleNotFoundError(msg)

    monkeypatch.setattr("job.training.proof.compare_saved", fail)
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    with pytest.raises(ModelError, match=r"failed \(ModuleNotFoundError: No module named 'own_c"):
        prove(model)


def test_a_model_that_loses_its_state_when_saved_is_refused(jobs, prove):
    """At the start, not at the end of a paid run."""
    model = replace(load_model(ModelSpec(base=str(jobs.build("bert"))), CPU), packs=False)
    # A buffer that transformers does not save, and that texts without padding do not read.
    positions = model.encoder[0].model.embeddings.position_ids
    positions.copy_(torch.flip(positions, dims=[1]))

    with pytest.raises(ModelError, match=r"once saved and loaded, it embeds a text differently"):
        prove(model)


FORGETFUL_MODULE = """
import torch
from sentence_transformers.base.modules import Module


class Forgetful(Module):
    config_keys = []

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(64))

    def forward(self, features, **_):
        features["sentence_embedding"] = features["sentence_embedding"] + self.shift
        return features

    def save(self, output_path, *_, safe_serialization=True, **__):
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, *_, **__):
        return cls()
"""


def test_a_module_that_does_not_load_its_weights_is_refused(jobs, prove, tmp_path):
    """After one step it still embeds nearly as before, so its vectors alone prove nothing."""
    folder = shutil.copytree(jobs.build("bert"), tmp_path / "own")
    (folder / "forgetful.py").write_text(FORGETFUL_MODULE, "utf-8")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Forgetful", "type": "forgetful.Forgetful"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "2_Forgetful").mkdir()
    model = load_model(ModelSpec(base=str(folder), trust_remote_code=True), CPU)

    with pytest.raises(ModelError, match=r"loaded, its weights `2\.shift` have other values"):
        prove(model)


def test_an_infinite_gradient_is_refused(jobs, prove):
    """The word embeddings are too large to square."""
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    with torch.no_grad():
        model.encoder[0].model.embeddings.LayerNorm.weight.fill_(1e38)

    with pytest.raises(ModelError, match=r"`MODEL` cannot be trained: the loss of two pairs is"):
        prove(model)


@pytest.mark.slow
def test_a_job_of_such_a_model_ends_before_anything_is_scored(
    jobs, tiny_spec, tmp_path, monkeypatch
):
    """The base model's scores are not computed."""

    def fail(*_, **__):
        msg = "this layer has no backward pass"
        raise NotImplementedError(msg)

    monkeypatch.setattr("job.training.proof.matryoshka_loss", fail)
    monkeypatch.setattr("job.scoring.score_base", lambda *_: pytest.fail("it was scored"))
    spec = tiny_spec(model__base=str(jobs.build("bert")))

    with pytest.raises(ModelError, match="this layer has no backward pass") as caught:
        run(spec, Workspace(tmp_path / "work"), RunContext("name", "cpu"), StopSignal())
    assert caught.value.exit_code == 5
