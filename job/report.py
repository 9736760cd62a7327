"""The proof: report.json (version 1: add, don't rename), report.md, and the model's card."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from job.baseline import Baseline
from job.compare import Comparison, Lift
from job.data import Dataset
from job.machine import Machine
from job.model import Prompts
from job.precision import RESCORE_MULTIPLIER
from job.ranking import DEPTH, METRIC, Scores
from job.recommendation import DOCUMENTS, frontier, recommend, spoken
from job.spec import JobSpec
from job.train import Training
from job.where import Where
from job.where_markdown import where_section

REPORT_VERSION = 1
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
    """What a run found out."""

    machine: Machine
    # What was fetched, by role: see `job.fetch`.
    inputs: Mapping[str, Mapping[str, Any]]
    dataset: Dataset
    base: Baseline
    training: Training
    tuned_prompts: Prompts
    tuned: Mapping[int, Mapping[str, Scores]]
    comparison: Comparison
    where: Where

    @property
    def improved(self) -> bool:
        return self.comparison.improved and self.training.improved_on_validation


def build_report(
    job_name: str,
    spec: JobSpec,
    results: Results,
    seconds: dict[str, float],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """Assemble the document that every other view is made from."""
    comparison = results.comparison
    return {
        "version": REPORT_VERSION,
        "job_name": job_name,
        "verdict": verdict(results),
        "recommendation": recommend(comparison.points, comparison.best, spec.evaluation).to_dict(
            _opening(results)
        ),
        "pareto": [
            {
                "dimension": point.dimension,
                "precision": point.precision,
                "bytes_per_vector": point.bytes_per_vector,
                METRIC: point.ndcg,
                "retention": asdict(point.retention),
            }
            for point in frontier(comparison.points)
        ],
        "scores": {
            "bm25": results.base.bm25.means(),
            "base": _means(results.base.test),
            "tuned": _means(results.tuned),
        },
        "comparison": comparison.to_dict(),
        "where": results.where.to_dict(),
        "inputs": results.inputs,
        "data": results.dataset.facts,
        "prompts": {
            "sentence": results.base.prompts.sentence(),
            "base": asdict(results.base.prompts.used),
            "tuned": asdict(results.tuned_prompts),
        },
        "training": results.training.facts(),
        "seconds": seconds,
        "cost": cost,
        "environment": {
            "versions": {"python": platform.python_version(), **_versions()},
            **asdict(results.machine),
        },
        "spec": spec.model_dump(mode="json"),
    }


def _means(scores: Mapping[int, Mapping[str, Scores]]) -> dict[str, Any]:
    return {
        str(dimension): {precision: found.means() for precision, found in by_precision.items()}
        for dimension, by_precision in scores.items()
    }


def verdict(results: Results) -> dict[str, Any]:
    """Say whether it helped, at the main dimension, in numbers and in a sentence."""
    comparison = results.comparison
    main = comparison.dimensions.main
    lift = comparison.lifts[main]
    return {
        "improved": results.improved,
        "metric": METRIC,
        "dimension": main,
        "lift": lift.lift,
        "ci": list(lift.ci),
        "p_value": lift.p_value,
        "minimum_detectable_effect": comparison.minimum_detectable_effect,
        "sentence": _sentence(results, lift),
    }


def _sentence(results: Results, lift: Lift) -> str:
    dimensions = results.comparison.dimensions
    before, after = (
        scores[dimensions.main]["float32"].mean(METRIC)
        for scores in (results.base.test, results.tuned)
    )
    numbers = (
        f"nDCG@10 at {dimensions.main} dimensions: {before:.3f} → {after:.3f}, "
        f"{lift.lift:+.3f} {_interval(lift.ci)}, {format_p(lift.p_value)}"
    )
    if not results.training.steps:
        return f"Not improved: nothing was trained (`training.epochs` is 0). {numbers}."
    if not results.training.improved_on_validation:
        return (
            "Not improved: no checkpoint beat the base model on validation, so `model/` holds the "
            f"base model. {numbers}."
        )
    if not results.improved and lift.ci[1] < 0:
        return f"Not improved: the tuned model is worse than the base model. {numbers}."
    if not results.improved:
        return (
            f"Not improved: the gain is not beyond chance. {numbers}; this test set would show "
            f"{results.comparison.minimum_detectable_effect:+.3f} or more."
        )
    beats = [d for d, other in results.comparison.against_full_base.items() if other.is_gain]
    smallest = min(beats, default=None)
    if smallest is None or smallest == dimensions.full:
        return f"Improved. {numbers}."
    return (
        f"Improved. {numbers}; {smallest} dimensions now beat the base model at {dimensions.full}."
    )


def _opening(results: Results) -> str:
    """Begin the advice: vectors of a model that did not help are nobody's first choice."""
    if results.improved or not results.training.improved_on_validation:
        # In the latter case `model/` holds the base model.
        return "Deploy"
    if results.comparison.lifts[results.comparison.dimensions.main].ci[1] < 0:
        return "Better keep the base model; if this one is deployed, then"
    return "If this model is deployed, then"


