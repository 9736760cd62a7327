"""The benchmark's article side behaves like the article's recipe."""

import pytest
import torch
from article import BATCH, SCALE, RankingInPasses, build_trainer, evaluators, run_recipe, train_only
from conftest import make_pairs, write_jsonl
from metering import Meter
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from job.data.dataset import load_dataset
from job.evaluation.evaluate import metric_key, sample_corpus, score
from job.evaluation.metrics import METRIC
from job.model.device import Machine
from job.model.encoder import Prompts, load_model
from job.spec.schema import DataSpec, ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")
DIMENSIONS = (64, 32, 16, 8, 4)
# Texts that the library embeds for the model card of each model it saves.
CARD = 4


@pytest.fixture
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU).with_prompts(Prompts())


def test_the_recipe_updates_twelve_times_an_epoch_with_31_negatives(model, tmp_path):
    """The article has 6,300 pairs: 49 updates in 4 epochs, each with 31 in-batch negatives."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(6_400))
    shares = dict.fromkeys(("test_fraction", "validation_fraction"), 50 / 6_400)
    spec = DataSpec(source=str(pairs), near_duplicate_threshold=None, **shares)
    dataset = load_dataset(spec, {})
    assert len(dataset.train) == 6_300
    small, meter = sample_corpus(dataset.test, dataset.corpus, 60, 0), Meter()
    evaluator = evaluators(small.queries, small.corpus, DIMENSIONS, CPU)
    trainer = build_trainer(model, dataset, DIMENSIONS, evaluator, 1, 42, tmp_path / "run")
    sizes = []
    trainer.loss.loss.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0][0]["input_ids"]))
    )

    with meter.watching():
        trainer.train()

    assert trainer.state.global_step in (12, 13)
    assert max(sizes) == BATCH == 32
    # Question and context of each pair are embedded once per epoch; duplicates may drop a few.
    assert 0.98 * 2 * 6_300 <= meter.trained <= 2 * 6_300
    # After the epoch, the evaluation encodes everything once per dimension; then a checkpoint.
    assert meter.encoded == 5 * (len(small.queries) + len(small.corpus)) + CARD


def test_each_evaluation_encodes_everything_once_per_dimension(model, pairs_file, tmp_path):
    """Before, after each epoch and at the end; its scores equal ours."""
    dataset, meter = load_dataset(DataSpec(source=str(pairs_file)), {}), Meter()
    ours = score(model, dataset.test, dataset.corpus, DIMENSIONS, 32)

    with meter.watching():
        run = run_recipe(model, dataset, DIMENSIONS, 2, 42, tmp_path / "run", meter)

    texts = len(dataset.test) + len(dataset.corpus)
    saved = 2 + 1
    assert meter.encoded == (1 + 2 + 1) * 5 * texts + saved * CARD
    assert len(run.checkpoints) == 2
    assert run.chosen in run.checkpoints
    assert set(meter.seconds) == {"score base", "train", "score tuned"}
    for dimension, scores in ours.items():
        key = metric_key(dimension)
        assert run.before[key] == pytest.approx(scores.mean(METRIC), abs=1e-6)


def test_passes_of_similar_length_give_the_same_loss_and_gradients(model, pairs_file):
    """Without padding, and with the losses of all dimensions."""
    model.encoder.eval()
    train = load_dataset(DataSpec(source=str(pairs_file)), {}).train.table
    texts = [train[name].to_pylist()[:BATCH] for name in ("anchor", "positive")]
    texts[1] = [text * (1 + number % 3) for number, text in enumerate(texts[1])]
    found = []
    library = MultipleNegativesRankingLoss(model.encoder, scale=SCALE)
    for ranking in (library, RankingInPasses(model, SCALE)):
        loss = MatryoshkaLoss(model.encoder, ranking, list(DIMENSIONS))
        value = loss([model.encoder.preprocess(column) for column in texts], None)
        parameters = [each for each in model.encoder.parameters() if each.requires_grad]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        found.append((value, [each for each in gradients if each is not None]))

    (value, gradients), (same_value, same_gradients) = found
    torch.testing.assert_close(same_value, value)
    torch.testing.assert_close(same_gradients, gradients, atol=1e-4, rtol=1e-3)


def test_training_only_selects_with_one_evaluator(model, pairs_file, tmp_path):
    dataset, meter = load_dataset(DataSpec(source=str(pairs_file)), {}), Meter()

    with meter.watching():
        run = train_only(model, dataset, DIMENSIONS, 2, 42, tmp_path / "run", meter)

    texts = len(dataset.test) + len(dataset.corpus)
    assert meter.encoded == 2 * texts + 2 * CARD
    assert len(run.checkpoints) == 2
    assert run.chosen in run.checkpoints
