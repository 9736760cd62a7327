"""Training: its inputs, the checkpoint that it selects, and how it resumes."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import current_thread, main_thread

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_training import tiny_training
from torch.nn import Dropout
from transformers import TrainerState, TrainingArguments

from job.core.errors import Interrupted, MachineError, SpecError, StorageError, TrainingError
from job.data.dataset import TrainingPairs
from job.evaluation.evaluate import encode
from job.model.device import Machine
from job.storage.workspace import Workspace
from job.training.checkpoints import (
    checkpoint_on_each_host,
    delete_newer,
    delete_superseded,
    last_checkpoint,
    restore,
    write_checksums,
)
from job.training.columns import training_rows
from job.training.disk_space import model_bytes
from job.training.hyperparameters import read_hyperparameters, resolve

MAIN = "dim_32_cosine_ndcg@10"


@dataclass(frozen=True)
class LowMemory(Machine):
    """A CPU with hardly any free memory."""

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


# Inputs


def rows(*table):
    """Make training pairs from (question, document, negatives); equal texts get equal numbers."""
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
def test_training_rows_have_their_texts_and_their_number(negatives):
    """The label of a row is its number, by which the loss looks up known answers."""
    dataset = training_rows(rows(("why", "so", negatives), ("when", "now", negatives)))

    columns = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
    assert dataset.column_names == ["anchor", "positive", *columns, "label"]
    assert dataset.to_list() == [
        {"anchor": "why", "positive": "so", **columns, "label": 0},
        {"anchor": "when", "positive": "now", **columns, "label": 1},
    ]


PROMPTS = {"model__query_prompt": "'ask1 ask2 '", "model__document_prompt": "'tell3 tell4 '"}


@pytest.mark.parametrize("prompts", [{}, PROMPTS], ids=["without prompts", "with prompts"])
def test_corpus_vectors_are_embedded_with_the_tuned_models_prompts(task, prompts):
    """Even if the base model is scored without prompts."""
    prepared = task(**prompts)
    texts, tuned = prepared.dataset.corpus.texts, prepared.base.tuned_prompts

    assert tuned.document == ("tell3 tell4 " if prompts else "")
    model = prepared.load().with_prompts(tuned)
    torch.testing.assert_close(prepared.base.corpus_vectors, encode(model, texts, "document", 64))


def test_only_the_corpus_vectors_of_training_documents_are_used(task, tmp_path):
    """The vectors of test documents do not influence the training, nor its rotation."""
    settings = {"training__negative_margin": "1", "training__rotate": "on"}
    prepared = task(training__epochs="1", **settings)
    known = prepared.base.corpus_vectors
    hidden, wrong = torch.full_like(known, float("nan")), known.roll(1, dims=0)
    hidden[prepared.dataset.train.documents] = known[prepared.dataset.train.documents]

    whole, seen, other = (
        prepared.train(workspace=Workspace(tmp_path / name), corpus_vectors=vectors)
        for name, vectors in (("whole", known), ("seen", hidden), ("other", wrong))
    )

    assert_same_weights(weights_of(seen.model), weights_of(whole.model))
    # Wrong vectors of training documents do.
    with pytest.raises(AssertionError):
        assert_same_weights(weights_of(other.model), weights_of(whole.model))


def test_an_unknown_integration_is_refused(task):
    """A misspelled integration is reported before training starts."""
    with pytest.raises(SpecError, match=r"`training.report_to` contains `tensorbord`, which is"):
        task(training__report_to="[tensorbord]").train()


def test_dimension_weights_of_another_length_are_refused(task):
    """Each dimension needs one weight; the message lists the dimensions."""
    with pytest.raises(SpecError, match=r"`training.dimension_weights` has 2 .*\[64, 32, 16\]"):
        task(training__dimension_weights="[1, 1]").train()


# Results


def test_zero_epochs_return_the_base_model_unchanged(task):
    """No file is written."""
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
        "lora": None,
        "rotation": None,
        "mini_batch_size": None,
        "tokens": None,
        "pairs": 0,
        "seconds": 0.0,
        "pairs_per_second": None,
    }
    assert outcome.remark(MAIN) == "No training took place."
    assert not outcome.improved_on_validation
    assert not prepared.workspace.checkpoints.exists()


def test_a_training_reports_its_throughput(trained):
    """Each pair counts once per epoch."""
    prepared, whole = trained
    facts = whole.facts()

    assert facts["pairs"] == len(prepared.dataset.train) * whole.hyperparameters.spec.epochs
    assert facts["pairs_per_second"] == round(facts["pairs"] / whole.seconds, 1)


@pytest.mark.parametrize(
    ("scores", "remark"),
    [
        ({20: 0.5}, "Validation was scored only once"),
        (
            {10: 0.5, 20: 0.55, 30: 0.6},
            "The validation score was highest at the end (0.600); 3 validations are too few",
        ),
        (
            {10: 0.5, 20: 0.55, 30: 0.57, 40: 0.6},
            "The validation score was highest at the end (0.600): there is no sign of overfitting",
        ),
        (
            {10: 0.6, 20: 0.5},
            "The validation score was highest at step 10 (0.600) and 0.500 at the end, step 20",
        ),
    ],
)
def test_the_remark_reports_overfitting(trained, scores, remark):
    """A score that falls at the end may be overfitting; a single score shows nothing."""
    history = [{"step": step, "epoch": 1.0, MAIN: score} for step, score in scores.items()]
    assert replace(trained[1], history=history).remark(MAIN).startswith(remark)


def test_the_returned_model_is_the_best_on_validation(task):
    """The earliest of the best checkpoints is restored, and reproduces its score."""
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


def test_a_training_without_improvement_has_no_best_step(task):
    """No checkpoint beats the base model; the number of steps is still reported."""
    prepared = task(training__epochs="1", training__learning_rate="1e-9")

    outcome = prepared.train()

    assert (outcome.steps, outcome.best_step) == (10, 0)
    assert not outcome.improved_on_validation
    assert outcome.best_validation == outcome.base_validation == prepared.base.validation.base


@pytest.mark.parametrize(
    ("every", "steps"),
    [("7", [7, 14, 20]), ("10", [10, 20]), ("1000", [20])],
)
def test_the_last_step_is_always_validated_exactly_once(task, every, steps):
    """It is a candidate, whatever `evaluate_every` is."""
    outcome = task(training__evaluate_every=every).train()

    assert validated_steps(outcome) == steps
    assert outcome.steps == 20


def test_loss_and_validation_scores_are_written_for_tensorboard(task):
    """The event file is in the run's logs folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prepared = task(training__epochs="1")

    outcome = prepared.train()

    folder = prepared.workspace.logs / "tensorboard"
    assert [path.name[:20] for path in folder.iterdir()] == ["events.out.tfevents."]
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/learning_rate", f"eval/{MAIN}"} <= set(events.Tags()["scalars"])
    shown = [event.value for event in events.Scalars(f"eval/{MAIN}")]
    assert shown == pytest.approx([outcome.history[-1][MAIN]])


