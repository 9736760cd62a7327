"""The model's card: true, readable by the Hub, and its snippet runs."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from job.card import HUB_METRICS, base_license, write_card
from job.interruption import StopSignal
from job.markdown import precision_table, score_table
from job.pipeline import Circumstances, run
from job.spec import ModelSpec
from job.spec_document import build_spec
from job.workspace import Workspace

SETTINGS = {
    "training.epochs": "1",
    "model.query_prompt": '"ask1 "',
    "model.document_prompt": '"tell1 tell2 "',
}


@dataclass(frozen=True)
class Tuned:
    """A tuned model's folder and its run's report."""

    folder: Path
    report: dict

    @property
    def card(self):
        return ModelCard.load(self.folder / "README.md")


@pytest.fixture(scope="module")
def run_job(tmp_path_factory, tiny_encoder, tiny_settings, pairs_file):
    place = tmp_path_factory.mktemp("jobs")

    def work(name, **fields):
        given = {
            "data.source": str(pairs_file),
            "model.base": str(tiny_encoder),
            "output.uri": str(place / "runs"),
        }
        fields = {key.replace("__", "."): value for key, value in fields.items()}
        spec = build_spec({}, given | tiny_settings | SETTINGS | fields)
        run(spec, Workspace(place / "work" / name), Circumstances(name, "cpu"), StopSignal())
        folder = place / "runs" / name
        report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
        return Tuned(folder / "model", report)

    return work


@pytest.fixture(scope="module")
def tuned(run_job):
    return run_job("tuned")


@pytest.fixture
def write(tuned, tmp_path):
    """Write a card anew, for the same scores, and read it as the Hub does."""

    def card(folder=None, **model):
        write_card(tmp_path, ModelSpec(**model), Path(folder or model["base"]), tuned.report)
        return ModelCard.load(tmp_path / "README.md")

    return card


@pytest.fixture
def base_with_card(tiny_encoder, tmp_path):
    """Make a base model whose own card is given."""

    def make(card):
        folder = Path(shutil.copytree(tiny_encoder, tmp_path / "base"))
        (folder / "README.md").write_bytes(card)
        return str(folder)

    return make


# What the Hub reads


def test_the_hub_finds_the_tuned_scores_of_each_dimension(tuned):
    """Each metric of each dimension stands in the metadata, under the article's key."""
    results = tuned.card.data.eval_results

    found = {result.metric_type: result.metric_value for result in results}
    assert found == {
        f"dim_{dimension}_cosine_{metric}": round(values["float32"][metric], 4)
        for dimension, values in tuned.report["scores"]["tuned"].items()
        for metric in HUB_METRICS
    }
    assert len(found) == len(results) == 3 * len(HUB_METRICS)
    assert {result.task_type for result in results} == {"information-retrieval"}


def test_each_score_says_of_which_dimension_it_is(tuned):
    """The Hub shows a score under its data set's name, so the name must be that score's."""
    for result in tuned.card.data.eval_results:
        dimension = result.metric_type.split("_")[1]
        assert result.dataset_name == (
            f"test split of {tuned.report['data']['source']} ({dimension} dimensions)"
        )


def test_the_hub_can_search_for_the_model(tuned):
    """Library, task and tags are those by which people filter; a local base is no Hub id."""
    data = tuned.card.data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.tags == ["sentence-transformers", "feature-extraction", "matryoshka", "embedtune"]
    assert data.model_name == "tiny, tuned"
    assert data.base_model is None
    assert data.language is None


def test_the_spec_names_the_model_and_its_language(write, tiny_encoder):
    """What only the user knows is taken from the user."""
    card = write(base=str(tiny_encoder), name="Our search, v2", language="de", license="mit")

    assert (card.data.model_name, card.data.language) == ("Our search, v2", "de")
    assert card.data.license == "mit"
    assert "\n# Our search, v2\n" in card.content


def test_a_base_model_of_the_hub_is_linked(write, base_with_card):
    """By its id, wherever its files were fetched to; its licence is read from those."""
    folder = base_with_card(b"---\nlicense: mit\n---\n")

    card = write(folder, base="nobody/no-such-model")

    assert card.data.base_model == "nobody/no-such-model"
    assert card.data.model_name == "no-such-model, tuned"
    assert card.data.license == "mit"


@pytest.mark.parametrize("base", ["s3://bucket/models/tiny", "s3://bucket/tiny/", "builtin:minilm"])
def test_a_base_model_from_elsewhere_is_no_hub_id(write, tiny_encoder, base):
    """The Hub would look for a model of that name among its own, and refuse the card."""
    card = write(tiny_encoder, base=base)

    assert card.data.base_model is None
    assert f"`{base}`, fine-tuned" in card.text


