"""The model card: correct, readable by the Hub, and its snippets run."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from reports import improved

from job.pipeline import RunContext, run
from job.report.document import Report
from job.report.model_card import HUB_METRICS, write_card
from job.runtime.signals import StopSignal
from job.spec.schema import ModelSpec
from job.storage.workspace import Workspace


@pytest.fixture
def write(tmp_path):
    """Write the card of a report, and load it as the Hub does."""

    def card(folder=None, report=None, **model):
        spec = ModelSpec(**{"base": "some/tiny"} | model)
        report = Report.model_validate(report or improved())
        write_card(tmp_path, spec, Path(folder or spec.base), report)
        return ModelCard.load(tmp_path / "README.md")

    return card


# What the Hub reads


def test_the_hub_finds_the_tuned_scores_of_each_dimension(write):
    """The metadata has each metric of each dimension, with the article's key and a name that
    contains the dimension."""
    scores = improved()["scores"]["tuned"]
    assert [
        (found.task_type, found.metric_type, found.metric_value, found.dataset_name)
        for found in write().data.eval_results
    ] == [
        (
            "information-retrieval",
            f"dim_{dimension}_cosine_{metric}",
            round(scores[dimension]["float32"][metric], 4),
            f"test split of pairs.jsonl ({dimension} dimensions)",
        )
        for dimension in ("64", "32", "16")
        for metric in HUB_METRICS
    ]


def test_the_hub_can_search_for_the_model(write, tiny_encoder):
    """Library, task and tags are the Hub's filters; a local base model has no Hub id."""
    data = write(base=str(tiny_encoder)).data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.tags == ["sentence-transformers", "feature-extraction", "matryoshka", "embedtune"]
    assert data.model_name == "tiny, tuned"
    assert (data.base_model, data.language) == (None, None)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"base": "nobody/no-such"}, ("nobody/no-such", "no-such, tuned")),
        # The Hub would look up this name as a Hub id, and reject the card.
        ({"base": "s3://bucket/models/tiny"}, (None, "tiny, tuned")),
        # Shells complete folders with a slash.
        ({"base": "s3://bucket/tiny/"}, (None, "tiny, tuned")),
        ({"base": "builtin:minilm"}, (None, "builtin:minilm, tuned")),
        ({"name": "Our search, v2", "base": "builtin:minilm"}, (None, "Our search, v2")),
    ],
)
def test_only_a_base_model_of_the_hub_is_linked(write, model, expected):
    """By its id, wherever its files are; a name in the spec wins."""
    card = write("/nowhere", language="de", **model)

    assert (card.data.base_model, card.data.model_name) == expected
    assert card.data.language == "de"
    assert f"`{model['base']}`, fine-tuned" in card.text
    assert f"\n# {expected[1]}\n" in card.content


@pytest.mark.parametrize(
    ("card", "given", "expected"),
    [
        # A tuned model is a derived work of its base model; the spec overrides the base card.
        (b"---\nlicense: mit\n---\n# A model\n", None, "mit"),
        (b"---\nlicense: mit\n---\n", "apache-2.0", "apache-2.0"),
        # Without a readable license there is none; a broken card must not fail a run.
        (None, None, None),
        (b"# A model without metadata\n", None, None),
        (b"", None, None),
        (b"---\n- a list\n---\n", None, None),
        (b"---\nlicense: [mit\n---\n", None, None),
        (b"---\nlicense: \xff\n---\n", None, None),
    ],
)
def test_the_license_is_inherited_unless_given(write, tmp_path, card, given, expected):
    base = tmp_path / "base"
    base.mkdir()
    if card is not None:
        (base / "README.md").write_bytes(card)
    assert write(base=str(base), license=given).data.license == expected


# What people read (for the whole text see `test_render.py`)


def test_the_snippets_of_a_runs_card_run(tiny_spec, tmp_path, monkeypatch):
    """Unchanged, the code embeds and searches at the recommended dimension, and applies the
    prompts that the card shows."""
    import torch
    from sentence_transformers import SentenceTransformer

    monkeypatch.chdir(tmp_path)
    prompts = {"model__query_prompt": '"ask1 "', "model__document_prompt": '"tell1 tell2 "'}
    spec = tiny_spec(output__uri="runs", training__epochs="1", **prompts)
    run(spec, Workspace(tmp_path / "work"), RunContext("tuned", "cpu"), StopSignal())
    folder = Path("runs/tuned")
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    card = ModelCard.load(folder / "model" / "README.md").text

    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert codes == [code for code in map(report["usage"].get, ("python", "quantized")) if code]
    for code in codes:
        names = {}
        exec(code, names)
        assert names["queries"].shape == (1, report["recommendation"]["dimension"])
        assert len(names["documents"]) == 2
        assert sorted(names["best"][0].tolist()) == [0, 1]
    assert "(query: `ask1 `, document: `tell1 tell2 `)" in card
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    for encode, prompt in ((model.encode_query, "ask1 "), (model.encode_document, "tell1 tell2 ")):
        torch.testing.assert_close(
            encode("ask5 tell7", convert_to_tensor=True),
            model.encode(f"{prompt}ask5 tell7", prompt="", convert_to_tensor=True),
        )
