"""What a run measures: the scores of the base and of the tuned model, and their comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from job.data.dataset import Dataset
from job.distributed.process_group import is_rank_zero
from job.evaluation.base_vs_tuned import compare, compare_swap
from job.evaluation.baseline import Baseline, load_baseline, save_baseline, score_base
from job.evaluation.corpus_sizes import measure_sizes
from job.evaluation.error_analysis import analyze_errors
from job.evaluation.evaluate import Vectors, embed, score_vectors
from job.evaluation.hybrid import hybrid_search
from job.evaluation.metrics import Scores
from job.evaluation.recommendation import choose
from job.evaluation.results import ErrorAnalysis, NumberFormats, Swap
from job.evaluation.significance import GroupedQueries
from job.evaluation.truncation import count_truncated
from job.model.dtypes import published_dtype, round_weights, stored_dtype, weights_dtype
from job.model.encoder import Model
from job.model.save import fingerprint
from job.prepare import RunInputs, load_base
from job.report.build import Results
from job.runtime.logs import log_scores, tell, warn
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace
from job.training.provenance import provenance_of, verify_checkpoints
from job.training.query_adapter import (
    Adapter,
    BaseVectors,
    embed_with_base,
    measure_kept_index,
)
from job.training.train import Training


def score_base_once(inputs: RunInputs, spec: JobSpec, workspace: Workspace) -> Baseline:
    """Score the base model, or load the scores from an earlier start of this run."""
    if is_rank_zero():
        weights = fingerprint(inputs.fetched.model)
        data, precision = inputs.dataset.facts["fingerprint"], inputs.machine.precision
        verify_checkpoints(workspace, provenance_of(spec, data, weights, precision))
    base = load_baseline(workspace.baseline, inputs.model, inputs.dataset, inputs.dimensions, spec)
    if base:
        tell("score base", "reusing the scores from an earlier start of this run")
        return base
    base = score_base(inputs.model, inputs.dataset, inputs.dimensions, spec, inputs.auxiliary)
    if is_rank_zero():
        save_baseline(base, workspace.baseline)
    return base


def log_base_scores(base: Baseline) -> None:
    log_scores("bm25", {0: base.bm25.means()})
    log_scores("base", {d: scores["float32"].means() for d, scores in base.test.items()})


@dataclass(frozen=True)
class Tuned:
    """The tuned model (the base model if no checkpoint was better) and its scores.

    Its weights are rounded to the number format in which they are stored.
    """

    model: Model
    dtype: str
    # By dimension and precision.
    scores: Mapping[int, Mapping[str, Scores]]
    # Scores on the auxiliary tests, by name and dimension.
    auxiliary: Mapping[str, Mapping[int, Scores]]
    # Of the test queries and the whole corpus.
    vectors: Vectors


def score_tuned(inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training) -> Tuned:
    """Score the tuned model, or the base model if no checkpoint was better on validation."""
    evaluation, dimensions = spec.evaluation, inputs.dimensions
    if training.improved_on_validation:
        model = training.model
    else:
        # Load the base model again: training has changed the weights in memory.
        untuned = load_base(spec, inputs.machine, inputs.fetched, inputs.dataset, inputs.lora)
        model = untuned.with_prompts(base.prompts.used)
    dtype = stored_dtype(spec.output.dtype, model)
    if spec.output.dtype not in ("auto", dtype):
        why = "the library computes static embeddings in the format of their file"
        warn("score tuned", f"stored as {dtype} instead of {spec.output.dtype}: {why}")
    is_rounded = round_weights(model.encoder, dtype)
    auxiliary: Mapping[str, Mapping[int, Scores]] = base.auxiliary
    vectors = base.vectors
    if training.improved_on_validation or is_rounded:
        vectors = None
        auxiliary = {
            name: test.score(model, dimensions, evaluation.batch_size)
            for name, test in inputs.auxiliary.items()
        }
    vectors = vectors or embed(
        model, inputs.dataset.test, inputs.dataset.corpus, evaluation.batch_size
    )
    scores = score_vectors(vectors, inputs.dataset.test, dimensions.all, evaluation.precisions)
    return Tuned(model, dtype, scores, auxiliary, vectors)


def compare_models(
    inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training, tuned: Tuned
) -> Results:
    """Compare base and tuned scores; the model is only used to count tokens."""
    test, corpus, evaluation = inputs.dataset.test, inputs.dataset.corpus, spec.evaluation
    by_group = GroupedQueries(test.groups, evaluation.permutations, spec.data.seed)
    scores = (base.test, tuned.scores)
    comparison = compare(*scores, base.bm25, by_group, inputs.dimensions)
    recommended = choose(comparison.points, evaluation)[0]
    swap = compare_swap(*scores, base.bm25, by_group, recommended)
    point = swap.dimension, swap.precision
    return Results(
        machine=inputs.machine,
        inputs=inputs.fetched.facts,
        dataset=inputs.dataset,
        base=base,
        training=training,
        tuned_prompts=tuned.model.prompts,
        formats=number_formats(inputs, tuned),
        attention={
            "encoding": tuned.model.encoding_attention,
            "training": tuned.model.training_attention,
        },
        tuned=tuned.scores,
        comparison=comparison,
        swap=swap,
        hybrid=hybrid_search(
            base.bm25,
            *scores,
            test,
            by_group,
            swap,
            evaluation.worth,
            improved=comparison.improved,
        ),
        error_analysis=analyze_swap(inputs.dataset, spec, base, tuned, swap),
        truncation=count_truncated(tuned.model, test, corpus),
        sizes=measure_sizes(
            None if inputs.dataset.folds else tuned.vectors,
            tuned.scores,
            inputs.dataset,
            point,
            spec.data.seed,
        ),
        auxiliary={
            name: each.compare(base.auxiliary[name], tuned.auxiliary[name], swap.dimension, spec)
            for name, each in inputs.auxiliary.items()
        },
        generation=inputs.written.facts,
        test_by=inputs.written.test_by,
    )


def analyze_swap(
    dataset: Dataset, spec: JobSpec, base: Baseline, tuned: Tuned, swap: Swap
) -> ErrorAnalysis:
    """Analyze the queries whose results change from the base model to the recommended vectors."""
    return analyze_errors(
        dataset.test,
        dataset.corpus,
        base.test[swap.full_dimension]["float32"],
        tuned.scores[swap.dimension][swap.precision],
        base.bm25,
        spec.data.columns.group,
        spec.data.near_duplicate_threshold,
    )


def embed_kept_index(inputs: RunInputs, spec: JobSpec, base: Baseline) -> BaseVectors | None:
    """Return the base model's vectors if `evaluation.keep_index` asks for them."""
    if not spec.evaluation.keep_index:
        return None
    untuned = load_base(spec, inputs.machine, inputs.fetched, inputs.dataset, inputs.lora)
    untuned = untuned.with_prompts(base.prompts.used)
    return embed_with_base(untuned, inputs.dataset, base, spec.evaluation.batch_size)


def compare_kept_index(
    existing: BaseVectors, spec: JobSpec, base: Baseline, tuned: Tuned, results: Results
) -> tuple[Results, Adapter]:
    """Measure what remains of the gain with the base model's document vectors."""
    full = results.comparison.dimensions.full
    scores = (base.test[full]["float32"], tuned.scores[full]["float32"])
    data, gain = results.dataset, results.comparison.full_width
    of_search = (data, base.validation.search, spec, gain)
    kept, adapter = measure_kept_index(
        existing.cut(full), tuned.vectors.queries, scores, *of_search
    )
    return replace(results, keep_index=kept), adapter


def number_formats(inputs: RunInputs, tuned: Tuned) -> NumberFormats:
    return NumberFormats(
        published=published_dtype(inputs.fetched.model),
        weights=weights_dtype(tuned.model.encoder),
        activations=inputs.machine.precision,
        stored=tuned.dtype,
    )
