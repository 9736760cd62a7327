"""The whole job on the tiny encoder: its report, its files, and how it resumes."""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import reports
from conftest import read_jsonl, write_jsonl
from situations import ROTATION
from tiny_training import tiny_training

from job.core.errors import Interrupted, MachineError, SpecError, StorageError, TrainingError
from job.evaluation.cache import load_seconds
from job.evaluation.metrics import METRICS
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.storage.workspace import Workspace

DIMENSIONS = ("64", "32", "16")
PROMPTS = {"query": "ask1 ask2 ", "document": "tell3 tell4 "}
NO_PROMPTS = {"query": "", "document": ""}
# Sections of a report that contain the run's name or times.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


@dataclass(frozen=True, eq=False)
class Job:
    """A finished job: its result folder, report, workspace and spec."""

    folder: Path
    report: dict
    workspace: Workspace
    spec: object

    @property
    def model(self):
        return self.folder / "model"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, pairs_file):
    """Write pairs: some questions have two answers, some contexts two questions, some are bad."""
    rows = [json.loads(line) for line in pairs_file.read_text("utf-8").splitlines()]

    def backwards(text):
        return " ".join(reversed(text.split()))

    rows += [{**row, "context": backwards(row["context"])} for row in rows[:40]]
    rows += [{**row, "question": backwards(row["question"])} for row in rows[40:80]]
    rows += [rows[100], {"question": "", "context": "tell1"}]
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def jobs_folder(tmp_path_factory):
    """Return the folder of this module's runs, with progress lines enabled as in a job."""
    log = logging.getLogger("embedtune")
    level = log.level
    log.setLevel(logging.INFO)
    yield tmp_path_factory.mktemp("jobs")
    log.setLevel(level)


@pytest.fixture(scope="module")
def run_job(jobs_folder, tiny_encoder, tiny_settings, pairs):
    """Run a job in this process; keywords set fields of the spec."""

    def work(name, *, stop=None, price=None, **fields):
        given = {
            "data.source": str(pairs),
            "model.base": str(tiny_encoder),
            "output.uri": str(jobs_folder / "runs"),
        }
        fields = {key.replace("__", "."): value for key, value in fields.items()}
        spec = build_spec({}, given | tiny_settings | fields)
        workspace = Workspace(jobs_folder / "work" / name)
        run(spec, workspace, RunContext(name, "cpu", price), stop or StopSignal())
        folder = jobs_folder / "runs" / name
        text = (folder / "report" / "report.json").read_text("utf-8")
        # NaN and Infinity are not standard JSON.
        report = json.loads(text, parse_constant=pytest.fail)
        return Job(folder, report, workspace, spec)

    return work


@pytest.fixture(scope="module")
def reference(run_job):
    """Run the job with default settings."""
    return run_job("reference", price=3.6)


@pytest.fixture(scope="module")
def half_trained(run_job):
    """Train for one epoch: a model that has learned something and can still improve."""
    return run_job("half-trained", training__epochs="1")


@pytest.fixture(scope="module")
def prompted(run_job, half_trained):
    """Continue with prompts from a model that was trained without prompts."""
    return run_job(
        "prompted",
        training__epochs="1",
        evaluation__keep_index="true",
        model__base=str(half_trained.model),
        model__query_prompt=json.dumps(PROMPTS["query"]),
        model__document_prompt=json.dumps(PROMPTS["document"]),
    )


def test_the_kept_index_is_measured_with_the_base_models_documents(prompted, half_trained):
    """The stored adapter and the stored model give the row's numbers again."""
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    from job.evaluation.evaluate import Vectors, score_vectors
    from job.evaluation.metrics import METRIC
    from job.serving.test_set import read_test_set

    queries, corpus = read_test_set(prompted.folder / "data")
    base = SentenceTransformer(str(half_trained.model), device="cpu")
    used = prompted.report["prompts"]["base"]
    documents = base.encode(corpus.texts.to_pylist(), prompt=used["document"])
    asked = base.encode(queries.texts.to_pylist(), prompt=used["query"], normalize_embeddings=True)
    tuned = SentenceTransformer(str(prompted.model), device="cpu")
    kinds = {
        "adapter": asked @ np.load(prompted.folder / "query_adapter.npy"),
        "tuned_queries": tuned.encode_query(queries.texts.to_pylist()),
    }
    found = prompted.report["keep_index"]
    for name, vectors in kinds.items():
        both = Vectors(torch.from_numpy(vectors), torch.from_numpy(documents))
        scores = score_vectors(both, queries, [64])[64]["float32"]
        assert found["rows"][name]["ndcg"] == pytest.approx(scores.mean(METRIC), abs=2e-3)
    assert "Keep the index?" in (prompted.folder / "report" / "report.md").read_text("utf-8")
    assert "Keep the index?" in (prompted.folder / "report" / "report.html").read_text("utf-8")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The results of a job