def test_several_visible_gpus_do_not_divide_a_batch(task, monkeypatch):
    """transformers would wrap the model in `nn.DataParallel`, with that many times the batch."""
    prepare = TrainingArguments.__post_init__

    def see_four_gpus(arguments):
        prepare(arguments)
        arguments._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", see_four_gpus)
    found = task().trainer().args
    assert (found.n_gpu, found.train_batch_size) == (1, 32)


def test_a_deterministic_training_computes_each_step_in_a_fixed_order(task, monkeypatch):
    """By default, none does: fused attention is faster."""
    entered = []

    @contextmanager
    def fixed_order(device):
        entered.append(device)
        yield

    monkeypatch.setattr("job.training.trainer.fixed_order", fixed_order)
    task(training__epochs="0.2").train()
    assert entered == []
    task(training__epochs="0.2", training__deterministic="true").train(
        workspace=Workspace(task().workspace.root / "other")
    )
    assert entered == ["cpu"] * 2


def test_an_empty_report_to_turns_the_integrations_off(task):
    prepared = task(training__epochs="1", training__report_to="[]")

    prepared.train()

    assert not (prepared.workspace.logs / "tensorboard").exists()


FAULT = "; lower `training.learning_rate`, or set `model.precision=float32`"


def test_a_training_that_stops_early_returns_its_best_checkpoint(task):
    """The checkpoint is restored and scored again, and the reason is reported."""
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
    assert outcome.remark(MAIN).endswith(f"{FAULT}. The checkpoint of step 10 was selected.")


