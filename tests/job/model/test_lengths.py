"""`model.max_length: auto` takes what the data needs, and says what it cuts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_models import QWEN3, build_model, modules_of, save

from job.core.errors import SpecError
from job.data.dataset import load_dataset
from job.evaluation.truncation import fit_length
from job.model.device import Machine
from job.model.encoder import load_model, own_limit
from job.model.lengths import MAX_TEXTS, Length, choose_length, published_length, sample_rows
from job.model.parts import max_positions, max_tokens
from job.spec.parse import build_spec
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "")


def texts_of(*groups):
    """Return token counts from (number of texts, tokens of each)."""
    return np.concatenate([np.full(number, tokens) for number, tokens in groups])


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        # Short texts keep 512 tokens: padding follows the texts, so it costs nothing.
        (texts_of((1000, 60)), 8192, (512, 0)),
        (texts_of((995, 60), (5, 3000)), 8192, (512, 5)),
        # Five of 1,000 may be cut, six may not; the limit is a round number.
        (texts_of((995, 1000), (5, 3000)), 8192, (1024, 5)),
        (texts_of((994, 1000), (6, 3000)), 8192, (3008, 0)),
        (texts_of((990, 1000), (10, 9000)), 8192, (8192, 10)),
        # Without a limit of its own, only the data limits a model.
        (texts_of((990, 1000), (10, 9000)), None, (9024, 0)),
    ],
)
def test_the_length_covers_all_but_five_texts_in_a_thousand(counts, limit, expected):
    found = choose_length(counts, limit)

    assert (found.tokens, int((counts > found.tokens).sum())) == expected
    assert f"{expected[1]} of {len(counts)} are cut" in found.reason


def test_the_reason_names_what_the_model_cannot_read():
    """The longest text and the need of the data, also beyond the model's limit."""
    assert choose_length(texts_of((90, 100), (10, 3000)), 2048) == Length(
        2048,
        "99.5 % of the texts need 3000 tokens or less, more than the model has; 10 of 100 are cut, "
        "the longest has 3000",
    )


def test_many_texts_are_sampled_at_even_distances():
    rows = sample_rows(10 * MAX_TEXTS)
    assert (len(rows), rows[0], rows[-1]) == (MAX_TEXTS, 0, 10 * MAX_TEXTS - 1)
    assert list(sample_rows(3)) == [0, 1, 2]


@pytest.fixture(scope="module")
def decoder(made_once):
    """A model of many positions, whose tokenizer states no limit."""

    def make(folder):
        unlimited = replace(QWEN3, max_length=None)
        save(modules_of(unlimited, folder / "transformer"), folder / "qwen3")

    return made_once("long", make) / "qwen3"


def test_a_model_of_many_positions_reads_what_the_data_needs(decoder, pairs_file):
    """Prompts count too; the texts of the pairs are short, with one prompt they are not."""
    spec = build_spec({}, {"data.source": str(pairs_file)})
    dataset = load_dataset(spec.data, {}, "grouped")
    prompt = "the " * 700

    plain, prompted = (
        load_model(ModelSpec(base=str(decoder), query_prompt=text), CPU) for text in ("", prompt)
    )

    assert own_limit(plain.encoder) == 2**20
    assert fit_length(plain, dataset) == 512
    assert fit_length(prompted, dataset) == 768


def test_a_short_model_keeps_its_limit(tiny_encoder):
    """Nothing is counted: longer texts are cut as before, and the report counts them."""
    model = load_model(ModelSpec(base=str(tiny_encoder)), CPU)
    assert fit_length(model, dataset=None) == own_limit(model.encoder) == 64


def test_a_model_without_any_limit_is_bounded_by_the_data(decoder):
    """Its tokenizer states 10^30 tokens, and its configuration no positions."""
    encoder = load_model(ModelSpec(base=str(decoder)), CPU).encoder
    encoder.max_seq_length, encoder[0].model.config = 10**30, SimpleNamespace()
    assert own_limit(encoder) is None


FILES = {
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


def state_limits(folder, *limits):
    """Write the limits to the first of the files."""
    for (name, setting), limit in zip(FILES.items(), limits, strict=False):
        path = folder / name
        settings = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(json.dumps(settings | {setting: limit}), "utf-8")


@pytest.mark.parametrize(
    ("name", "own", "tokenizer", "positions", "expected"),
    [
        ("bert", 50, 32, 65, 50),
        ("bert", None, 10**30, 65, 65),
        ("bert", None, 32, 65, 32),
        ("t5", None, 40, -1, 40),
        # The last of RoBERTa's 65 positions is behind its padding token.
        ("roberta", 65, 65, 65, 64),
        ("roberta", None, 10**30, 65, 64),
        ("plain encoder", None, 32, 65, 32),
    ],
)
def test_check_counts_with_the_limit_that_the_job_will_use(
    tmp_path, name, own, tokenizer, positions, expected
):
    """It is the library's limit, unless the model has not learned that many positions."""
    folder = build_model(name, tmp_path / "model")
    state_limits(folder, own, tokenizer, positions)

    assert published_length(folder) == expected
    model = load_model(ModelSpec(base=str(folder)), CPU)
    assert model.encoder.max_seq_length == expected
    library = SentenceTransformer(str(folder), device="cpu").max_seq_length
    assert library == (65 if name == "roberta" else expected)


@pytest.mark.parametrize(("own", "positions"), [(None, -1), (-5, 128)])
def test_a_limit_that_is_no_number_of_tokens_counts_as_none(tmp_path, own, positions):
    """The job itself refuses it."""
    state_limits(tmp_path, own, None, positions)
    assert published_length(tmp_path) == 512


def test_the_limit_of_a_transformer_below_the_models_folder_is_found(tmp_path):
    """As version 2 of sentence-transformers saved it."""
    module = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "a.models.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([module]), "utf-8")
    (tmp_path / "0_Transformer").mkdir()
    state_limits(tmp_path / "0_Transformer", 48, None, 65)
    assert published_length(tmp_path) == 48


@pytest.mark.parametrize(
    ("name", "most"), [("roberta", 64), ("gpt2", 64), ("bart", 64), ("router", 63)]
)
def test_texts_are_cut_after_the_positions_that_a_model_has_learned(tmp_path, name, most):
    """Whatever its files state: the library fails on longer texts."""
    folder = build_model(name, tmp_path / "model")
    for path in folder.rglob("tokenizer_config.json"):
        state_limits(path.parent, 10**6, 10**30)

    model = load_model(ModelSpec(base=str(folder), max_length=None), CPU)

    assert max_positions(model.encoder) == most
    assert max_tokens(model.encoder, "document") == most
    assert model.encoder.encode_document(["ask1 the " * 90]).shape == (1, 64)
    with pytest.raises(SpecError, match=rf"`model.max_length` is 100; .* allows {most} at most"):
        load_model(ModelSpec(base=str(folder), max_length=100), CPU)