def test_a_job_reports_an_improvement(reference):
    """The lift's interval excludes zero at every dimension, and for the recommended vectors."""
    report = reference.report
    verdict, recommended = report["verdict"], report["recommendation"]
    assert verdict["improved"]
    assert verdict["deploy"]
    assert verdict["main_dimension"] == 32
    assert [verdict[name] for name in ("dimension", "precision")] == [
        recommended[name] for name in ("dimension", "precision")
    ]
    assert verdict["sentence"].startswith(
        "Improved. nDCG@10 from the base model (64 float32 dimensions) to the recommended vectors ("
    )
    assert all(d["float32"]["ci"][0] > 0 for d in report["comparison"].values())
    assert report["cost"]["usd"] == pytest.approx(sum(report["seconds"].values()) / 1000, abs=1e-4)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("scores", ["tuned", "base"])
def test_the_scores_can_be_reproduced_from_the_published_files(
    reference, prompted, tiny_encoder, half_trained, scores, dimension
):
    """sentence-transformers' evaluator computes the report's scores from model/ and data/."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    bases = {reference: tiny_encoder, prompted: half_trained.model}
    for finished, base in bases.items():
        data = finished.folder / "data"
        relevant = {}
        for line in (data / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
            query, document, _ = line.split("\t")
            relevant.setdefault(query, set()).add(document)
        questions = {row["id"]: row["anchor"] for row in read_jsonl(data / "test.jsonl")}
        questions = {key: text for key, text in questions.items() if key in relevant}
        evaluator = InformationRetrievalEvaluator(
            queries=questions,
            corpus={row["id"]: row["text"] for row in read_jsonl(data / "corpus.jsonl")},
            relevant_docs={query: relevant[query] for query in questions},
            precision_recall_at_k=[1, 5, 10, 100],
            truncate_dim=int(dimension),
            write_csv=False,
        )
        folder = finished.model if scores == "tuned" else base
        found = evaluator(SentenceTransformer(str(folder), device="cpu"))

        assert len(questions) == finished.report["data"]["queries"]["test"]
        assert max(map(len, evaluator.relevant_docs.values())) == 2
        assert finished.report["scores"][scores][dimension]["float32"] == pytest.approx(
            {metric: found[f"cosine_{metric}"] for metric in METRICS}, abs=1e-9
        )


def test_the_same_seed_gives_the_same_result_to_the_last_digit(run_job, reference):
    """Splits, fingerprints, weights, scores and statistics equal those of the first run."""
    again = run_job("again", price=3.6)

    assert again.report.keys() > VOLATILE
    kept = reference.report.keys() - VOLATILE
    assert {key: again.report[key] for key in kept} == {key: reference.report[key] for key in kept}
    for key in again.report["training"].keys() - {"seconds", "pairs_per_second", "peak_memory"}:
        assert again.report["training"][key] == reference.report["training"][key]
    # The card contains the name of the run's folder.
    unlike = ("logs", "report", "model/README.md")
    same = {name for name in files_of(again.folder) if not name.startswith(unlike)}
    differing = {
        name for name in same if sha256(again.folder / name) != sha256(reference.folder / name)
    }
    assert differing == {"manifest.json"}


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("no-epochs", {"training__epochs": "0"}, "nothing was trained"),
        (
            "no-rate",
            {"training__epochs": "1", "training__learning_rate": "1e-9"},
            "no checkpoint beat the base model on validation, so `model/` holds the base model. ",
        ),
    ],
)
def test_without_improvement_the_result_is_the_base_model(run_job, tiny_encoder, name, fields, why):
    """The lift is 0 with p = 1, and model/ gives the embeddings of the base model."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    finished = run_job(name, **fields)

    report = finished.report
    assert not report["verdict"]["improved"]
    assert report["verdict"]["sentence"].startswith(f"Not improved: {why}")
    assert not report["verdict"]["deploy"]
    full_width = report["verdict"]["full_width"]
    assert (full_width["lift"], full_width["p_value"], full_width["wins"]) == (0.0, 1.0, 0)
    base, tuned = (report["scores"][model] for model in ("base", "tuned"))
    assert {d: by["float32"] for d, by in tuned.items()} == {
        d: by["float32"] for d, by in base.items()
    }
    # The base model is what users deploy, so all its precisions are reported.
    assert all(set(by) == PRECISIONS for by in tuned.values())
    assert report["training"]["best_step"] == 0
    texts = [row["text"] for row in read_jsonl(finished.folder / "data" / "corpus.jsonl")][:50]
    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode(texts)
        for folder in (tiny_encoder, finished.model)
    )
    np.testing.assert_array_equal(before, after)


