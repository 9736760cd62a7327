"""Training: what it sees, which checkpoint it gives back, and that it can be taken up again."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_training import tiny_training
from torch.nn import Dropout

from job.core.errors import Interrupted, MachineError, SpecError, TrainingError
from job.data.dataset import TrainingPairs
from job.evaluation.evaluate import encode
from job.model.device import Machine
from job.runtime.signals import StopSignal
from job.storage.workspace import Workspace
from job.training.checkpoints import checkpoint_on_each_host, last_checkpoint, restore
from job.training.hyperparameters import read_hyperparameters, resolve
from job.training.trainer import training_rows

MAIN = "dim_32_cosine_ndcg@10"


@dataclass(frozen=True)
class Cramped(Machine):
    """A CPU that has hardly any memory left."""

    def free_memory(self):
        return 100_000


@pytest.fixture
def task(tiny_spec, tmp_path):
    """Prepare a training of two epochs of ten steps."""

    def prepare(**settings):
        return tiny_training(tiny_spec(**{"training__epochs": "2", **settings}), tmp_path / "work")

    return prepare


def validated_steps(training):
    return [int(entry["step"]) for entry in training.history if MAIN in entry]


def weights_of(model):
    return {name: weights.clone() for name, weights in model.encoder.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# What training is given


def rows(*table):
    """Make training pairs out of (question, document, negatives); equal texts are one text."""
    questions, documents, negatives = zip(*table, strict=True)
    columns = {
        "id": pa.array([f"q{number}" for number in range(len(table))]),
        "anchor": pa.array(questions),
        "positive": pa.array(documents),
        "negatives": pa.array(negatives, pa.list_(pa.string())),
    }
    numbers = (np.unique(texts, return_inverse=True)[1] for texts in (questions, documents))
    return TrainingPairs(pa.table(columns), *numbers, np.arange(len(table)))


@pytest.mark.parametrize("negatives", [[], ["n1"], ["n1", "n2"]])
def test_rows_have_their_texts_and_their_number(negatives):
    """The label of a row is its number: the loss looks its known answers up with it."""
    arranged = training_rows(rows(("why", "so", negatives), ("when", "now", negatives)))

    own = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
    assert arranged.column_names == ["anchor", "positive", *own, "label"]
    assert arranged.to_list() == [
        {"anchor": "why", "positive": "so", **own, "label": 0},
        {"anchor": "when", "positive": "now", **own, "label": 1},
    ]


PROMPTS = {"model__query_prompt": "'ask1 ask2 '", "model__document_prompt": "'tell3 tell4 '"}


@pytest.mark.parametrize("prompts", [{}, PROMPTS], ids=["without prompts", "with prompts"])
def test_the_known_embeddings_are_the_corpus_as_training_will_see_it(task, prompts):
    """Embedded with the prompts that the tuned model will have, though the base does without."""
    prepared = task(**prompts)
    texts, document = prepared.dataset.corpus.texts, prepared.base.tuned_prompts.document

    assert document == ("tell3 tell4 " if prompts else "")
    torch.testing.assert_close(
        prepared.base.corpus_vectors, encode(prepared.load(), texts, document, 64)
    )


def test_only_the_embeddings_of_training_documents_are_looked_at(task, tmp_path):
    """What is known of the test's documents has no influence on what is trained."""
    prepared = task(training__epochs="1", training__negative_margin="1")
    known = prepared.base.corpus_vectors
    hidden, wrong = torch.full_like(known, float("nan")), known.roll(1, dims=0)
    hidden[prepared.dataset.train.documents] = known[prepared.dataset.train.documents]

    whole, seen, other = (
        prepared.train(workspace=Workspace(tmp_path / name), corpus_vectors=vectors)
        for name, vectors in (("whole", known), ("seen", hidden), ("other", wrong))
    )

    assert_same_weights(weights_of(seen.model), weights_of(whole.model))
    # They do have an influence.
    with pytest.raises(AssertionError):
        assert_same_weights(weights_of(other.model), weights_of(whole.model))


def test_an_unknown_integration_is_refused(task):
    """A misspelt integration is named before anything is trained."""
    with pytest.raises(SpecError, match=r"`training.report_to` has `tensorbord`, which is none"):
        task(training__report_to="[tensorbord]").train()


def test_dimension_weights_of_another_length_are_refused(task):
    """There is one weight for each dimension, and the message says which dimensions there are."""
    with pytest.raises(SpecError, match=r"`training.dimension_weights` has 2 .*\[64, 32, 16\]"):
        task(training__dimension_weights="[1, 1]").train()


# What training gives back


