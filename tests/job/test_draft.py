"""`init`: the job file that is drafted for given pairs; the test of layouts drafts one for each."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import distinct_rows, write_jsonl

from job.core.errors import DataError
from job.draft import draft_job_file
from job.spec.parse import build_spec, parse_document
from job.spec.schema import PRESETS


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"Die Frage": row["question"], "die: Antwort": row["context"], "label": 1 + n % 2}
        for n, row in enumerate(distinct_rows(400))
    ]
    return write_jsonl(tmp_path / "my pairs.jsonl", rows)


COLUMNS = {"data.columns.anchor": "Die Frage", "data.columns.positive": "die: Antwort"}


def draft(source, encoder, **settings):
    """Draft a job file; returns its text and its spec."""
    given = {"data.source": str(source), "model.base": str(encoder)}
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    text = draft_job_file(build_spec({}, given))
    return text, build_spec(parse_document(text, "job.yaml"))


def plain_pairs(path, count=400):
    return write_jsonl(path / "pairs.jsonl", distinct_rows(count))


def comment_on(text, field):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{field}: auto")]
    return line.partition("  # ")[2]


def test_what_was_recognized_is_written(tmp_path, tiny_encoder):
    """Format, columns, dimensions; what stays `auto` has its value and the reason beside it."""
    source = plain_pairs(tmp_path)
    text, spec = draft(source, tiny_encoder)
    facts = f"For {source}: 400 rows, 400 usable (train 320, validation 40, test 40)."
    assert facts in " ".join(text.replace("# ", "").split())
    assert (spec.data.source, spec.data.format) == (str(source), "rows")
    assert (spec.data.columns.anchor, spec.data.columns.positive) == ("question", "context")
    assert (spec.evaluation.dimensions, spec.evaluation.main_dimension) == ((64,), 64)
    assert comment_on(text, "batch_size") == "32: 320 pairs fill 10 batches per epoch."
    assert comment_on(text, "epochs") == "5: about 50 updates."
    assert comment_on(text, "learning_rate").startswith("0.0001: ")
    assert comment_on(text, "mini_batch_size") == "Depends on the free memory of the machine."
    assert max(map(len, text.splitlines())) <= max(100, len(f"  source: {source}"))


def test_the_number_of_parameters_is_that_of_the_model(tmp_path, tiny_encoder):
    """Read from the header of its weights, without torch."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    count = sum(parameter.numel() for parameter in model.parameters())
    text, _ = draft(plain_pairs(tmp_path), tiny_encoder)
    assert f"0.0001: {count:,} parameters." in text


def test_settings_are_kept(tmp_path, tiny_encoder, pairs):
    """Also names that YAML would read as something else."""
    given = COLUMNS | {
        "data.min_test_queries": "3",
        "training.batch_size": "16",
        "training.learning_rate": "2e-5",
        "evaluation.dimensions": "[32, 16]",
        "output.uri": "s3://box/runs",
    }
    text, spec = draft(pairs, tiny_encoder, **given)
    wanted = build_spec({}, {"data.source": str(pairs), "model.base": str(tiny_encoder)} | given)
    columns = wanted.data.columns.model_copy(update={"label": "label"})
    data = wanted.data.model_copy(update={"columns": columns, "format": "rows"})
    evaluation = wanted.evaluation.model_copy(update={"main_dimension": 32})
    assert spec == wanted.model_copy(update={"data": data, "evaluation": evaluation})
    assert comment_on(text, "epochs").endswith(" updates.")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_written_by_its_name(tmp_path, tiny_encoder, preset):
    text, spec = draft(plain_pairs(tmp_path), tiny_encoder, preset=preset)
    assert f"\npreset: {preset}\n" in text
    assert "validation_corpus_limit" not in text
    assert spec.training == build_spec({"preset": preset}).training


def test_columns_are_not_named_for_sets_that_may_have_others(tmp_path, tiny_encoder):
    """A test set without negatives would be refused."""
    rows = [row | {"negative": f"not {n}"} for n, row in enumerate(distinct_rows(400))]
    source = write_jsonl(tmp_path / "pairs.jsonl", rows[40:])
    test = [{"query": row["question"], "text": row["context"]} for row in rows[:40]]
    others = {"data.test": str(write_jsonl(tmp_path / "test.jsonl", test))}
    text, spec = draft(source, tiny_encoder, **others)
    assert (spec.data.format, spec.data.columns.anchor) == ("auto", None)
    assert "format rows, anchor question, positive context, negatives [negative]" in " ".join(
        text.replace("# ", "").split()
    )
    assert draft_job_file(spec)


@pytest.mark.parametrize("model", ["empty", "nobody/no-such-model"])
def test_a_model_that_is_elsewhere_leaves_its_values_to_the_job(tmp_path, model):
    (tmp_path / "empty").mkdir()
    base = tmp_path / "empty" if model == "empty" else model
    text, spec = draft(plain_pairs(tmp_path), base)
    assert (spec.evaluation.dimensions, spec.training.learning_rate) == (None, "auto")
    assert "not on this machine" in comment_on(text, "learning_rate")


def test_a_dense_layer_decides_the_width(tmp_path, tiny_encoder):
    """It projects the transformer's vectors to another size."""
    model = shutil.copytree(tiny_encoder, tmp_path / "model")
    (model / "2_Dense").mkdir()
    (model / "2_Dense" / "config.json").write_text(json.dumps({"out_features": 96}), "utf-8")
    assert draft(plain_pairs(tmp_path), model)[1].evaluation.dimensions == (96, 64)


def test_data_that_cannot_train_is_refused(tmp_path, tiny_encoder, pairs):
    """As by `check`."""
    with pytest.raises(DataError, match="Name both"):
        draft(pairs, tiny_encoder)
    with pytest.raises(DataError, match="test queries"):
        draft(plain_pairs(tmp_path, 20), tiny_encoder)


def test_drafting_needs_no_torch(tmp_path, tiny_encoder):
    """`embedtune[data]` is enough."""
    arguments = ["init", str(plain_pairs(tmp_path)), "--model", str(tiny_encoder)]
    code = (
        "import sys; from job.__main__ import main\n"
        f"try: main({arguments})\n"
        "finally: print('torch' in sys.modules, 'sentence_transformers' in sys.modules)"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False"
