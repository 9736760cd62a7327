"""The model's card: what the Hub and its search show of a tuned model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job.markdown import precision_table, score_table, usage_section
from job.spec import ModelSpec
from job.wording import on_one_line

HUB_METRICS = ("ndcg@10", "mrr@10", "map@100", "recall@10", "accuracy@1")


def write_card(folder: Path, spec: ModelSpec, base: Path, report: Mapping[str, Any]) -> None:
    """Write README.md into a saved model's folder; `base` is the folder of the base model."""
    from huggingface_hub import EvalResult, ModelCardData

    stem = spec.base.rstrip("/").rsplit("/", 1)[-1]
    name = spec.name or (f"{stem}, tuned" if report["training"]["best_step"] else stem)
    results = [
        EvalResult(
            task_type="information-retrieval",
            dataset_type="embedtune-test",
            # The Hub gathers results by type and configuration, whatever their names.
            dataset_config=f"{dimension} dimensions",
            dataset_name=f"test split of {report['data']['source']} ({dimension} dimensions)",
            metric_type=f"dim_{dimension}_cosine_{metric}",
            metric_value=round(values["float32"][metric], 4),
        )
        for dimension, values in report["scores"]["tuned"].items()
        for metric in HUB_METRICS
    ]
    metadata = ModelCardData(
        base_model=spec.base if _is_on_hub(spec.base) else None,
        language=spec.language,
        license=spec.license or base_license(base),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "matryoshka", "embedtune"],
        model_name=name,
        eval_results=results,
    )
    text = f"---\n{metadata.to_yaml()}\n---\n\n{_body(name, spec, report)}"
    (folder / "README.md").write_text(text, "utf-8")


def _is_on_hub(base: str) -> bool:
    return base.count("/") == 1 and not Path(base).exists()


def base_license(base: Path) -> str | None:
    """Read the licence from the base model's own card, where there is one."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    card = base / "README.md"
    try:
        found = ModelCard.load(card).data.license if card.is_file() else None
        return found if isinstance(found, str) else None
    except (OSError, ValueError, YAMLError):
        # A card that cannot be read costs a line in ours, not the run.
        return None


def _body(name: str, spec: ModelSpec, report: Mapping[str, Any]) -> str:
    data = report["data"]
    pairs = f"{data['splits']['train']} question-context pairs of `{data['source']}`"
    made = f"fine-tuned with embedtune on {pairs}."
    if not report["training"]["best_step"]:
        made = f"as it was: fine-tuning it with embedtune on {pairs} did not help."
    leaked = data["leakage"]["test_contexts_in_train"]
    trained_on = "no test question or context was trained on"
    if leaked or report["spec"]["evaluation"]["protocol"] == "article":
        trained_on = f"{leaked:.1%} of the test contexts were trained on"
    return f"""# {name}

`{spec.base}`, {made}

{report["verdict"]["sentence"]}

{score_table(report)}

nDCG@10 on {data["queries"]["test"]} test queries among {data["corpus"]} documents; \
{trained_on}.
Lift is tuned minus base, with its 95 % interval.

{report["recommendation"]["sentence"]}

{precision_table(report)}

Kept: share of the best float32 nDCG@10, with its 95 % interval; GB: 10 million vectors.
Rescored: what was found by codes is ranked again by the float32 query.

## How to use it

{usage_section(report["usage"])}

The prompts (query: {_code(report["prompts"]["tuned"]["query"])}, document: \
{_code(report["prompts"]["tuned"]["document"])}) are part of the model: `encode_query` and \
`encode_document` apply them.
"""


def _code(text: str) -> str:
    """Set a text as code; it may be a stranger's, and must not end the code itself."""
    return f"`{on_one_line(text).replace('`', chr(39))}`"