# The files of a job


def test_a_job_writes_all_promised_files(reference):
    """The result folder has exactly these files; the checkpoints are deleted."""
    names = {re.sub(r"events\.out.*", "events", name) for name in files_of(reference.folder)}

    assert {name for name in names if not name.startswith("model/")} == {
        "spec.json",
        "report/report.html",
        "report/report.json",
        "report/report.md",
        "per_query.parquet",
        "data/train.jsonl",
        "data/validation.jsonl",
        "data/test.jsonl",
        "data/corpus.jsonl",
        "data/qrels.tsv",
        "data/rejected.jsonl",
        "logs/job.log",
        "logs/metrics.jsonl",
        "logs/tensorboard/events",
        "manifest.json",
    }
    assert {"model/README.md", "model/model.safetensors", "model/modules.json"} <= names
    assert not reference.workspace.checkpoints.exists()


def test_the_stored_model_states_the_dimensions_of_the_report(reference):
    config = json.loads((reference.model / "config.json").read_text("utf-8"))
    assert config["matryoshka_dimensions"] == sorted(map(int, reference.report["scores"]["tuned"]))


@pytest.mark.exhaustive
def test_the_stored_model_truncates_by_default_if_asked(run_job, half_trained):
    """To the recommended dimension; a job that starts from it trains and scores at full width."""
    from sentence_transformers import SentenceTransformer

    base = str(half_trained.model)
    first = run_job("truncating", training__epochs="0", model__base=base, output__truncate="true")
    recommended = first.report["recommendation"]["dimension"]
    assert SentenceTransformer(str(first.model)).encode(["ask1"]).shape == (1, recommended)
    second = run_job("from-truncating", training__epochs="0", model__base=str(first.model))
    assert second.report["scores"] == first.report["scores"]


PRECISIONS = {"float32", "int8", "int8_rescored", "binary", "binary_rescored"}
# Keys whose content depends on data and settings.
VARIED = ("columns", "dropped", "dropped_documents", "out_of_domain", "article", "hyperparameters")


def keys_of(value):
    """Return the nested keys of a document, except those that vary."""
    if not isinstance(value, dict):
        return None
    return {key: keys_of(inner) for key, inner in value.items() if key not in VARIED}


def test_the_report_has_exactly_the_promised_keys(reference):
    """Other programs read version 1 of report.json, so keys may be added but never renamed.

    The golden report was written by hand, before the typed report existed.
    """
    report, promised = reference.report, reports.improved()
    # Rounding decides whether vectors of random weights are rotated.
    promised["training"]["rotation"] = report["training"]["rotation"] and ROTATION

    assert keys_of(report) == keys_of(promised)
    assert report.keys() == reports.improved().keys()
    assert report["data"].keys() == reports.improved()["data"].keys()
    assert (report["version"], report["job_name"]) == (1, "reference")
    # A local model has no version.
    assert report["inputs"]["model"] == {"uri": reference.spec.model.base}
    assert report["spec"] == reference.spec.model_dump(mode="json")