def test_no_epochs_leave_the_base_model_untouched(task):
    """With nothing to train the base model itself is the outcome, and nothing is written."""
    prepared = task(training__epochs="0")
    model = prepared.load()
    before = weights_of(model)

    outcome = prepared.train(model=model)

    hyperparameters = resolve(prepared.spec.training, model, prepared.dataset.train).spec
    assert outcome.hyperparameters.spec == hyperparameters
    assert outcome.model is model
    assert_same_weights(weights_of(model), before)
    base = prepared.base.validation.base
    assert outcome.facts() == {
        "steps": 0,
        "resumed_from_step": 0,
        "best_step": 0,
        "hyperparameters": outcome.hyperparameters.facts(),
        "base_validation": base,
        "best_validation": base,
        "history": [],
        "stopped_early": None,
        "mini_batch_size": None,
        "tokens": None,
        "pairs": 0,
        "seconds": 0.0,
        "pairs_per_second": None,
    }
    assert outcome.remark(MAIN) == "Nothing was trained."
    assert not outcome.improved_on_validation
    assert not prepared.workspace.checkpoints.exists()


def test_a_training_tells_its_throughput(trained):
    """Every pair once an epoch, in the seconds that the training took."""
    prepared, whole = trained
    facts = whole.facts()

    assert facts["pairs"] == len(prepared.dataset.train) * whole.hyperparameters.spec.epochs
    assert facts["pairs_per_second"] == round(facts["pairs"] / whole.seconds, 1)


@pytest.mark.parametrize(
    ("reached", "told"),
    [
        ({20: 0.5}, "Validation was scored once"),
        ({10: 0.5, 20: 0.6}, "Validation rose to the end, to 0.600"),
        (
            {10: 0.6, 20: 0.5},
            "Validation was best at step 10 (0.600) and 0.500 at the end, step 20",
        ),
    ],
)
def test_over_fitting_is_remarked_on(trained, reached, told):
    """Where validation falls at the end; once is not enough to tell."""
    history = [{"step": step, "epoch": 1.0, MAIN: score} for step, score in reached.items()]
    assert replace(trained[1], history=history).remark(MAIN).startswith(told)


def test_the_model_given_back_is_the_best_on_validation(task):
    """The first of the best checkpoints is restored, and scores now what it scored then."""
    # With eight validation queries the score stops rising long before the training ends.
    prepared = task(
        training__epochs="3", training__evaluate_every="3", data__validation_fraction="0.02"
    )

    outcome = prepared.train()

    scores = {int(entry["step"]): entry[MAIN] for entry in outcome.history if MAIN in entry}
    assert outcome.best_validation == max(scores.values()) > prepared.base.validation.base
    assert outcome.best_step == min(s for s in scores if scores[s] == outcome.best_validation)
    assert outcome.best_step < outcome.steps == max(scores)
    assert outcome.improved_on_validation
    assert prepared.base.validation.score(outcome.model) == {
        key: value
        for entry in outcome.history
        if entry["step"] == outcome.best_step
        for key, value in entry.items()
        if key.startswith("dim_")
    }


def test_a_model_that_did_not_improve_says_so(task):
    """Where no checkpoint beats the base model there is no best step; the steps still count."""
    prepared = task(training__epochs="1", training__learning_rate="1e-9")

    outcome = prepared.train()

    assert (outcome.steps, outcome.best_step) == (10, 0)
    assert not outcome.improved_on_validation
    assert outcome.best_validation == outcome.base_validation == prepared.base.validation.base


@pytest.mark.parametrize(
    ("every", "steps"),
    [("7", [7, 14, 20]), ("10", [10, 20]), ("1000", [20])],
)
def test_the_last_step_is_always_validated_and_once(task, every, steps):
    """Whatever the cadence, the end of the training is a candidate, and is not counted twice."""
    outcome = task(training__evaluate_every=every).train()

    assert validated_steps(outcome) == steps
    assert outcome.steps == 20


