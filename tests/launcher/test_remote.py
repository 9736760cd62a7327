"""Whole runs with S3 and the Hub from the shell: upload, fetch, and failures."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import build_encoder, make_pairs
from hub_server import Hub
from remote import files_of, forget_client, served_s3

from job.report import templating
from launcher.cli import main

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "PlantedSecretKey",
    "AWS_SESSION_TOKEN": "PlantedSessionToken",
    "HF_TOKEN": "hf_PlantedHubToken",
}
WRONG_TOKEN = "hf_PlantedWrongToken"
RUNS = "s3://box/runs"
AN_HOUR = timedelta(hours=1)
PAIRS = "s3://box/pairs.jsonl"
STAGES = [
    "fetch",
    "data",
    "model",
    "proof",
    "score base",
    "train",
    "score tuned",
    "compare",
    "store",
]
ARTICLE = ("philschmid/finanical-rag-embedding-dataset", "BAAI/bge-base-en-v1.5")


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command, and the folder that it ran in."""

    code: int
    out: str
    err: str
    folder: Path
    # The objects that it wrote, in order.
    written: tuple[str, ...] = ()

    @property
    def stages(self):
        """Return the names of the started stages, in order."""
        return re.findall(r"^\S+Z (.*): start$", self.err, re.MULTILINE)

    @property
    def last_line(self):
        return self.err.splitlines()[-1]


@pytest.fixture(scope="module")
def s3(pairs_file):
    """An endpoint for all runs of this file, with the pairs; the environment has secrets."""
    settings = SECRETS | {"AWS_MAX_ATTEMPTS": "1", "COLUMNS": "200"}
    with served_s3("box", **settings) as server:
        server.put("box", "pairs.jsonl", pairs_file.read_bytes())
        yield server


@pytest.fixture(scope="module")
def hub():
    with Hub(token=SECRETS["HF_TOKEN"]) as hub:
        yield hub


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The folder from which all runs are launched."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def options(tiny_encoder, tiny_settings):
    """Options of a job with the tiny encoder and the pairs in S3."""
    settings = [f"--set={name}={value}" for name, value in tiny_settings.items()]
    return ["--data", PAIRS, "--model", str(tiny_encoder), "--output", RUNS, *settings]


@pytest.fixture(scope="module")
def shell(s3, hub, machine, tmp_path_factory):
    """Run `embedtune` in a subprocess, in the machine's folder."""
    home = tmp_path_factory.mktemp("hub")

    def run(*arguments, **environment):
        before = len(s3.requests)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "launcher.cli", *arguments],
            cwd=machine,
            env=hub.environment(home, **({"HF_TOKEN": SECRETS["HF_TOKEN"]} | environment)),
            capture_output=True,
            text=True,
            check=False,
        )
        written = [r.path for r in s3.requests[before:] if r.method == "PUT"]
        return Done(done.returncode, done.stdout, done.stderr, machine, tuple(written))

    return run


@pytest.fixture(scope="module")
def first(s3, hub, shell, options):
    """Launch from S3 to S3 and the Hub, pushing each checkpoint; one push fails."""
    hub.fail_next(500, match="/commit/first-checkpoints")
    return shell(
        "launch",
        *("--name", "first", "--set=output.hub=me/tuned", "--set=output.hub_strategy=checkpoint"),
        *options,
    )


@pytest.fixture(scope="module")
def killed(s3, shell, options):
    """Launch, with a server that stops at the first file of the model; then restart the server."""
    s3.stop_after("PUT", "/box/runs/second/model/", 1)
    done = shell("launch", "--name", "second", "--set=training.seed=1", *options)
    s3.start()
    # The connections of this process are closed too.
    forget_client()
    return done


@pytest.fixture(scope="module")
def stored_by_killed(s3, killed):
    return s3.keys("box", "runs/second/")


@pytest.fixture(scope="module")
def second(stored_by_killed, shell):
    """Launch the failed run again, by its name and output only."""
    return shell("launch", "--name", "second", "--output", RUNS)


@pytest.fixture(scope="module")
def third(shell, options):
    """Launch with other splits of the pairs, without training."""
    return shell(
        "launch", "--name", "third", *options, "--set=data.seed=1", "--set=training.epochs=0"
    )


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, s3):
    """An empty folder of another machine; the server's log is cleared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    s3.requests.clear()
    return tmp_path


def embedtune(*arguments):
    """Run a command in this process; returns exit code, stdout and stderr."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


