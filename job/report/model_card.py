"""The model card: the README.md that the Hub shows and searches."""

from pathlib import Path

from job.report.document import Report
from job.report.templating import render
from job.spec.schema import ModelSpec

HUB_METRICS = ("ndcg@10", "mrr@10", "map@100", "recall@10", "accuracy@1")


def write_card(folder: Path, spec: ModelSpec, base: Path, report: Report) -> None:
    """Write README.md into a saved model's folder; `base` is the folder of the base model."""
    from huggingface_hub import EvalResult, ModelCardData

    stem = spec.base.rstrip("/").rsplit("/", 1)[-1]
    name = spec.name or (f"{stem}, tuned" if report.training.best_step else stem)
    tested = ", before the training on all pairs" if report.has_seen_test else ""
    if report.data.folds:
        tested = f", by the models of {len(report.data.folds)} folds"
    results = [
        EvalResult(
            task_type="information-retrieval",
            dataset_type="embedtune-test",
            # The Hub merges results of the same type and configuration, even if names differ.
            dataset_config=f"{dimension} dimensions",
            dataset_name=f"test split of {report.data.source} ({dimension} dimensions){tested}",
            metric_type=f"dim_{dimension}_cosine_{metric}",
            metric_value=round(values["float32"][metric], 4),
        )
        for dimension, values in report.scores.tuned.items()
        for metric in HUB_METRICS
    ]
    is_on_hub = spec.base.count("/") == 1 and not Path(spec.base).exists()
    metadata = ModelCardData(
        base_model=spec.base if is_on_hub else None,
        language=spec.language,
        license=spec.license or base_license(base),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "matryoshka", "embedtune"],
        model_name=name,
        eval_results=results,
    )
    body = render("card.md", name=name, base=spec.base, report=report)
    (folder / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\n\n{body}", "utf-8")


def base_license(base: Path) -> str | None:
    """Return the license in the base model's card, or None."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    card = base / "README.md"
    try:
        found = ModelCard.load(card).data.license if card.is_file() else None
        return found if isinstance(found, str) else None
    except (OSError, ValueError, YAMLError):
        # An unreadable card must not fail the run; the license is left out.
        return None