def test_the_curves_reach_tensorboard(task):
    """Loss and validation scores lie among the run's logs, where TensorBoard finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prepared = task(training__epochs="1")

    outcome = prepared.train()

    folder = prepared.workspace.logs / "tensorboard"
    assert [path.name[:20] for path in folder.iterdir()] == ["events.out.tfevents."]
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/learning_rate", f"eval/{MAIN}"} <= set(events.Tags()["scalars"])
    shown = [event.value for event in events.Scalars(f"eval/{MAIN}")]
    assert shown == pytest.approx([outcome.history[-1][MAIN]])


def test_no_curves_are_written_where_none_are_wanted(task):
    """`training.report_to: []` turns the integrations off."""
    prepared = task(training__epochs="1", training__report_to="[]")

    prepared.train()

    assert not (prepared.workspace.logs / "tensorboard").exists()


FAULT = "; lower `training.learning_rate`, or set `model.precision=float32`"


def test_what_was_good_before_it_went_wrong_is_kept(task):
    """The best checkpoint is given back, whole and scored again, beside the reason."""
    prepared, steps = task(), []
    model = prepared.load()

    def break_gradient(gradient):
        steps.append(gradient)
        return gradient * (float("inf") if len(steps) == 15 else 1)

    next(model.encoder.parameters()).register_hook(break_gradient)

    outcome = prepared.train(model=model)

    assert outcome.stopped_early == f"the gradient is nan at step 15 of 20{FAULT}"
    assert (outcome.steps, outcome.best_step) == (15, 10)
    assert prepared.base.validation.score(model)[MAIN] == outcome.best_validation
    assert outcome.remark(MAIN).endswith(f"{FAULT}. The checkpoint of step 10 was kept.")


# Checkpoints


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture
def trained(task):
    """Train for two epochs: checkpoints of the steps 10 and 20 are on the disk."""
    prepared = task()
    return prepared, prepared.train()


def test_there_is_no_last_checkpoint_at_first(tmp_path):
    """Neither a missing folder nor an empty one has a checkpoint."""
    assert last_checkpoint(tmp_path / "missing") is None
    assert last_checkpoint(tmp_path) is None


def test_the_last_checkpoint_is_the_one_of_the_highest_step(trained):
    """Steps are compared as numbers: 100 comes after 20."""
    folder = trained[0].workspace.checkpoints
    assert last_checkpoint(folder) == folder / "checkpoint-20"
    (folder / "checkpoint-10").rename(folder / "checkpoint-100")
    assert last_checkpoint(folder) == folder / "checkpoint-100"


def test_each_checkpoint_is_handed_on_when_it_is_whole(task):
    """Whoever copies it elsewhere finds all its files, before the training goes on."""
    prepared, seen = task(training__evaluate_every="8"), []

    def look(folder):
        seen.append((folder, last_checkpoint(folder.parent)))

    prepared.train(on_checkpoint=look)

    checkpoints = [prepared.workspace.checkpoints / f"checkpoint-{step}" for step in (8, 16, 20)]
    assert seen == [(folder, folder) for folder in checkpoints]


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["missing", "half"])
def test_a_checkpoint_with_a_damaged_file_is_ignored(trained, share):
    """A run killed while it wrote, or while the checkpoint was copied, goes on from one before."""
    folder = trained[0].workspace.checkpoints
    for name in FILES:
        path = folder / "checkpoint-20" / name
        content = path.read_bytes()
        path.unlink()
        if share:
            path.write_bytes(content[: int(len(content) * share)])
        assert last_checkpoint(folder) == folder / "checkpoint-10", name
        path.write_bytes(content)


def test_another_host_without_the_checkpoint_of_rank_zero_says_so(tmp_path, monkeypatch):
    """It would train on from other weights, or from none."""
    monkeypatch.setattr("job.distributed.process_group.is_rank_zero", lambda: False)
    monkeypatch.setattr(
        "job.distributed.process_group.from_rank_zero", lambda _: tmp_path / "checkpoint-7"
    )

    with pytest.raises(MachineError, match=r"`.*checkpoint-7` .* was not written to its end"):
        checkpoint_on_each_host(tmp_path)


def test_a_checkpoint_that_scores_otherwise_is_not_given_back(task, tmp_path):
    """The restored model is scored again: weights that changed on the disk are noticed."""
    prepared = task()
    model = prepared.load()
    with torch.no_grad():
        next(model.encoder.parameters()).zero_()
    model.encoder.save_pretrained(str(tmp_path / "checkpoint-7"), create_model_card=False)
    expected = prepared.base.validation.base

    with pytest.raises(TrainingError, match=f"`checkpoint-7` scores 0.000000 .* {expected:.6f}"):
        restore(model, tmp_path / "checkpoint-7", prepared.base.validation, expected)


@pytest.mark.parametrize("damage", ["cut", "missing", "gone"])
def test_a_checkpoint_that_cannot_be_read_is_not_given_back(task, tmp_path, damage):
    """Half a file, no file and no folder end in the same way as wrong weights: in one line."""
    prepared = task()
    model = prepared.load()
    folder = tmp_path / "checkpoint-7"
    if damage != "gone":
        model.encoder.save_pretrained(str(folder), create_model_card=False)
        weights = folder / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()
        if damage == "cut":
            weights.write_bytes(content[: len(content) // 2])

    with pytest.raises(TrainingError, match="checkpoint-7"):
        restore(model, folder, prepared.base.validation, prepared.base.validation.base)


# Interruption


@pytest.fixture
def stop_after(monkeypatch):
    """Make a stop signal that is given when a step has been logged, hence heard at the next."""

    def make(step):
        stop = StopSignal()

        def tell(event, **facts):
            if event == "train" and facts["step"] == step:
                stop.request()

        monkeypatch.setattr("job.training.callbacks.tell", tell)
        return stop

    return make


@pytest.mark.parametrize(
    ("every", "logged"), [("epoch", 9), pytest.param("4", 12, marks=pytest.mark.exhaustive)]
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    task, stop_after, tmp_path, every, logged
):
    """Stopped at any step and taken up again: same weights in every bit, same candidates.

    The clusters of an epoch are drawn again and gone on with: of a margin of 1 there are many.
    """
    prepared = task(training__evaluate_every=every, training__negative_margin="1")
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))

    handed_on = []
    with pytest.raises(Interrupted, match=f"after step {logged + 1} of 20"):
        prepared.train(stop_after(logged), on_checkpoint=lambda path: handed_on.append(path.name))
    stopped = last_checkpoint(prepared.workspace.checkpoints)
    resumed = prepared.train()

    assert stopped.name == handed_on[-1] == f"checkpoint-{logged + 1}"
    assert resumed.resumed_from_step == logged + 1
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))
    assert validated_steps(resumed) == validated_steps(whole)
    assert replace(resumed, model=None, history=[], resumed_from_step=0) == replace(
        whole, model=None, history=[]
    )


# What `auto` meant


ALL_AUTO = dict.fromkeys(("training__epochs", "training__batch_size"), "auto")


@pytest.mark.exhaustive
def test_a_training_with_auto_fields_is_the_one_with_their_values(task, tmp_path):
    """What `auto` became, written into the spec, trains the same model in every bit."""
    automatic = task(**ALL_AUTO)
    outcome = automatic.train()
    values = {f"training__{f}": by["value"] for f, by in outcome.hyperparameters.facts().items()}
    assert values.keys() == {*ALL_AUTO, "training__mini_batch_size"}

    explicit = task(**{field: json.dumps(value) for field, value in values.items()})
    again = explicit.train(workspace=Workspace(tmp_path / "explicit"))

    assert again.hyperparameters.reasons == {}
    assert again.hyperparameters.spec == outcome.hyperparameters.spec
    assert_same_weights(weights_of(again.model), weights_of(outcome.model))
    assert again.steps == outcome.steps


@pytest.mark.exhaustive
def test_a_resumed_training_goes_on_with_its_recipe(task, stop_after, tmp_path):
    """On a machine with less memory `auto` would mean something else; the run keeps its meaning."""
    prepared = task()
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        prepared.train(stop_after(9))
    kept = read_hyperparameters(prepared.workspace.hyperparameters)
    cramped = prepared.load(Cramped("cpu", "float32", "as the spec says"))

    resumed = prepared.train(model=cramped)

    now = resolve(prepared.spec.training, cramped, prepared.dataset.train)
    assert (kept.spec.mini_batch_size, now.spec.mini_batch_size) == (None, 1)
    assert (
        resumed.hyperparameters == kept == read_hyperparameters(prepared.workspace.hyperparameters)
    )
    assert resumed.resumed_from_step == 10
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))


def test_a_training_that_begins_anew_makes_its_recipe_anew(task):
    """Without a checkpoint to go on from, what an earlier attempt resolved counts no more."""
    prepared = task(training__epochs="1")
    cramped = prepared.load(Cramped("cpu", "float32", "as the spec says"))
    resolve(prepared.spec.training, cramped, prepared.dataset.train).write(
        prepared.workspace.hyperparameters
    )
    assert read_hyperparameters(prepared.workspace.hyperparameters).spec.mini_batch_size == 1

    outcome = prepared.train()

    assert outcome.hyperparameters.spec.mini_batch_size is None
    assert read_hyperparameters(prepared.workspace.hyperparameters) == outcome.hyperparameters


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 0.0), ({"training__dropout": "0.25"}, 0.25), ({"training__dropout": "null"}, 0.1)],
    ids=["default", "given", "the model's own"],
)
def test_dropout_is_what_the_spec_says(task, settings, share):
    """By default none; `null` leaves the model the one that it was trained with."""
    modules = task(**settings).trainer().model.modules()

    assert {module.p for module in modules if isinstance(module, Dropout)} == {share}


def test_a_finished_training_is_not_done_again(trained):
    """A run that was lost after its training takes the training's outcome from the checkpoints."""
    prepared, whole = trained

    again = prepared.train()

    assert again.resumed_from_step == again.steps == 20
    assert_same_weights(weights_of(again.model), weights_of(whole.model))
    assert replace(again, model=None, resumed_from_step=0) == replace(whole, model=None)