def written(s3):
    return [request.path for request in s3.requests if request.method in ("PUT", "POST", "DELETE")]


def read(s3):
    return {request.path for request in s3.requests if request.method == "GET" and request.sent}


def stored(s3, name):
    """Read all that a run has left in the bucket, by the files' names."""
    start = f"runs/{name}/"
    return {key.removeprefix(start): s3.get("box", key) for key in s3.keys("box", start)}


def copy_run(s3, name, prefix, replaced=None):
    """Copy a run to another prefix, with some of its files replaced or, where None, left out."""
    for path, data in (stored(s3, name) | (replaced or {})).items():
        if data is not None:
            s3.put("box", f"{prefix}/{path}", data)


def unpack(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# Upload and report.

REPORT = ("report.html", "report.json", "report.md")


def test_results_of_a_run_are_in_s3(s3, first):
    """The whole result folder is below the prefix; only the workspace and report are local."""
    assert first.code == 0, first.err
    assert first.stages == STAGES
    keys = {key.removeprefix("runs/first/") for key in s3.keys("box", "runs/first/")}
    manifest = json.loads(s3.get("box", "runs/first/manifest.json"))
    assert keys == set(manifest) | {"manifest.json", "receipt.json"}
    assert {"spec.json", "per_query.parquet", "report/report.md", "report/report.json"} <= keys
    assert {"model/model.safetensors", "model/README.md", "logs/job.log"} <= keys
    report = json.loads(s3.get("box", "runs/first/report/report.json"))
    assert report["inputs"]["data"]["uri"] == PAIRS
    assert report["verdict"]["improved"]
    local = [path.name for path in (first.folder / "runs" / "first").iterdir()]
    assert sorted(local) == [".work", "receipt.json", "report"]


def test_the_report_goes_up_first_and_the_manifest_last(first):
    """A reader of the bucket gets the verdict before the model is uploaded."""
    kinds = [path.removeprefix("/box/runs/first/").partition("/")[0] for path in first.written]
    # spec.json claims the name before any work.
    assert kinds[:4] == ["spec.json", *["report"] * len(REPORT)]
    model = kinds.count("model")
    assert kinds[-2 - model :] == ["model"] * model + ["manifest.json", "receipt.json"]


def time_of(s3, key):
    return s3._store.get_bucket("box").keys[key].last_modified


def test_another_machine_shows_the_same_report(s3, first, elsewhere):
    """The output is identical; only the report is transferred, not the model or the data."""
    assert embedtune("report", "first", "--output", RUNS) == (0, first.out, "")
    # `s3://…/NAME` needs no `--output`; a trailing slash is allowed.
    assert embedtune("report", f"{RUNS}/first/") == (0, first.out, "")
    start = "/box/runs/first/"
    assert {path for path in read(s3) if path.startswith(start)} == {
        f"{start}report/{name}" for name in REPORT
    }
    assert not [r for r in s3.requests if "/model/" in r.path or "/data/" in r.path]
    assert written(s3) == []
    assert files_of(elsewhere) == {
        f"runs/first/report/{name}": s3.get("box", f"runs/first/report/{name}") for name in REPORT
    }


def test_runs_are_listed_from_s3(s3, first, third, elsewhere):
    """With `--output` or the settings file; other folders are not runs."""
    for name in ("first", "third"):
        copy_run(s3, name, f"listed/{name}")
    s3._store.get_bucket("box").keys["listed/first/manifest.json"].last_modified -= AN_HOUR
    s3.put("box", "listed/begun/spec.json", s3.get("box", "runs/first/spec.json"))
    s3.put("box", "listed/notes/readme.txt", b"")
    code, out, err = embedtune("ls", "--output", "s3://box/listed")
    assert (code, err) == (0, "")
    when = f"{time_of(s3, 'listed/first/manifest.json'):%Y-%m-%d %H:%M}"
    lines = [re.split(" {2,}", line) for line in out.splitlines()[1:]]
    rows = {name: cells for name, *cells in lines}
    assert set(rows) == {"first", "third", "begun"}
    assert rows["first"][:2] == ["finished", when]
    assert re.fullmatch(r"0\.\d{3} → [01]\.\d{3} at (16|32|64)", rows["first"][2])
    assert rows["first"][3] == "yes"
    assert (rows["third"][0], rows["third"][3]) == ("finished", "no")
    assert (rows["begun"][0], rows["begun"][2:]) == ("unfinished", [])
    (elsewhere / ".config" / "embedtune").mkdir(parents=True)
    (elsewhere / ".config" / "embedtune" / "config.toml").write_text('output = "s3://box/listed"')
    assert embedtune("ls") == (0, out, "")
    assert not [path for path in read(s3) if "/model/" in path or "/data/" in path]
    # The default is the latest finished run.
    report = embedtune("report")[1]
    assert report.splitlines()[-1] == "Report: runs/third/report/report.html"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("output = ", "cannot be read"),
        ('outputs = "x"', "has `outputs`"),
        ("output = 7", "`output` is 7"),
    ],
)
def test_an_error_in_the_settings_file_is_reported(elsewhere, text, reason):
    """With the file's path, and the exit code of an invalid spec."""
    path = elsewhere / ".config" / "embedtune" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    code, out, err = embedtune("ls")
    assert (code, out) == (3, "")
    assert all(part in err for part in (f"`{path}`", reason))