def job_cost(seconds_by_stage: Mapping[str, float], price_per_hour: float | None) -> dict[str, Any]:
    """Price the measured seconds; without a price the cost stays unknown, not zero."""
    seconds = sum(seconds_by_stage.values())
    if price_per_hour is None:
        return {"usd": None, "basis": "no `--price-per-hour` was given"}
    return {
        "usd": round(seconds / 3600 * price_per_hour, 4),
        "basis": f"{seconds:.0f} measured seconds of the job at ${price_per_hour:g} an hour",
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """Render the report for GitHub, the Hub's card and a terminal without colours."""
    data = report["data"]
    splits = ", ".join(f"{name} {size}" for name, size in data["splits"].items())
    dropped = "; ".join(f"{why} {d['rows']}" for why, d in data["dropped"].items()) or "none"
    leakage = data["leakage"]
    by_group = report["spec"]["evaluation"]["protocol"] == "grouped"
    protocol = "by group" if by_group else "random rows, as in the article"
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    usd = report["cost"]["usd"]
    inputs = "; ".join(
        f"{role} `{found['uri']}` at `{found.get('commit') or found['version']}`"
        for role, found in report["inputs"].items()
        if len(found) > 1
    )
    recipe = "; ".join(
        f"{field} {json.dumps(resolved['value'])} ({resolved['reason']})"
        for field, resolved in report["training"]["recipe"].items()
    )
    return f"""# {report["job_name"]}

**{report["verdict"]["sentence"]}**

{report["recommendation"]["sentence"]}

{score_table(report)}

BM25, without any model: nDCG@10 {report["scores"]["bm25"]["ndcg@10"]:.3f}.
Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself.

## Smaller vectors

{precision_table(report)}

Kept: share of the best float32 nDCG@10, with its 95 % interval.
GB: vectors only, of 10 million documents; ids, graphs and texts come on top.
int8 is calibrated on the corpus; rescored: the best {RESCORE_MULTIPLIER * DEPTH} by codes are \
ranked again by the float32 query.
Frontier: nothing as small scores higher.

## Where

{where_section(report["where"], report["verdict"]["dimension"])}

## Data

- Source: `{data["source"]}`, {data["rows"]} rows read, {data["used"]} used; dropped: {dropped}.
- Fetched: {inputs or "nothing, all was here"}.
- Splits ({protocol}): {splits}; corpus: {data["corpus"]} documents, those of the training included.
- Test contexts that are also trained on: {leakage["test_contexts_in_train"]:.1%} \
(a random split: {leakage["under_a_random_split"]:.1%}).
- This test set shows a lift of {report["verdict"]["minimum_detectable_effect"]:.3f} or more \
(with 80 % chance).
- {report["prompts"]["sentence"]}

## Run

- {report["training"]["steps"]} steps, checkpoint of step {report["training"]["best_step"]} \
(0: the base model); preset `{report["spec"]["preset"]}`.
- `auto` became: {recipe or "nothing, all was given"}.
- {report["environment"]["device"]}, {report["environment"]["precision"]}: \
{report["environment"]["reason"]}.
- Seconds: {seconds}.
- Cost: {"unknown" if usd is None else f"${usd:.4f}"} ({report["cost"]["basis"]}).
"""


def score_table(report: Mapping[str, Any]) -> str:
    """Tabulate nDCG@10 of each dimension as Markdown."""
    rows = [
        "| dimension | base | tuned | lift | 95 % interval | p | wins / ties / losses | kept |",
        "|---:|---:|---:|---:|:---:|:---:|:---:|---:|",
    ]
    for dimension, precisions in report["comparison"].items():
        lift = precisions["float32"]
        base, tuned = (
            report["scores"][model][dimension]["float32"][METRIC] for model in ("base", "tuned")
        )
        rows.append(
            f"| {dimension} | {base:.3f} | {tuned:.3f} | {lift['lift']:+.3f} | "
            f"{_interval(lift['ci'])} | {format_p(lift['p_value'])} | "
            f"{lift['wins']} / {lift['ties']} / {lift['losses']} | "
            f"{lift['retention']['share']:.1%} |"
        )
    return "\n".join(rows)


def precision_table(report: Mapping[str, Any]) -> str:
    """Tabulate what vectors of each dimension and precision give and take, as Markdown."""
    rows = [
        "| dimension | precision | nDCG@10 | kept | 95 % interval | bytes | GB | |",
        "|---:|:---|---:|---:|:---:|---:|---:|:---|",
    ]
    advice = report["recommendation"]
    marks = {(str(p["dimension"]), p["precision"]): ["frontier"] for p in report["pareto"]}
    marks.setdefault((str(advice["dimension"]), advice["precision"]), []).append("**recommended**")
    for dimension, precisions in report["comparison"].items():
        for precision, found in precisions.items():
            score = report["scores"]["tuned"][dimension][precision][METRIC]
            low, high = found["retention"]["ci"]
            size = found["bytes_per_vector"]
            rows.append(
                f"| {dimension} | {spoken(precision)} | {score:.3f} | "
                f"{found['retention']['share']:.1%} | [{low:.1%}, {high:.1%}] | {size} | "
                f"{size * DOCUMENTS[1] / 1e9:.2f} | "
                f"{', '.join(marks.get((dimension, precision), []))} |"
            )
    return "\n".join(rows)


def format_p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _interval(ci: tuple[float, float] | list[float]) -> str:
    return f"[{ci[0]:+.3f}, {ci[1]:+.3f}]"


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def to_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