def test_a_folder_written_with_a_slash_at_its_end_has_a_name(write, tiny_encoder):
    """Shells complete folders so."""
    assert write(base=f"{tiny_encoder}/").data.model_name == "tiny, tuned"


# The licence


def test_a_given_licence_wins(write, base_with_card):
    """The user may know better than the base model's card."""
    base = base_with_card(b"---\nlicense: mit\n---\n")

    assert write(base=base, license="apache-2.0").data.license == "apache-2.0"


def test_the_licence_is_inherited(write, base_with_card):
    """A tuned model is a derived work of its base model."""
    assert write(base=base_with_card(b"---\nlicense: mit\n---\n# A model\n")).data.license == "mit"


@pytest.mark.parametrize(
    "card",
    [
        b"# A model without metadata\n",
        b"",
        b"---\nlanguage: en\n---\n",
        b"---\n- a list\n---\n",
        b"---\nlicense: [mit\n---\n",
        b"---\nlicense: \xff\n---\n",
    ],
    ids=["no-metadata", "empty", "no-licence", "a-list", "broken-yaml", "no-utf-8"],
)
def test_without_a_readable_licence_there_is_none(write, base_with_card, card):
    """Somebody else's broken card does not end a run that has trained for hours."""
    assert write(base=base_with_card(card)).data.license is None


def test_a_model_without_a_card_has_no_licence(tiny_encoder):
    """Nothing is guessed."""
    assert base_license(tiny_encoder) is None


# What people read


def test_the_card_shows_base_and_tuned_scores(tuned):
    """The verdict and the whole table stand in the card, as in the report."""
    assert tuned.report["verdict"]["sentence"] in tuned.card.text
    assert score_table(tuned.report) in tuned.card.text
    assert precision_table(tuned.report) in tuned.card.text
    assert tuned.report["recommendation"]["sentence"] in tuned.card.text
    assert "fine-tuned with embedtune on 320 question-context pairs" in tuned.card.text
    assert "nDCG@10 on 40 test queries among 400 documents" in tuned.card.text


def test_the_snippets_run(tuned, monkeypatch):
    """Copied out as they stand, the code embeds and searches at the recommended dimension."""
    codes = re.findall(r"```python\n(.*?)```", tuned.card.text, re.DOTALL)
    assert codes == [
        code for code in map(tuned.report["usage"].get, ("python", "quantized")) if code
    ]
    dimension = tuned.report["recommendation"]["dimension"]
    monkeypatch.chdir(tuned.folder.parents[2])
    for code in codes:
        names = {}

        exec(code.replace(f"{tuned.folder.parents[1]}/", "runs/"), names)

        assert names["queries"].shape == (1, dimension)
        assert names["documents"].shape == (2, dimension)
        assert sorted(names["best"][0].tolist()) == [0, 1]


def test_the_card_shows_the_prompts_that_the_model_applies(tuned):
    """`encode_query` and `encode_document` put them in front, as the card says."""
    import torch
    from sentence_transformers import SentenceTransformer

    assert "(query: `ask1 `, document: `tell1 tell2 `)" in " ".join(tuned.card.text.split())
    model = SentenceTransformer(str(tuned.folder), device="cpu")
    for encode, prompt in (
        (model.encode_query, "ask1 "),
        (model.encode_document, "tell1 tell2 "),
    ):
        torch.testing.assert_close(
            encode("ask5 tell7", convert_to_tensor=True),
            model.encode(f"{prompt}ask5 tell7", prompt="", convert_to_tensor=True),
        )


def test_the_card_of_an_untouched_model_does_not_call_it_tuned(run_job):
    """Where validation kept the base model, its copy is not dressed up as a result."""
    untouched = run_job("untouched", training__epochs="0")

    assert untouched.report["verdict"]["sentence"] in untouched.card.text
    assert "fine-tuned" not in untouched.card.text.replace("not fine-tuned", "")


def test_the_card_claims_clean_splits_only_where_they_are(run_job, tmp_path, pairs_file):
    """The article's protocol splits rows at random: test contexts may have been trained on."""
    rows = [json.loads(line) for line in pairs_file.read_text("utf-8").splitlines()]
    rows += [{**row, "question": " ".join(reversed(row["question"].split()))} for row in rows]
    source = tmp_path / "twice.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    article = run_job(
        "article",
        training__epochs="0",
        evaluation__protocol="article",
        data__source=str(source),
    )

    assert article.report["data"]["leakage"]["test_contexts_in_train"] > 0.5
    assert "no test question or context was trained on" not in " ".join(article.card.text.split())