def test_a_missing_gpu_is_an_error_before_anything_is_fetched(tiny_spec, tmp_path, monkeypatch):
    """Otherwise an error of the data, or its download, would come first."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = tiny_spec(data__source=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(MachineError, match=r"^The device `cuda` is not usable"):
        run(spec, Workspace(tmp_path / "work"), RunContext("name", "cuda"), StopSignal())


def test_the_log_has_each_stage_and_score(reference):
    """Each stage has a start and an end line, in order; the last line is the verdict.

    Scores have the article's keys, which SageMaker's metric definitions match.
    """
    lines = (reference.folder / "logs/job.log").read_text("utf-8").splitlines()
    logged = [m[1] for line in lines if (m := re.search(r"Z ([a-z ]+): (start|done)", line))]

    # "start" is the time before the first log line.
    stages = [stage for stage in reference.report["seconds"] if stage != "start"]
    assert logged == [stage for stage in stages for _ in ("start", "done")]
    assert any("data: done " in line and "format=rows" in line for line in lines)
    # SageMaker's automatic tuning reads this score.
    tuned_by = [m[1] for line in lines if (m := re.search(r"best_validation=(\S+)", line))]
    assert tuned_by == [str(round(reference.report["training"]["best_validation"], 4))]
    assert lines[-1].endswith(f"verdict: {reference.report['verdict']['sentence']}")
    scores, events = reference.report["scores"], {line.partition(" ")[2] for line in lines}
    assert f"bm25 ndcg@10: {scores['bm25']['ndcg@10']:.4f}" in events
    for model in ("base", "tuned"):
        for d in DIMENSIONS:
            score = scores[model][d]["float32"]["ndcg@10"]
            assert f"{model} dim_{d}_cosine_ndcg@10: {score:.4f}" in events
    steps = reference.report["training"]["steps"]
    assert any(f"validate: step={steps}/{steps} dim_32_cosine_ndcg@10: " in line for line in lines)


def test_resolved_auto_values_are_in_the_log_and_in_the_report(reference):
    """Each field with `auto` has the same value and reason in both."""
    resolved = reference.report["training"]["hyperparameters"]
    log = (reference.folder / "logs/job.log").read_text("utf-8")

    assert resolved.keys() == {"lora", "gradient_checkpointing", "mini_batch_size"}
    assert resolved["mini_batch_size"] == {
        "value": None,
        "reason": "a batch needs about 0.0 GiB, which fits in memory",
    }
    for field, found in resolved.items():
        value = "null" if found["value"] is None else found["value"]
        assert f'Z hyperparameters: {field}={value} reason="{found["reason"]}"\n' in log


# Prompts


SENTENCE = re.compile(
    r"The base model is scored (with|without) its prompts, because that scores higher on "
    r"validation \(ndcg@10 (\d\.\d{3}) with, (\d\.\d{3}) without\)\."
)


def test_explicit_prompts_are_used_even_if_the_base_model_is_better_without(prompted):
    """The base model is scored at its best; the tuned model uses the prompts of the spec."""
    from sentence_transformers import SentenceTransformer

    prompts = prompted.report["prompts"]
    choice, with_prompts, without = SENTENCE.fullmatch(prompts["sentence"]).groups()
    assert choice == "without"
    assert float(with_prompts) < float(without)
    assert prompted.report["training"]["base_validation"] == pytest.approx(float(without), abs=5e-4)
    assert (prompts["base"], prompts["tuned"]) == (NO_PROMPTS, PROMPTS)
    assert prompted.report["training"]["best_step"] > 0
    assert SentenceTransformer(str(prompted.model), device="cpu").prompts == PROMPTS


@pytest.mark.parametrize(
    ("base", "brought", "named", "used", "tuned"),
    [
        # Many families have a prompt for queries only; a prompt in the spec is always used.
        ("half_trained", {}, {"query": PROMPTS["query"]}, NO_PROMPTS, {"query": PROMPTS["query"]}),
        # Prompts saved with the model are used for neither model if they lower its score.
        ("half_trained", PROMPTS, {}, NO_PROMPTS, {}),
        # A model that was trained with prompts is better with them.
        ("prompted", PROMPTS, {}, PROMPTS, PROMPTS),
    ],
)
def test_a_base_model_is_scored_at_its_best_and_the_tuned_model_as_specified(
    request, pairs, tiny_settings, tmp_path, base, brought, named, used, tuned
):
    """The score on validation decides whether the base model uses its prompts."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(request.getfixturevalue(base).model), device="cpu")
    encoder.prompts = brought
    encoder.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    given = {"data.source": str(pairs), "model.base": str(tmp_path / "base")}
    given |= {f"model.{kind}_prompt": json.dumps(text) for kind, text in named.items()}
    spec = build_spec({}, given | {"output.uri": str(tmp_path)} | tiny_settings)

    found = tiny_training(spec, tmp_path / "work").base

    assert asdict(found.prompts.used) == used
    assert asdict(found.tuned_prompts) == NO_PROMPTS | tuned


