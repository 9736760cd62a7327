"""The recipe of the article "Fine-tune Embedding models for RAG" (2024), on our data and splits.

From the article: batches of 32 accumulated 16 times, learning rate 2e-5, scale 20, and one of the
library's evaluators per dimension. They run on the test set before the training, after each epoch
and at the end, and also select the checkpoint. Only the data and the precision are ours; both sides
of the benchmark share them.

Where only scores are compared, the same training takes much less time: texts are embedded in passes
of similar length, and the only evaluator is the one that selects the checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset as ArrowDataset
from metering import Meter
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import (
    InformationRetrievalEvaluator,
    SequentialEvaluator,
)
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from transformers.trainer_callback import PrinterCallback

from job.data.dataset import Corpus, Dataset, Queries
from job.model.device import Machine
from job.model.encoder import Model
from job.model.features import Passes

BATCH, ACCUMULATION, LEARNING_RATE, SCALE = 32, 16, 2e-5, 20.0


@dataclass(frozen=True)
class Run:
    """The result of the recipe: one checkpoint per epoch, and the one its evaluators chose."""

    checkpoints: list[Path]
    chosen: Path
    updates: int
    before: dict[str, float]
    after: dict[str, float]


class Evaluator(InformationRetrievalEvaluator):
    """The library's evaluator in the machine's precision; vectors are compared in float32."""

    machine: Machine

    def embed_inputs(self, *args: object, **options: object) -> torch.Tensor:
        with self.machine.autocast():
            return super().embed_inputs(*args, **options).float()


class RankingInPasses(MultipleNegativesRankingLoss):
    """The library's loss; its texts are embedded in passes of similar length, with less padding."""

    def __init__(self, model: Model, scale: float) -> None:
        super().__init__(model.encoder, scale=scale)
        self.cost = model.pass_cost

    def forward(
        self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor
    ) -> torch.Tensor:
        passes = Passes(list(sentence_features), self.model, self.cost)
        vectors = [self.model(dict(each))["sentence_embedding"] for each in passes.features]
        return self.compute_loss_from_embeddings(passes.columns(vectors), labels)


def evaluators(
    queries: Queries,
    corpus: Corpus,
    dimensions: Iterable[int],
    machine: Machine,
    batch_size: int = BATCH,
) -> SequentialEvaluator:
    """Make one evaluator per dimension; each encodes all queries and the whole corpus again."""
    corpus_ids, query_ids = corpus.ids.to_pylist(), queries.ids.to_pylist()
    query_texts = dict(zip(query_ids, queries.texts.to_pylist(), strict=True))
    corpus_texts = dict(zip(corpus_ids, corpus.texts.to_pylist(), strict=True))
    relevant = {
        query: {corpus_ids[d] for d in queries.relevant(i)} for i, query in enumerate(query_ids)
    }
    by_dimension = []
    for d in dimensions:
        options = {"truncate_dim": d, "batch_size": batch_size, "name": f"dim_{d}"}
        evaluator = Evaluator(query_texts, corpus_texts, relevant, write_csv=False, **options)
        evaluator.machine = machine
        by_dimension.append(evaluator)
    return SequentialEvaluator(by_dimension)


def run_recipe(
    model: Model,
    dataset: Dataset,
    dimensions: tuple[int, ...],
    epochs: int,
    seed: int,
    folder: Path,
    meter: Meter,
) -> Run:
    """Run the steps of the article in its order."""
    evaluator = evaluators(dataset.test, dataset.corpus, dimensions, model.machine)
    with meter.phase("score base"):
        before = evaluator(model.encoder)
    with meter.phase("train"):
        trainer = build_trainer(model, dataset, dimensions, evaluator, epochs, seed, folder)
        trainer.train()
    with meter.phase("score tuned"):
        chosen = Path(trainer.state.best_model_checkpoint)
        # The article saves the model and loads it again before the last evaluation.
        trainer.save_model(str(folder / "model"))
        tuned = SentenceTransformer(str(folder / "model"), device=model.machine.device)
        after = evaluator(tuned)
    return Run(saved(folder), chosen, trainer.state.global_step, before, after)


def train_only(
    model: Model,
    dataset: Dataset,
    dimensions: tuple[int, ...],
    epochs: int,
    seed: int,
    folder: Path,
    meter: Meter,
) -> Run:
    """Train and select a checkpoint as the article does, without what only takes time."""
    selecting = [selecting_dimension(dimensions)]
    evaluator = evaluators(dataset.test, dataset.corpus, selecting, model.machine)
    ranking = RankingInPasses(model, SCALE)
    with meter.phase("train"):
        arguments = model, dataset, dimensions, evaluator, epochs, seed, folder
        trainer = build_trainer(*arguments, ranking)
        trainer.train()
    chosen = Path(trainer.state.best_model_checkpoint)
    return Run(saved(folder), chosen, trainer.state.global_step, {}, {})


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[-1]))


def selecting_dimension(dimensions: Iterable[int]) -> int:
    return min(dimensions, key=lambda d: abs(d - 128))


def build_trainer(
    model: Model,
    dataset: Dataset,
    dimensions: tuple[int, ...],
    evaluator: SequentialEvaluator,
    epochs: int,
    seed: int,
    folder: Path,
    ranking: MultipleNegativesRankingLoss | None = None,
) -> SentenceTransformerTrainer:
    main = selecting_dimension(dimensions)
    precision = model.machine.precision
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=model.machine.device == "cpu",
        dataloader_pin_memory=model.machine.device == "cuda",
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_dim_{main}_cosine_ndcg@10",
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    ranking = ranking or MultipleNegativesRankingLoss(model.encoder, scale=SCALE)
    trainer = SentenceTransformerTrainer(
        model=model.encoder,
        args=arguments,
        train_dataset=ArrowDataset(dataset.train.table.select(["anchor", "positive"])),
        loss=MatryoshkaLoss(model.encoder, ranking, list(dimensions)),
        evaluator=evaluator,
    )
    # It prints to stdout, which is for the benchmark's table.
    trainer.remove_callback(PrinterCallback)
    return trainer