# Checkpoints


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture
def trained(task):
    """Train for two epochs; the checkpoints are those of the best and of the last step."""
    prepared = task()
    return prepared, prepared.train()


@pytest.fixture
def stopped(task, stop_after):
    """Train until step 12; return the folder with steps 9 and 12 to resume from, and 10.

    Step 10 has the weights after the first epoch, the best until then.
    """
    prepared = task(training__checkpoint_steps="9")
    with pytest.raises(Interrupted):
        prepared.train(stop_after(11))
    return prepared.workspace.checkpoints


def test_there_is_no_last_checkpoint_at_first(tmp_path):
    """The folder is missing or empty."""
    assert last_checkpoint(tmp_path / "missing") is None
    assert last_checkpoint(tmp_path) is None


def names(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_last_checkpoint_has_the_highest_step(stopped):
    """Steps are compared as numbers: 12 comes after 9."""
    assert names(stopped) == ["checkpoint-10", "checkpoint-12", "checkpoint-9"]
    assert last_checkpoint(stopped) == stopped / "checkpoint-12"


def test_on_checkpoint_is_called_with_each_complete_checkpoint(task):
    """It is called in a thread: an upload does not delay the training."""
    prepared, seen = task(training__evaluate_every="8"), []

    def record(folder):
        assert current_thread() is not main_thread()
        seen.append((folder.name, (folder / "digests.json").is_file()))

    outcome = prepared.train(on_checkpoint=record)

    scores = [float("-inf"), *(entry[MAIN] for entry in outcome.history if MAIN in entry)]
    best = [8 * n for n in (1, 2) if scores[n] > max(scores[:n])]
    assert seen == [(f"checkpoint-{step}", True) for step in (*best, 20)]


def test_an_error_after_a_checkpoint_ends_the_training(task):
    """Also after the last one."""

    def fail(folder):
        raise StorageError(folder.name)

    with pytest.raises(StorageError, match="checkpoint-10"):
        task(training__epochs="1").train(on_checkpoint=fail)


def test_a_short_training_writes_only_weights(task):
    """The optimizer's state is twice as large; it is written for an interruption only."""
    prepared, written = task(), []

    def count(folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        written.append({str(path.relative_to(folder)): path.stat().st_size for path in files})

    outcome = prepared.train(on_checkpoint=count)

    assert 1 <= len(written) <= 2
    trained = model_bytes(outcome.model)
    for sizes in written:
        weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
        assert trained < weights < trained + 20_000
        assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth"} & sizes.keys()
    assert "trainer_state.json" in written[-1]


def test_a_checkpoint_with_a_damaged_file_is_skipped(stopped):
    """If a run is killed while it writes or copies one, it resumes from the checkpoint before.

    It also needs the weights that were the best.
    """
    files = [Path("checkpoint-12", name) for name in FILES]
    for path in (*files, Path("checkpoint-10", "model.safetensors")):
        damaged = stopped / path
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
        assert last_checkpoint(stopped) == stopped / "checkpoint-9", path
        damaged.unlink()
        assert last_checkpoint(stopped) == stopped / "checkpoint-9", path
        damaged.write_bytes(content)


def write_checkpoint(folder, step, *, best=None, resumable=True):
    """Write the files of a checkpoint by which those that are needed are found."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    if resumable:
        TrainerState(best_global_step=best).save_to_json(str(checkpoint / "trainer_state.json"))
    write_checksums(checkpoint)
    return checkpoint


def test_superseded_checkpoints_are_deleted(tmp_path):
    """The two newest to resume from, their best ones, the best now, and all newer ones stay."""
    write_checkpoint(tmp_path, 10, resumable=False)
    write_checkpoint(tmp_path, 20, resumable=False)
    write_checkpoint(tmp_path, 25, best=20)
    write_checkpoint(tmp_path, 30, resumable=False)
    write_checkpoint(tmp_path, 35, best=30)
    write_checkpoint(tmp_path, 40, resumable=False)
    newest = write_checkpoint(tmp_path, 45, best=40)
    (tmp_path / "checkpoint-50").mkdir()

    delete_superseded(newest, 40)

    assert names(tmp_path) == [f"checkpoint-{step}" for step in (30, 35, 40, 45, 50)]
    assert last_checkpoint(tmp_path) == newest

    best = write_checkpoint(tmp_path, 51, resumable=False)
    delete_superseded(best, 51)

    assert names(tmp_path) == [f"checkpoint-{step}" for step in (30, 35, 40, 45, 51)]


def test_what_an_earlier_start_wrote_after_its_last_state_is_deleted(tmp_path):
    """Otherwise files of two starts would be in one checkpoint."""
    state = write_checkpoint(tmp_path, 9)
    write_checkpoint(tmp_path, 10, resumable=False)
    delete_newer(tmp_path, state)
    assert names(tmp_path) == ["checkpoint-9"]
    delete_newer(tmp_path, None)
    assert names(tmp_path) == []


def test_a_host_without_rank_zeros_checkpoint_raises_an_error(tmp_path, monkeypatch):
    """It would resume from other weights, or start over."""
    monkeypatch.setattr("job.distributed.process_group.is_rank_zero", lambda: False)
    monkeypatch.setattr(
        "job.distributed.process_group.from_rank_zero", lambda _: tmp_path / "checkpoint-7"
    )

    with pytest.raises(MachineError, match=r"`.*checkpoint-7` .* it is incomplete"):
        checkpoint_on_each_host(tmp_path)


def test_a_restored_checkpoint_scores_as_in_training(task):
    """Here the best step is not the last one."""
    prepared = task(training__learning_rate="3e-3", training__epochs="4")
    trained = prepared.train()

    assert 0 < trained.best_step < trained.steps
    found = prepared.base.validation.score(trained.model)[MAIN]
    assert found == pytest.approx(trained.best_validation, abs=1e-6)


@pytest.mark.parametrize("damage", ["other weights", "half a file", "no file", "no folder"])
def test_a_damaged_checkpoint_is_refused(task, tmp_path, damage):
    prepared = task()
    model = prepared.load()
    folder = tmp_path / "checkpoint-7"
    if damage != "no folder":
        model.encoder.save_pretrained(str(folder), create_model_card=False)
        write_checksums(folder)
        weights = folder / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()
        if damage == "half a file":
            weights.write_bytes(content[: len(content) // 2])
        elif damage == "other weights":
            with torch.no_grad():
                next(model.encoder.parameters()).zero_()
            model.encoder.save_pretrained(str(folder), create_model_card=False)

    with pytest.raises(TrainingError, match=r"`checkpoint-7`, the best .* cannot be loaded: "):
        restore(model, folder)


# Interruption


@pytest.mark.parametrize(
    ("every", "logged"), [("epoch", 9), pytest.param("4", 12, marks=pytest.mark.exhaustive)]
)
def test_a_resumed_training_equals_an_uninterrupted_one(task, stop_after, tmp_path, every, logged):
    """The weights are equal bit by bit, and the candidates are the same.

    With a margin of 1 there are many hard groups; a resumed epoch draws the same ones.
    """
    prepared = task(training__evaluate_every=every, training__negative_margin="1")
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))

    saved = []
    with pytest.raises(Interrupted, match=f"after step {logged + 1} of 20"):
        prepared.train(stop_after(logged), on_checkpoint=lambda path: saved.append(path.name))
    stopped = last_checkpoint(prepared.workspace.checkpoints)
    resumed = prepared.train()

    assert stopped.name == saved[-1] == f"checkpoint-{logged + 1}"
    assert resumed.resumed_from_step == logged + 1
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))
    assert validated_steps(resumed) == validated_steps(whole)
    assert replace(resumed, model=None, history=[], resumed_from_step=0) == replace(
        whole, model=None, history=[]
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize(("every", "epochs", "steps"), [("6", "1", 10), ("epoch", "0.5", 5)])
def test_a_stop_in_the_last_step_loses_nothing(task, stop_after, tmp_path, every, epochs, steps):
    """Its weights are validated and saved, also where no validation is due by the step."""
    prepared = task(training__evaluate_every=every, training__epochs=epochs)
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))

    with pytest.raises(Interrupted, match=f"after step {steps} of {steps}"):
        prepared.train(stop_after(steps - 1))
    resumed = prepared.train()

    assert resumed.resumed_from_step == steps
    assert validated_steps(resumed) == validated_steps(whole)
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))


@pytest.mark.parametrize("epochs", ["1", "0.5"])
def test_a_complete_training_trains_no_more_steps(task, epochs):
    """A run that was killed while its tuned model was scored."""
    prepared = task(training__epochs=epochs)
    whole = prepared.train()

    again = prepared.train()

    assert (again.steps, again.resumed_from_step) == (whole.steps, whole.steps)
    assert validated_steps(again) == validated_steps(whole)
    assert_same_weights(weights_of(again.model), weights_of(whole.model))


@pytest.mark.exhaustive
def test_a_training_resumes_from_before_its_best_weights(task, stop_after, tmp_path):
    """They are written again: the run was killed before the next checkpoint was complete."""
    prepared = task(training__checkpoint_steps="9")
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        prepared.train(stop_after(14))
    folder = prepared.workspace.checkpoints
    (folder / "checkpoint-15" / "digests.json").unlink()
    assert last_checkpoint(folder) == folder / "checkpoint-9"

    resumed = prepared.train()

    assert (resumed.resumed_from_step, resumed.best_step) == (9, whole.best_step)
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))
    assert names(folder) == names(tmp_path / "whole" / "checkpoints")


# Resolved hyperparameters


ALL_AUTO = dict.fromkeys(("training__epochs", "training__batch_size"), "auto")


@pytest.mark.exhaustive
def test_auto_trains_the_same_model_as_its_resolved_values(task, tmp_path):
    """The weights are equal bit by bit if the resolved values are given in the spec."""
    automatic = task(**ALL_AUTO)
    outcome = automatic.train()
    values = {f"training__{f}": by["value"] for f, by in outcome.hyperparameters.facts().items()}
    others = {f"training__{f}" for f in ("mini_batch_size", "lora", "gradient_checkpointing")}
    assert values.keys() == {*ALL_AUTO, *others}

    explicit = task(**{field: json.dumps(value) for field, value in values.items()})
    again = explicit.train(workspace=Workspace(tmp_path / "explicit"))

    assert again.hyperparameters.reasons == {}
    assert again.hyperparameters.spec == outcome.hyperparameters.spec
    assert_same_weights(weights_of(again.model), weights_of(outcome.model))
    assert again.steps == outcome.steps


@pytest.mark.exhaustive
def test_a_resumed_training_keeps_its_hyperparameters(task, stop_after, tmp_path):
    """On a machine with less memory `auto` would resolve to other values."""
    prepared = task()
    whole = prepared.train(workspace=Workspace(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        prepared.train(stop_after(9))
    path = prepared.workspace.hyperparameters
    first = read_hyperparameters(path)
    model = prepared.load(LowMemory("cpu", "float32", "as the spec says"))

    resumed = prepared.train(model=model)

    now = resolve(prepared.spec.training, model, prepared.dataset.train)
    assert (first.spec.mini_batch_size, now.spec.mini_batch_size) == (None, 1)
    assert resumed.hyperparameters == first == read_hyperparameters(path)
    assert resumed.resumed_from_step == 10
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))


def test_a_training_without_checkpoints_resolves_its_hyperparameters_again(task):
    """The values of an earlier attempt are replaced."""
    prepared = task(training__epochs="1")
    model = prepared.load(LowMemory("cpu", "float32", "as the spec says"))
    resolve(prepared.spec.training, model, prepared.dataset.train).write(
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
def test_dropout_is_set_by_the_spec(task, settings, share):
    """The default is 0; `null` keeps the model's own dropout."""
    modules = task(**settings).trainer().model.modules()

    assert {module.p for module in modules if isinstance(module, Dropout)} == {share}


def test_a_finished_training_is_not_repeated(trained):
    """A run that is killed after its training takes the result from the checkpoints."""
    prepared, whole = trained

    again = prepared.train()

    assert again.resumed_from_step == again.steps == 20
    assert_same_weights(weights_of(again.model), weights_of(whole.model))
    assert replace(again, model=None, resumed_from_step=0) == replace(whole, model=None)