# Fetching.


@pytest.mark.parametrize("with_model", [False, True], ids=["without model", "with model"])
def test_fetched_files_match_the_manifest(s3, first, elsewhere, with_model):
    """All files, the model only on request; a second fetch copies only files that differ."""
    manifest = json.loads(s3.get("box", "runs/first/manifest.json"))
    names = [name for name in manifest if with_model or not name.startswith("model/")]
    option = ["--model"] if with_model else []
    done = embedtune("fetch", "first", "--output", RUNS, *option)
    assert done == (0, f"{len(names)} files in runs/first, verified against the manifest\n", "")
    folder = elsewhere / "runs" / "first"
    assert files_of(folder) == {name: s3.get("box", f"runs/first/{name}") for name in names}
    if not with_model:
        assert not [request for request in s3.requests if "/model/" in request.path]
    s3.requests.clear()
    assert embedtune("fetch", f"{RUNS}/first", *option) == done
    assert {path.rpartition("/")[2] for path in read(s3)} == {"manifest.json"}
    # Changed and deleted local files are fetched again, others are not.
    (folder / "report" / "report.md").write_text("mine", "utf-8")
    (folder / "spec.json").unlink()
    assert embedtune("fetch", f"{RUNS}/first", *option) == done
    assert read(s3) >= {"/box/runs/first/report/report.md", "/box/runs/first/spec.json"}
    assert not [path for path in read(s3) if path.endswith((".parquet", "report.json"))]
    assert files_of(folder) == {name: s3.get("box", f"runs/first/{name}") for name in names}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        pytest.param("model/model.safetensors", flipped, "altered", id="a byte of the model"),
        pytest.param("logs/job.log", lambda data: data + b"x", "of another size", id="longer"),
        pytest.param("model/modules.json", lambda _: None, "missing", id="missing"),
    ],
)
def test_a_damaged_result_is_refused(s3, first, elsewhere, request, name, change, what):
    """No file is written, and the error names the damaged file."""
    prefix = f"damaged/{request.node.callspec.id.replace(' ', '-')}"
    copy_run(s3, "first", prefix, {name: change(s3.get("box", f"runs/first/{name}"))})
    code, out, err = embedtune("fetch", f"s3://box/{prefix}", "--model", "--to", "here")
    assert (code, out) == (7, "")
    assert all(part in err for part in (f"`s3://box/{prefix}` are {what}", f"`{name}`"))
    assert files_of(elsewhere) == {}


EVIL = json.dumps({"../evil": {"bytes": 4, "sha256": "3a9c0e1b1f3fbbc9d0c9f0c2f0d4b0d9"}}).encode()


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        # A manifest must not write outside the folder.
        (EVIL, "'../evil' would be written outside"),
        # Invalid manifests.
        (b"{", "manifest.json"),
        (b'{"report/report.md": {}}', "manifest.json"),
    ],
)
def test_an_invalid_or_malicious_manifest_is_refused(s3, first, elsewhere, manifest, part):
    prefix = f"broken/{manifest.hex()[:20]}/first"
    copy_run(s3, "first", prefix, {"manifest.json": manifest})
    code, out, err = embedtune("fetch", f"s3://box/{prefix}", "--to", "here/folder")
    assert (code, out, len(err.splitlines())) == (7, "", 1)
    assert part in err
    assert files_of(elsewhere) == {}


