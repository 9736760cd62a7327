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
from job.ranking import METRIC, Scores
from job.spec import JobSpec
from job.train import Training

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
    tuned: Mapping[int, Scores]
    comparison: Comparison

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
        "recommendation": {
            "dimension": comparison.recommended,
            "precision": "float32",
            "reason": recommendation(comparison, spec.evaluation.retention),
        },
        "scores": {
            "bm25": results.base.bm25.means(),
            "base": {str(d): {"float32": s.means()} for d, s in results.base.test.items()},
            "tuned": {str(d): {"float32": s.means()} for d, s in results.tuned.items()},
        },
        "comparison": comparison.to_dict(),
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
        scores[dimensions.main].mean(METRIC) for scores in (results.base.test, results.tuned)
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


def recommendation(comparison: Comparison, wanted: float) -> str:
    """Explain the recommended dimension: the smallest that provably keeps the wanted share."""
    dimension = comparison.recommended
    full = comparison.dimensions.full
    share = f"{round(100 * wanted, 6):g}%"
    if dimension == full:
        return (
            f"No smaller dimension provably keeps {share} of the nDCG@10 at {full} "
            "(the interval's lower bound decides)."
        )
    kept = comparison.retention[dimension]
    kept_share = (
        f"{dimension} dimensions keep {kept.share:.1%} [{kept.ci[0]:.1%}, {kept.ci[1]:.1%}] of the "
        f"nDCG@10 at {full} in {dimension / full:.0%} of the space"
    )
    if dimension == min(comparison.dimensions.all):
        return f"{kept_share}."
    return f"{kept_share}; smaller ones do not provably keep {share}."


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

Deploy {report["recommendation"]["dimension"]} dimensions: {report["recommendation"]["reason"]}

{score_table(report)}

BM25, without any model: nDCG@10 {report["scores"]["bm25"]["ndcg@10"]:.3f}.
Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself.

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