def test_the_articles_protocol_runs_without_prompts(run_job, prompted):
    """Every row is a separate query and document, and no prompts are used."""
    finished = run_job(
        "article",
        training__epochs="1",
        evaluation__protocol="article",
        model__base=str(prompted.model),
    )

    report = finished.report
    assert report["prompts"]["base"] == report["prompts"]["tuned"] == NO_PROMPTS
    assert report["prompts"]["sentence"].startswith("No prompts are used")
    assert report["data"]["corpus"] == report["data"]["used"] == 480


# Hard negatives


def with_negatives(rows, lacking):
    """Add a negative to two of three rows: half of its own context, half of the previous one."""
    for number, row in enumerate(rows):
        if number % 3 != lacking:
            words = [*rows[number - 1]["context"].split()[:4], *row["context"].split()[4:], "is"]
            row["negative"] = " ".join(words)
    return rows


def test_hard_negatives_are_used_for_training_and_in_the_corpus(run_job, pairs, tmp_path):
    """Rows may have no negative."""
    rows = with_negatives(read_jsonl(pairs)[:400], lacking=1)

    report = run_job("negatives", data__source=str(write_jsonl(tmp_path / "n.jsonl", rows))).report

    assert report["data"]["columns"]["negatives"] == ["negative"]
    texts = {row[key] for row in rows for key in ("context", "negative") if key in row}
    assert report["data"]["corpus"] == len(texts) > 600
    assert report["verdict"]["improved"]


# Launching again, and resuming


def test_a_finished_job_does_not_run_again(run_job, reference):
    """The second launch changes nothing, so the manifest is still correct."""
    before = {name: sha256(reference.folder / name) for name in files_of(reference.folder)}

    again = run_job("reference", price=3.6)

    assert again.report == reference.report
    assert {name: sha256(reference.folder / name) for name in files_of(reference.folder)} == before
    manifest = json.loads((reference.folder / "manifest.json").read_text("utf-8"))
    assert {name: entry["sha256"] for name, entry in manifest.items()} == {
        name: digest for name, digest in before.items() if name != "manifest.json"
    }


def test_another_job_under_the_same_name_is_refused(run_job, reference):
    """The folder belongs to one run; the error names the fields that differ."""
    with pytest.raises(SpecError, match=r"these differ: `training.scale`\. Use another `--name`"):
        run_job("reference", training__scale="30")


def test_after_a_failed_publish_the_next_launch_only_publishes(run_job, jobs_folder, half_trained):
    """A run without a manifest is unfinished; its results are not computed again."""
    obstacle = jobs_folder / "runs" / "obstructed" / "per_query.parquet"
    obstacle.mkdir(parents=True)

    with pytest.raises(StorageError, match="obstructed"):
        run_job("obstructed", training__epochs="1")
    assert not (obstacle.parent / "manifest.json").exists()
    made = Workspace(jobs_folder / "work" / "obstructed")
    before = {path: path.stat().st_mtime_ns for path in made.model.rglob("*")}
    report = json.loads((made.report / "report.json").read_text("utf-8"))
    log = (made.logs / "job.log").read_bytes()
    obstacle.rmdir()
    finished = run_job("obstructed", training__epochs="1")

    # The seconds, too, are those of the first launch.
    assert finished.report == report
    assert (finished.folder / "logs" / "job.log").read_bytes() == log
    assert {path: path.stat().st_mtime_ns for path in made.model.rglob("*")} == before
    assert finished.report["scores"] == half_trained.report["scores"]
    manifest = json.loads((finished.folder / "manifest.json").read_text("utf-8"))
    assert {name: entry["sha256"] for name, entry in manifest.items()} == {
        name: sha256(finished.folder / name)
        for name in files_of(finished.folder) - {"manifest.json"}
    }