def test_an_unfinished_run_is_not_fetched(s3, first, elsewhere):
    """Without a manifest, files cannot be verified; the report can still be shown."""
    copy_run(s3, "first", "unproven/first", {"manifest.json": None})
    code, _, err = embedtune("fetch", "s3://box/unproven/first", "--to", "here")
    assert (code, "`first` is unfinished" in err) == (7, True)
    assert embedtune("report", "s3://box/unproven/first") == (0, first.out, "")


def test_fetching_a_local_run_verifies_it(s3, first, elsewhere):
    """Nothing is copied; a changed file is an error."""
    files = stored(s3, "first")
    folder = unpack(files, elsewhere / "results" / "mine")
    (folder / ".work").mkdir()
    fetch = ("fetch", "mine", "--output", "results", "--model")
    assert embedtune(*fetch)[0] == 0
    assert files_of(folder) == files
    (folder / "model" / "config.json").write_bytes(flipped(files["model/config.json"]))
    code, _, err = embedtune(*fetch)
    assert (code, "are altered" in err) == (7, True)


# Comparing.


def test_runs_with_the_same_test_set_are_compared(s3, first, second, elsewhere):
    """The runs are numbered by rank, and compared at each dimension; no model is read."""
    code, out, err = embedtune("compare", "first", "second", "--output", RUNS)
    assert (code, err) == (0, "")
    reports = {
        name: json.loads(s3.get("box", f"runs/{name}/report/report.json"))
        for name in ("first", "second")
    }
    best, other = sorted(reports, key=lambda name: -reports[name]["training"]["best_validation"])
    report = reports[best]
    queries, documents = report["data"]["queries"]["test"], report["data"]["corpus"]
    assert out.splitlines()[0].rstrip() == (
        f"nDCG@10 on test set {report['data']['fingerprint']['test']}: {queries} queries, "
        f"{documents} documents"
    )
    assert re.findall(r"(?m)^ (\d) (\w+) +0\.\d{3} +(\w+)", out) == [
        ("1", best, "yes"),
        ("2", other, "yes"),
    ]
    assert re.search(r"│ +2 │ +[-+]0\.\d{3} │ \[.+\] │", out)
    assert f"runs in `{RUNS}` were tested on this test set" in out
    rows = re.findall(r"│ +(\d+) │ +(\d) │ (.{5}) │ (.{5}) │ (.{6}) │ \[.+\] │", out)
    assert [row[:2] for row in rows] == [(d, n) for d in ("64", "32", "16") for n in "12"]
    base, tuned = (report["scores"][of]["64"]["float32"]["ndcg@10"] for of in ("base", "tuned"))
    lift = report["comparison"]["64"]["float32"]["lift"]
    assert rows[0] == ("64", "1", f"{base:.3f}", f"{tuned:.3f}", f"{lift:+.3f}")
    assert out.splitlines()[-1] == "Page: compare.html"
    assert f"{tuned:.3f}" in (elsewhere / "compare.html").read_text("utf-8")
    assert not [path for path in read(s3) if "/model/" in path or "/data/" in path]


def test_runs_on_different_test_sets_are_not_compared(first, third, elsewhere):
    """They are shown in separate tables, and the command exits with 4."""
    code, out, err = embedtune("compare", f"{RUNS}/first", f"{RUNS}/third")
    assert code == 4
    assert len(set(re.findall("nDCG@10 on test set ([0-9a-f]+)", out))) == 2
    assert "2 different test sets" in err


def test_runs_with_the_same_name_are_shown_by_their_uris(first, elsewhere):
    """One in S3 and one local; both are on the page."""
    shutil.copytree(first.folder / "runs" / "first" / "report", elsewhere / "own/first/report")
    (elsewhere / "own/first/.work").mkdir()
    code, _, _ = embedtune("compare", f"{RUNS}/first", "first", "--output", "own")
    assert code == 0
    page = (elsewhere / "compare.html").read_text("utf-8")
    assert all(uri in page for uri in (f"{RUNS}/first", "own/first"))


def test_without_jinja_the_table_is_printed_but_no_page(first, second, elsewhere, monkeypatch):
    """The message says which command installs the missing packages."""
    templating._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = embedtune("compare", "first", "second", "--output", RUNS)
    assert (code, "nDCG@10 on test set" in out) == (0, True)
    for part in ("`compare.html`", "`jinja2`", "`pip install 'embedtune[report]'`"):
        assert part in err
    assert not (elsewhere / "compare.html").exists()


# Launching again.


