"""A rotation moves what tells texts apart into the first dimensions, and changes nothing else."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_training import CPU, tiny_training
from tokenizers import Tokenizer, models
from torch.nn.functional import normalize

from job.core.errors import Interrupted, SpecError
from job.evaluation.evaluate import encode_documents
from job.model.device import Machine
from job.model.encoder import Model
from job.model.prompts import Prompts
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.storage.workspace import Workspace
from job.training.rotation import append_rotation, principal_rotation, rotate
from job.training.train import TrainingContext, train


@pytest.fixture(scope="module")
def task(tiny_encoder, pairs_file, tiny_settings, tmp_path_factory):
    given = {"data.source": str(pairs_file), "model.base": str(tiny_encoder)}
    given |= tiny_settings | {"training.epochs": "1", "data.limit": "200"}
    given |= {"data.min_test_queries": "5", "training.rotate": "on"}
    return tiny_training(build_spec({}, given), tmp_path_factory.mktemp("rotated"))


def cosines(vectors, width=None):
    units = normalize(vectors[:, :width], dim=1)
    return units @ units.T


def error(vectors, reference, width):
    return float((cosines(vectors, width) - cosines(reference)).square().mean())


def test_cosines_stay_at_full_width_and_change_less_at_smaller_ones(task):
    """The second half of it: of no orthogonal matrix do the first dimensions keep more energy."""
    model, corpus = task.load(), task.dataset.corpus
    before = encode_documents(model, corpus, 64)
    rotation = principal_rotation(before)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(len(rotation)), atol=1e-5, rtol=0)
    append_rotation(model, rotation)
    after = encode_documents(model, corpus, 64)
    torch.testing.assert_close(after, before @ rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(cosines(after), cosines(before), atol=1e-5, rtol=0)
    for width in (32, 16):
        assert error(after, before, width) < error(before, before, width)


def test_equal_vectors_give_equal_rotations():
    """Also if they come in another order, which changes the last bits of their sums."""
    vectors = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    found = [principal_rotation(each) for each in (vectors, vectors.flip(0), 3 * vectors)]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-5, rtol=0)


def test_a_training_rotates_first_and_stores_the_rotation(task, tmp_path):
    """The layer is in the checkpoints, in front of the normalization, and is not trained."""
    workspace = Workspace(tmp_path)
    found = task.train(workspace=workspace, corpus_vectors=task.base.corpus_vectors)
    assert found.best_step > 0
    names = [type(module).__name__ for module in found.model.encoder]
    assert names.count("Dense") == 1
    assert names[-1] != "Normalize" or names[-2] == "Dense"
    dense = next(m for m in found.model.encoder if type(m).__name__ == "Dense")
    expected = principal_rotation(task.base.corpus_vectors[np.unique(task.dataset.train.documents)])
    torch.testing.assert_close(dense.linear.weight.detach(), expected.T, atol=0, rtol=0)


def test_all_trainings_of_a_run_share_one_rotation(task, tmp_path):
    """Only the first one computes it, also if a later start has no vectors of the corpus."""
    one, other = task.load(), task.load()
    path, pairs = tmp_path / "rotation.npz", task.dataset.train
    search = task.base.validation, task.base.corpus_vectors, path
    rotate(one, pairs, *search, only_if_better=False)
    without_texts = replace(pairs, table=pairs.table.slice(0, 0))
    rotate(other, without_texts, task.base.validation, None, path, only_if_better=False)
    texts = task.dataset.corpus.take([0, 1, 2])
    assert torch.equal(encode_documents(one, texts, 64), encode_documents(other, texts, 64))


def test_vectors_are_not_rounded_to_bfloat16(task):
    """Autocast would compute the added layer in it."""
    model = replace(task.load(), machine=Machine("cpu", "bfloat16", "as the spec says"))
    before = encode_documents(model, task.dataset.corpus, 64)
    append_rotation(model, principal_rotation(before))
    after = encode_documents(model, task.dataset.corpus, 64)
    torch.testing.assert_close(cosines(after), cosines(before), atol=1e-5, rtol=0)


def test_a_resumed_training_equals_an_uninterrupted_one(task, stop_after, tmp_path):
    """Also if the second start embeds no corpus: its scores of the base model are cached."""
    spec = task.spec.training.model_copy(update={"evaluate_every": 2})
    vectors, parts = task.base.corpus_vectors, Workspace(tmp_path / "parts")
    whole = task.train(workspace=Workspace(tmp_path / "whole"), spec=spec, corpus_vectors=vectors)
    with pytest.raises(Interrupted):
        task.train(stop_after(2), workspace=parts, spec=spec, corpus_vectors=vectors)
    resumed = task.train(workspace=parts, spec=spec)
    assert resumed.resumed_from_step == 3
    expected = whole.model.encoder.state_dict()
    for name, weights in resumed.model.encoder.state_dict().items():
        assert torch.equal(weights, expected[name]), name


def test_static_embeddings_are_refused(tmp_path):
    """Their vectors are the sum of their tokens' rows: rotate those instead."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    model = Model(SentenceTransformer(modules=[static], device="cpu"), CPU, 8, Prompts())
    rest = model, None, None, None, tmp_path / "rotation.npz"
    assert rotate(*rest, only_if_better=True) is None
    with pytest.raises(SpecError, match="needs a transformer"):
        rotate(*rest, only_if_better=False)