def test_a_job_that_failed_after_training_does_not_train_again(
    run_job, jobs_folder, half_trained, tmp_path
):
    """The result of training is in its checkpoints; files that are missing are written."""
    in_the_way = jobs_folder / "work" / "lost" / "output" / "data" / "per_query.parquet"
    in_the_way.mkdir(parents=True)

    with pytest.raises(OSError, match="per_query"):
        run_job("lost", training__epochs="1")
    in_the_way.rmdir()
    finished = run_job("lost", training__epochs="1")

    training = finished.report["training"]
    assert training["resumed_from_step"] == training["steps"] == 12
    assert finished.report["scores"] == half_trained.report["scores"]


def test_a_resumed_job_does_not_score_the_base_model_again(run_job, jobs_folder, monkeypatch):
    """Its report equals that of an uninterrupted job; its seconds are the sum of both starts.

    In this run no checkpoint is better than the base model, so its vectors are encoded again.
    """
    fields = {
        "training__epochs": "1",
        "training__learning_rate": "1e-9",
        "evaluation__protocol": "both",
    }
    whole = run_job("whole", **fields)
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted):
        run_job("cut", stop=stop, **fields)
    # The published spec reserves the name for this job.
    assert files_of(jobs_folder / "runs" / "cut") == {"spec.json"}
    saved = load_seconds(Workspace(jobs_folder / "work" / "cut").seconds)

    def scored_again(*_):
        pytest.fail("the base model was scored a second time")

    monkeypatch.setattr("job.scoring.score_base", scored_again)
    finished = run_job("cut", **fields)

    assert finished.report["training"]["resumed_from_step"] == 1
    for key in whole.report.keys() - VOLATILE:
        assert finished.report[key] == whole.report[key], key
    assert saved.keys() >= {"start", "fetch", "data", "model", "proof", "score base", "train"}
    assert all(finished.report["seconds"][stage] >= seconds for stage, seconds in saved.items())
    log = (finished.folder / "logs" / "job.log").read_text("utf-8")
    assert "score base: reusing the scores from an earlier start of this run" in log
    assert re.search(
        r"train: done seconds=\S+ steps=12 resumed_from_step=1 best_validation=\S+\n", log
    )


@pytest.mark.exhaustive
def test_a_job_whose_data_has_changed_is_not_resumed(run_job, jobs_folder, pairs):
    """The error names the input that differs; with the old data, the job can be resumed."""
    stop = StopSignal()
    stop.request()
    own = jobs_folder / "own.jsonl"
    own.write_bytes(pairs.read_bytes())
    with pytest.raises(Interrupted):
        run_job("changed", data__source=str(own), stop=stop)
    own.write_bytes(b"".join(pairs.read_bytes().splitlines(keepends=True)[5:]))

    with pytest.raises(TrainingError, match="were trained from other inputs: the data was"):
        run_job("changed", data__source=str(own))
    own.write_bytes(pairs.read_bytes())
    assert run_job("changed", data__source=str(own)).report["training"]["resumed_from_step"] == 1


def test_the_log_warns_of_data_that_looks_wrong(run_job, jobs_folder):
    """As `check` does: such a run may cost a GPU."""
    rows = [{"question": f"what is word{n} now?", "context": f"word{n}.pdf"} for n in range(80)]
    source = jobs_folder / "names.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {"data__min_test_queries": "1", "training__epochs": "0"}
    run_job("names", data__source=str(source), **settings)
    [log] = (jobs_folder / "work" / "names").rglob("job.log")
    assert "look like file names" in log.read_text("utf-8")