def test_a_finished_run_is_not_run_again(s3, first, elsewhere, options):
    """Nothing is written, and the report is printed again; another spec is refused."""
    hub = ["--set=output.hub=me/tuned", "--set=output.hub_strategy=checkpoint"]
    code, out, err = embedtune("launch", "--name", "first", *hub, *options)
    assert (code, out) == (0, first.out)
    assert err == "The run first has already finished; nothing was changed.\n"
    code, out, err = embedtune("launch", "--name", "first", "--set=training.seed=7", *hub, *options)
    assert (code, out, "`training.seed`" in err) == (3, "", True)
    assert written(s3) == []


def test_an_unreachable_endpoint_fails_before_the_job_starts(elsewhere, options, monkeypatch):
    """The launcher first checks whether the name is free; no files remain."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    forget_client()
    code, out, err = embedtune("launch", "--name", "away", *options)
    forget_client()
    assert (code, out) == (7, "")
    assert all(part in err for part in (f"`{RUNS}/away/", "http://127.0.0.1:1 does not answer"))
    assert files_of(elsewhere) == {}


def test_an_interrupted_upload_is_a_one_line_error(s3, killed, stored_by_killed):
    """Exit code 7; the report is uploaded, but no manifest."""
    assert killed.code == 7
    for part in (f"`{RUNS}/second` cannot be written", f"{s3.endpoint} does not answer"):
        assert part in killed.last_line
    assert "Traceback" not in killed.err
    assert killed.stages == STAGES
    assert "runs/second/report/report.md" in stored_by_killed
    assert "runs/second/manifest.json" not in stored_by_killed
    assert "runs/second/receipt.json" not in stored_by_killed


def test_launching_again_completes_the_upload_without_training(s3, second):
    """The results in the workspace are uploaded, and the manifest last."""
    assert second.code == 0, second.err
    assert second.stages == []
    manifest = json.loads(s3.get("box", "runs/second/manifest.json"))
    for name, entry in manifest.items():
        assert len(s3.get("box", f"runs/second/{name}")) == entry["bytes"]


# The Hub.


def loaded(files, folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(unpack(files, folder)), device="cpu")


def test_every_checkpoint_is_pushed_to_a_branch(hub, first, tmp_path):
    """Training continues after a failed push; `main` changes only at the end."""
    commits = [path for method, path in hub.requests if method == "POST" and "/commit/" in path]
    prefix = "/api/models/me/tuned/commit"
    mine = [path for path in commits if path.startswith(prefix)]
    assert mine == [f"{prefix}/first-checkpoints"] * 3 + [f"{prefix}/main"]
    assert first.err.count("was not pushed: The Hub model `me/tuned`: the Hub failed") == 1
    assert first.err.count("is in `me/tuned`, branch `first-checkpoints`") == 2
    files = hub.files("me/tuned", "first-checkpoints")
    trainers = re.compile(r"optimizer|scheduler|scaler|rng_state|trainer_state|training_args")
    assert [name for name in files if trainers.match(name)] == []
    assert loaded(files, tmp_path).encode(["ask1"]).shape == (1, 64)


def test_the_tuned_model_is_on_the_hub(s3, hub, first, tmp_path):
    """In a private repository, tagged with the run's name; the files equal those in S3."""
    repo = hub.repos["model", "me/tuned"]
    assert repo.private
    assert repo.tags == {"first": repo.branches["main"]}
    expected = {
        name.removeprefix("model/"): data
        for name, data in stored(s3, "first").items()
        if name.startswith(("model/", "report/", "logs/"))
    }
    files = hub.files("me/tuned", "first")
    assert {name: files[name] for name in files if name != ".gitattributes"} == expected
    assert loaded(files, tmp_path).encode(["ask1"]).shape == (1, 64)


@pytest.fixture(scope="module")
def article(hub, shell, tmp_path_factory):
    """Launch the job file of `init` and push the model; the Hub has data and base model."""
    rows = "".join(json.dumps(row) + "\n" for row in make_pairs(310))
    hub.add("dataset", ARTICLE[0], {"train.jsonl": rows.encode()})
    folder = build_encoder(tmp_path_factory.mktemp("bge") / "base", width=768)
    card = {"README.md": b"---\nlicense: mit\n---\n# BGE\n"}
    hub.add("model", ARTICLE[1], files_of(folder) | card | {"pytorch_model.bin": b"pickle"})
    assert shell("init").code == 0
    push = ["--set=output.hub=me/financial", "--set=output.hub_always=true"]
    return shell("launch", "job.yaml", "--name", "article", *push, EMBEDTUNE_OUTPUT="articles")


