"""Builds the report from a run's results; every view is rendered from the report."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from job.data.dataset import Dataset
from job.distributed import process_group
from job.evaluation.base_vs_tuned import Comparison
from job.evaluation.baseline import Baseline
from job.evaluation.evaluate import metric_key
from job.evaluation.keep_index import KeepIndex
from job.evaluation.metrics import Scores
from job.evaluation.recommendation import frontier, recommend
from job.evaluation.results import (
    AuxiliaryTest,
    Both,
    Compared,
    ErrorAnalysis,
    Fusion,
    NumberFormats,
    Precisions,
    Quality,
    Swap,
    Truncation,
)
from job.evaluation.scope import CorpusSizes
from job.generation.facts import Generation
from job.model.device import Machine
from job.model.prompts import Prompts
from job.report.advice import advise
from job.report.document import Cost, Report
from job.report.snippets import repeat, usage
from job.report.verdict import recommendation_opening, verdict
from job.spec.schema import JobSpec
from job.training.train import Training

PACKAGES = (
    "embedtune",
    "torch",
    "sentence-transformers",
    "transformers",
    "datasets",
    "bm25s",
    "botocore",
)


@dataclass(frozen=True)
class Results:
    """All results of a run."""

    machine: Machine
    # The fetched inputs, by role: see `job.inputs`.
    inputs: Mapping[str, Mapping[str, Any]]
    dataset: Dataset
    base: Baseline
    training: Training
    tuned_prompts: Prompts
    formats: NumberFormats
    # Attention implementations by use: `encoding`, `training`.
    attention: Mapping[str, str]
    tuned: Mapping[int, Mapping[str, Scores]]
    comparison: Comparison
    # The recommended vectors against the base model's at full width.
    swap: Swap
    hybrid: Fusion
    error_analysis: ErrorAnalysis
    truncation: Truncation
    # What the recommended vectors keep in smaller corpora.
    sizes: CorpusSizes
    # The requested auxiliary tests: see `job.evaluation.auxiliary_tests`.
    auxiliary: Mapping[str, AuxiliaryTest]
    # Only with `evaluation.keep_index`.
    keep_index: KeepIndex | None = None
    # What became of the questions that a language model wrote in this run.
    generation: Generation | None = None
    # The language model that wrote the test questions; None if people did.
    test_by: str | None = None

    @property
    def improved(self) -> bool:
        return self.comparison.improved and self.training.improved_on_validation

    @property
    def deploy(self) -> bool:
        """Whether the recommended vectors are better than the base model's at full width too."""
        return self.improved and self.swap.is_gain


def build_report(
    job_name: str,
    spec: JobSpec,
    results: Results,
    weights: Both[str],
    seconds: dict[str, float],
    cost: Cost,
) -> Report:
    """Assemble the report; `weights` are the digests of the models' weights."""
    comparison = results.comparison
    advice = recommend(
        comparison.points, comparison.reference, spec.evaluation, recommendation_opening(results)
    )
    is_pushed = spec.output.hub is not None and (results.improved or spec.output.hub_always)
    report = Report.model_validate(
        {
            "version": 1,
            "job_name": job_name,
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "verdict": verdict(results, spec.evaluation.worth),
            "recommendation": advice,
            **_comparisons(results),
            "inputs": results.inputs,
            "data": {**results.dataset.facts, "truncation": results.truncation},
            "prompts": _prompts(results),
            "training": _training(results),
            "seconds": seconds,
            "cost": cost,
            "environment": _environment(results),
            "models": {
                "base": {"uri": spec.model.base, "fingerprint": weights.base},
                "tuned": {"fingerprint": weights.tuned},
            },
            "usage": usage(spec, job_name, advice, results.formats.stored, pushed=is_pushed),
            "repeat": {"command": repeat(job_name, spec.output.uri)},
            "spec": spec.model_dump(mode="json"),
            "exports": [],
            "advice": [],
            **({"generation": results.generation} if results.generation else {}),
        },
        # Otherwise a fact without a field in the document would be dropped silently.
        extra="forbid",
    )
    return report.model_copy(update={"advice": advise(report)})


def _comparisons(results: Results) -> dict[str, Any]:
    """Return the sections of the report that compare models and vectors."""
    comparison = results.comparison
    return {
        "swap": results.swap,
        "pareto": frontier(comparison.points),
        "scores": {
            "bm25": results.base.bm25.means(),
            "base": _means(results.base.test),
            "tuned": _means(results.tuned),
        },
        "comparison": compared(comparison),
        "fusion": results.hybrid,
        "error_analysis": results.error_analysis,
        "keep_index": results.keep_index,
        "out_of_domain": results.auxiliary.get("out_of_domain"),
        "article": results.auxiliary.get("article"),
        **{name: found for name, found in results.auxiliary.items() if name == "synthetic"},
    }


def compared(comparison: Comparison) -> dict[str, Precisions]:
    """Nest the points by dimension and precision; lifts are of float32 vectors only."""
    nested: dict[str, dict[str, Quality]] = {str(d): {} for d in comparison.dimensions.all}
    for point in comparison.points:
        d = point.dimension
        found = Quality(
            retention=point.retention,
            score_ci=point.ci,
            score_at_least=point.at_least,
            bytes_per_vector=point.bytes_per_vector,
        )
        if point.precision == "float32":
            found = Compared(
                **dict(found),
                **dict(comparison.lifts[d]),
                against_full_base=comparison.against_full_base[d],
                against_bm25=comparison.against_bm25[d],
            )
        nested[str(d)][point.precision] = found
    return {d: Precisions(**by_precision) for d, by_precision in nested.items()}


def _means(scores: Mapping[int, Mapping[str, Scores]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        str(dimension): {precision: found.means() for precision, found in by_precision.items()}
        for dimension, by_precision in scores.items()
    }


def _prompts(results: Results) -> dict[str, Any]:
    return {
        "sentence": results.base.prompts.sentence(),
        "base": asdict(results.base.prompts.used),
        "tuned": asdict(results.tuned_prompts),
    }


def _training(results: Results) -> dict[str, Any]:
    return {
        **results.training.facts(),
        "peak_memory": results.machine.peak_memory(),
        "remark": results.training.remark(metric_key(results.comparison.dimensions.main)),
    }


def job_cost(seconds_by_stage: Mapping[str, float], price_per_hour: float | None) -> Cost:
    """Price the measured seconds; without a price the cost is unknown, not zero."""
    seconds = sum(seconds_by_stage.values())
    if price_per_hour is None:
        return Cost(usd=None, basis="no `--price-per-hour` was given")
    basis = f"{seconds:.0f} measured seconds of the job at ${price_per_hour:g} an hour"
    return Cost(usd=round(seconds / 3600 * price_per_hour, 4), basis=basis)


def _environment(results: Results) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        **asdict(results.machine),
        # With the formats that every report has the same, too.
        "formats": results.formats.model_dump(),
        "attention": dict(results.attention),
        "hosts": process_group.host_count(),
        "processes": process_group.world_size(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