def test_an_index_of_the_base_model_excludes_it():
    given = {"training.rotate": "on", "evaluation.keep_index": "true"}
    with pytest.raises(SpecError, match="not rotated"):
        build_spec({}, given)


@pytest.fixture(scope="module")
def tuned(task, tmp_path_factory):
    """A model that ranks well, without a rotation."""
    spec = task.spec.training.model_copy(update={"rotate": "off"})
    found = task.train(workspace=Workspace(tmp_path_factory.mktemp("tuned")), spec=spec)
    assert found.best_step > 0
    return found.model


def rotated(task, model, order):
    """Return the model with its principal components in another order, and its documents."""
    model = replace(model, encoder=deepcopy(model.encoder))
    trained = np.unique(task.dataset.train.documents)
    rotation = principal_rotation(encode_documents(model, task.dataset.corpus, 64)[trained])
    append_rotation(model, order(rotation))
    return model


def test_auto_decides_by_the_base_models_shorter_vectors_on_validation(task, tuned, tmp_path):
    """It moves to the front what a model has at the end, and adds nothing where it is in front."""
    rest = task.dataset.train, task.base.validation, None
    backward, forward = (
        rotated(task, tuned, order) for order in (lambda r: r.flip(1), lambda r: r)
    )
    found = rotate(backward, *rest, tmp_path / "backward.npz", only_if_better=True)
    assert found.after > found.before
    assert dense_layers(backward) == 2
    assert rotate(forward, *rest, tmp_path / "forward.npz", only_if_better=True) is None
    assert dense_layers(forward) == 1


@pytest.mark.parametrize(("keeps_index", "lora"), [(True, "off"), (False, "on"), (False, "off")])
def test_auto_leaves_vectors_for_an_index_and_for_an_adapter_alone(
    task, tuned, keeps_index, lora, tmp_path
):
    """The base model's documents are not rotated, nor is what an adapter is loaded onto."""
    backward = rotated(task, tuned, lambda rotation: rotation.flip(1))
    spec = task.spec.training.model_copy(update={"rotate": "auto", "lora": lora})
    # Any checkpoint is better than this.
    validation = replace(task.base.validation, base=0.0)
    context = TrainingContext(Workspace(tmp_path), StopSignal(), keeps_index=keeps_index)
    found = train(backward, task.dataset.training, validation, spec, context)
    is_rotated = not keeps_index and lora == "off"
    assert (found.rotation is not None) == is_rotated
    assert dense_layers(found.model) == 1 + is_rotated


def test_a_damaged_rotation_is_computed_again(task, tmp_path):
    path = tmp_path / "rotation.npz"
    rest = task.dataset.train, task.base.validation, task.base.corpus_vectors, path
    first = rotate(task.load(), *rest, only_if_better=False)
    for damaged in (path.read_bytes()[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        again = rotate(task.load(), *rest, only_if_better=False)
        assert torch.equal(again.matrix, first.matrix)


def dense_layers(model):
    return [type(module).__name__ for module in model.encoder].count("Dense")