def test_the_articles_job_logs_the_articles_keys(article):
    """`job.yaml` unchanged, with data and model under the article's Hub ids."""
    assert article.code == 0, article.err
    keys = [f"dim_{dimension}_cosine_ndcg@10" for dimension in (768, 512, 256, 128, 64)]
    for model in ("base", "tuned"):
        found = re.findall(rf"{model} (dim_\d+_cosine_ndcg@10): 0\.\d{{4}}$", article.err, re.M)
        assert found == keys
    log = article.folder / "articles" / "article" / "logs" / "job.log"
    assert all(key in log.read_text("utf-8") for key in keys)


def test_the_articles_card_is_on_the_hub(hub, article, tmp_path):
    """With license, base model, and scores of base and tuned model."""
    files = hub.files("me/financial", "article")
    front, _, body = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    data = yaml.safe_load(front)
    assert (data["license"], data["base_model"]) == ("apache-2.0", ARTICLE[1])
    scores = json.loads(files["report/report.json"])["scores"]
    base, tuned = (scores[model]["128"]["float32"]["ndcg@10"] for model in ("base", "tuned"))
    assert f"| 128 | {base:.3f} | {tuned:.3f} |" in body
    assert loaded(files, tmp_path).encode(["ask1"]).shape == (1, 768)


def test_the_report_names_the_commits_of_its_inputs(hub, article):
    """Also if the spec has no revision."""
    report = json.loads(hub.files("me/financial")["report/report.json"])
    commits = {
        "data": hub.repos["dataset", ARTICLE[0]].branches["main"],
        "model": hub.repos["model", ARTICLE[1]].branches["main"],
    }
    assert {role: found["commit"] for role, found in report["inputs"].items()} == commits
    markdown = hub.files("me/financial")["report/report.md"].decode()
    assert all(commit in markdown for commit in commits.values())
    assert not [path for _, path in hub.requests if path.endswith("pytorch_model.bin")]


# Early refusals, and secrets.


@pytest.fixture(scope="module")
def wrong_token(hub, shell, options):
    """Launch with a token that the Hub rejects."""
    push = "--set=output.hub=me/never"
    return shell("launch", "--name", "wrong", push, *options, HF_TOKEN=WRONG_TOKEN)


@pytest.fixture(scope="module")
def denied(s3, shell, options):
    """Launch without write permission."""
    s3.fail("AccessDenied", 403, method="PUT", match="/box/runs/denied/", times=1000)
    return shell("launch", "--name", "denied", *options)


def test_an_unwritable_output_fails_before_training(s3, denied):
    """And not after hours of training."""
    assert (denied.code, denied.stages) == (7, [])
    for part in (f"`{RUNS}/denied/spec.json` cannot be written", "s3:PutObject", "HTTP 403"):
        assert part in denied.last_line
    assert s3.keys("box", "runs/denied/") == []


def test_a_rejected_hub_token_fails_before_training(s3, hub, wrong_token):
    """No file remains that looks like a finished run."""
    assert wrong_token.code == 7
    for part in ("`me/never`", "HTTP 401", "`HF_TOKEN`"):
        assert part in wrong_token.last_line
    assert wrong_token.stages == []
    assert ("model", "me/never") not in hub.repos
    assert s3.keys("box", "runs/wrong/") == ["runs/wrong/spec.json"]


def test_no_secret_is_ever_written(
    s3, hub, machine, first, killed, second, third, article, denied, wrong_token
):
    """No secret is in any file, log, object or commit, whether runs succeed or fail."""
    outputs = {}
    for done in (first, killed, second, third, article, denied, wrong_token):
        outputs[f"output {len(outputs)}"] = (done.out + done.err).encode()
    outputs |= {f"disk {name}": data for name, data in files_of(machine).items()}
    outputs |= {f"bucket {key}": s3.get("box", key) for key in s3.keys("box")}
    for repo in hub.repos.values():
        for commit in repo.commits.values():
            outputs |= {f"hub {commit.id} {name}": data for name, data in commit.files.items()}
            outputs[f"hub {commit.id}"] = commit.title.encode()
    assert len(outputs) > 100
    secrets = [*SECRETS.values(), WRONG_TOKEN]
    assert [
        (name, secret) for name, data in outputs.items() for secret in secrets
        if secret.encode() in data
    ] == []  # fmt: skip
    assert os.environ["AWS_SECRET_ACCESS_KEY"] in secrets
