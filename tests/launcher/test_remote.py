"""Whole runs with S3 and the Hub, as a shell sees them: there, back again, and when it breaks."""

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
STAGES = ["fetch", "data", "model", "score base", "train", "score tuned", "compare", "store"]
ARTICLE = ("philschmid/finanical-rag-embedding-dataset", "BAAI/bge-base-en-v1.5")


@dataclass(frozen=True)
class Done:
    """What a command left behind: its exit code, its words, and the folder it ran in."""

    code: int
    out: str
    err: str
    folder: Path
    # The objects that it wrote, in that order.
    written: tuple[str, ...] = ()

    @property
    def stages(self):
        """Name the stages of the job that were begun, in order."""
        return re.findall(r"^\S+Z (.*): start$", self.err, re.MULTILINE)

    @property
    def last_line(self):
        return self.err.splitlines()[-1]


@pytest.fixture(scope="module")
def s3(pairs_file):
    """An endpoint that all runs of this file share, with the pairs in it; secrets are around."""
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
    """The folder on a laptop from which all is launched."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def options(tiny_encoder, tiny_settings):
    """What makes a job of the tiny encoder on the pairs in S3."""
    settings = [f"--set={name}={value}" for name, value in tiny_settings.items()]
    return ["--data", PAIRS, "--model", str(tiny_encoder), "--output", RUNS, *settings]


@pytest.fixture(scope="module")
def shell(s3, hub, machine, tmp_path_factory):
    """Run `embedtune` in a process of its own, on the machine."""
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
    """Launch from S3 to S3 and to the Hub, with each checkpoint, of which one push fails."""
    hub.fail_next(500, match="/commit/first-checkpoints")
    return shell(
        "launch",
        *("--name", "first", "--set=output.hub=me/tuned", "--set=output.hub_strategy=checkpoint"),
        *options,
    )


@pytest.fixture(scope="module")
def killed(s3, shell, options):
    """Launch, with a server that dies at the first file of the model; start the server again."""
    s3.stop_after("PUT", "/box/runs/second/model/", 1)
    done = shell("launch", "--name", "second", "--set=training.seed=1", *options)
    s3.start()
    # The connections of this process died as well.
    forget_client()
    return done


@pytest.fixture(scope="module")
def stored_by_killed(s3, killed):
    return s3.keys("box", "runs/second/")


@pytest.fixture(scope="module")
def second(stored_by_killed, shell):
    """Launch what was killed once more; its name and place are all that is needed."""
    return shell("launch", "--name", "second", "--output", RUNS)


@pytest.fixture(scope="module")
def third(shell, options):
    """Launch on other splits of the pairs, without any training."""
    return shell(
        "launch", "--name", "third", *options, "--set=data.seed=1", "--set=training.epochs=0"
    )


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, s3):
    """Another, empty machine; the server's log is empty as well."""
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


def cells(table):
    """Read the cells of a printed table."""
    rows = [line for line in table.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


# There and back.

REPORT = ("report.html", "report.json", "report.md")


def test_a_run_from_s3_lies_in_s3(s3, first):
    """The result folder of the design, below the prefix; nothing but the workspace is here."""
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
    """Who watches the bucket reads the verdict before the model has arrived."""
    kinds = [path.removeprefix("/box/runs/first/").partition("/")[0] for path in first.written]
    # The name is claimed before any work.
    assert kinds[:4] == ["spec.json", *["report"] * len(REPORT)]
    model = kinds.count("model")
    assert kinds[-2 - model :] == ["model"] * model + ["manifest.json", "receipt.json"]


def time_of(s3, key):
    return s3._store.get_bucket("box").keys[key].last_modified


def test_another_machine_shows_the_same_report(s3, first, elsewhere):
    """To the letter; no byte of the model or of the data is transferred, only the report."""
    assert embedtune("report", "first", "--output", RUNS) == (0, first.out, "")
    # `s3://…/NAME` needs no output; a slash at the end does no harm.
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
    """By option and by the settings file alike; other folders are no runs."""
    for name in ("first", "third"):
        copy_run(s3, name, f"listed/{name}")
    s3._store.get_bucket("box").keys["listed/first/manifest.json"].last_modified -= AN_HOUR
    s3.put("box", "listed/begun/spec.json", s3.get("box", "runs/first/spec.json"))
    s3.put("box", "listed/notes/readme.txt", b"")
    code, out, err = embedtune("ls", "--output", "s3://box/listed")
    assert (code, err) == (0, "")
    when = f"{time_of(s3, 'listed/first/manifest.json'):%Y-%m-%d %H:%M}"
    rows = {row[0]: row[1:] for row in cells(out)}
    assert set(rows) == {"first", "third", "begun"}
    assert rows["first"][:2] == ["finished", when]
    assert re.fullmatch(r"0\.\d{3} → [01]\.\d{3} at 32", rows["first"][2])
    assert rows["first"][3] == "yes"
    assert (rows["third"][0], rows["third"][3]) == ("finished", "no")
    assert (rows["begun"][0], rows["begun"][2:]) == ("unfinished", ["", ""])
    (elsewhere / ".config" / "embedtune").mkdir(parents=True)
    (elsewhere / ".config" / "embedtune" / "config.toml").write_text('output = "s3://box/listed"')
    assert embedtune("ls") == (0, out, "")
    assert not [path for path in read(s3) if "/model/" in path or "/data/" in path]
    # Without a name it is the latest finished one.
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
def test_a_slip_in_the_settings_file_is_told(elsewhere, text, reason):
    """With the file's name, as any wrong spec."""
    path = elsewhere / ".config" / "embedtune" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    code, out, err = embedtune("ls")
    assert (code, out) == (3, "")
    assert all(part in err for part in (f"`{path}`", reason))


# Fetching.


@pytest.mark.parametrize("with_model", [False, True], ids=["without model", "with model"])
def test_what_is_fetched_is_what_the_manifest_says(s3, first, elsewhere, with_model):
    """All files, the model only if asked for, byte for byte; then only what differs from it."""
    manifest = json.loads(s3.get("box", "runs/first/manifest.json"))
    names = [name for name in manifest if with_model or not name.startswith("model/")]
    option = ["--model"] if with_model else []
    done = embedtune("fetch", "first", "--output", RUNS, *option)
    assert done == (0, f"{len(names)} files in runs/first, as the manifest says\n", "")
    folder = elsewhere / "runs" / "first"
    assert files_of(folder) == {name: s3.get("box", f"runs/first/{name}") for name in names}
    if not with_model:
        assert not [request for request in s3.requests if "/model/" in request.path]
    s3.requests.clear()
    assert embedtune("fetch", f"{RUNS}/first", *option) == done
    assert {path.rpartition("/")[2] for path in read(s3)} == {"manifest.json"}
    # What was changed here is repaired, the others stay.
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
    """Whatever byte it is; nothing of the run lands here, and the line says which file it was."""
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
        # Whoever wrote it does not choose where files land here.
        (EVIL, "'../evil' would be written outside"),
        # The last write is the promise; a broken one promises nothing.
        (b"{", "manifest.json"),
        (b'{"report/report.md": {}}', "manifest.json"),
    ],
)
def test_a_manifest_that_is_none_or_leads_out_is_refused(s3, first, elsewhere, manifest, part):
    prefix = f"broken/{manifest.hex()[:20]}/first"
    copy_run(s3, "first", prefix, {"manifest.json": manifest})
    code, out, err = embedtune("fetch", f"s3://box/{prefix}", "--to", "here/folder")
    assert (code, out, len(err.splitlines())) == (7, "", 1)
    assert part in err
    assert files_of(elsewhere) == {}


def test_an_unfinished_run_is_not_fetched(s3, first, elsewhere):
    """Without a manifest nothing can be proven; its report can be read all the same."""
    copy_run(s3, "first", "unproven/first", {"manifest.json": None})
    code, _, err = embedtune("fetch", "s3://box/unproven/first", "--to", "here")
    assert (code, "`first` is unfinished" in err) == (7, True)
    assert embedtune("report", "s3://box/unproven/first") == (0, first.out, "")


def test_a_local_result_is_verified_where_it_lies(s3, first, elsewhere):
    """Fetching a run that is here already only proves it."""
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


def test_runs_on_the_same_test_set_stand_side_by_side(s3, first, second, elsewhere):
    """One table, a column each; only their reports are read."""
    code, out, err = embedtune("compare", "first", "second", "--output", RUNS)
    assert (code, err) == (0, "")
    report = json.loads(s3.get("box", "runs/first/report/report.json"))
    queries, documents = report["data"]["queries"]["test"], report["data"]["corpus"]
    assert out.splitlines()[0].rstrip() == (
        f"nDCG@10 on test set {report['data']['fingerprint']['test']}: {queries} queries, "
        f"{documents} documents"
    )
    rows = cells(out)
    assert [row[0] for row in rows] == ["64", "32", "16", "base", "improved", "seconds"]
    tuned = report["scores"]["tuned"]["64"]["float32"]["ndcg@10"]
    assert rows[0][1].startswith(f"{tuned:.3f} (+0.")
    assert rows[4] == ["improved", "yes", "yes"]
    assert out.splitlines()[-1] == "Page: compare.html"
    assert f"{tuned:.3f}" in (elsewhere / "compare.html").read_text("utf-8")
    assert not [path for path in read(s3) if "/model/" in path or "/data/" in path]


def test_runs_on_different_test_sets_are_not_compared(first, third, elsewhere):
    """They are shown apart, and the exit code says that this is no comparison."""
    code, out, err = embedtune("compare", f"{RUNS}/first", f"{RUNS}/third")
    assert code == 4
    assert len(set(re.findall("nDCG@10 on test set ([0-9a-f]+)", out))) == 2
    assert "2 different test sets" in err


def test_runs_of_one_name_are_told_apart_by_their_places(first, elsewhere):
    """One here and one there: neither hides the other."""
    shutil.copytree(first.folder / "runs" / "first" / "report", elsewhere / "own/first/report")
    (elsewhere / "own/first/.work").mkdir()
    code, _, _ = embedtune("compare", f"{RUNS}/first", "first", "--output", "own")
    assert code == 0
    page = (elsewhere / "compare.html").read_text("utf-8")
    assert all(place in page for place in (f"{RUNS}/first", "own/first"))


def test_without_the_packages_of_pages_the_table_is_shown(first, second, elsewhere, monkeypatch):
    """A laptop needs no plotting library to compare; the line says how to get the page."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = embedtune("compare", "first", "second", "--output", RUNS)
    assert (code, "nDCG@10 on test set" in out) == (0, True)
    for part in ("`compare.html`", "`jinja2`", "`pip install 'embedtune[report]'`"):
        assert part in err
    assert not (elsewhere / "compare.html").exists()


# Once more.


def test_a_finished_run_is_not_run_again(s3, first, elsewhere, options):
    """Nothing is written; the report is shown as at the first time, another spec is refused."""
    hub = ["--set=output.hub=me/tuned", "--set=output.hub_strategy=checkpoint"]
    code, out, err = embedtune("launch", "--name", "first", *hub, *options)
    assert (code, out) == (0, first.out)
    assert err == "The run first is finished already; nothing was changed.\n"
    code, out, err = embedtune("launch", "--name", "first", "--set=training.seed=7", *hub, *options)
    assert (code, out, "`training.seed`" in err) == (3, "", True)
    assert written(s3) == []


def test_an_endpoint_that_is_away_is_told_before_a_job_is_started(elsewhere, options, monkeypatch):
    """The launcher asks first whether the name is free, and leaves nothing behind."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    forget_client()
    code, out, err = embedtune("launch", "--name", "away", *options)
    forget_client()
    assert (code, out) == (7, "")
    assert all(part in err for part in (f"`{RUNS}/away/", "http://127.0.0.1:1 does not answer"))
    assert files_of(elsewhere) == {}


def test_an_upload_that_broke_off_is_one_line(s3, killed, stored_by_killed):
    """Exit code 7; the report had arrived, and no manifest says that it is all."""
    assert killed.code == 7
    for part in (f"`{RUNS}/second` cannot be written", f"{s3.endpoint} does not answer"):
        assert part in killed.last_line
    assert "Traceback" not in killed.err
    assert killed.stages == STAGES
    assert "runs/second/report/report.md" in stored_by_killed
    assert "runs/second/manifest.json" not in stored_by_killed
    assert "runs/second/receipt.json" not in stored_by_killed


def test_launching_again_completes_the_upload_without_training(s3, second):
    """The workspace holds the results; they go up, and the manifest proves them."""
    assert second.code == 0, second.err
    assert second.stages == []
    manifest = json.loads(s3.get("box", "runs/second/manifest.json"))
    for name, entry in manifest.items():
        assert len(s3.get("box", f"runs/second/{name}")) == entry["bytes"]


# The Hub.


def loaded(files, folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(unpack(files, folder)), device="cpu")


def test_every_checkpoint_goes_to_its_branch(hub, first, tmp_path):
    """One push failed, and the training went on; `main` saw nothing before the end."""
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
    """Private, tagged by the run's name, the same files as in S3, with report and logs."""
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
    """Launch the file that `init` writes, and have its model pushed; the Hub has the rest."""
    rows = "".join(json.dumps(row) + "\n" for row in make_pairs(310))
    hub.add("dataset", ARTICLE[0], {"train.jsonl": rows.encode()})
    folder = build_encoder(tmp_path_factory.mktemp("bge") / "base", width=768)
    card = {"README.md": b"---\nlicense: mit\n---\n# BGE\n"}
    hub.add("model", ARTICLE[1], files_of(folder) | card | {"pytorch_model.bin": b"pickle"})
    assert shell("init").code == 0
    push = ["--set=output.hub=me/financial", "--set=output.hub_always=true"]
    return shell("launch", "job.yaml", "--name", "article", *push, EMBEDTUNE_OUTPUT="articles")


def test_the_articles_job_logs_the_articles_keys(article):
    """`job.yaml` as it is written, on what the Hub has under the article's ids."""
    assert article.code == 0, article.err
    keys = [f"dim_{dimension}_cosine_ndcg@10" for dimension in (768, 512, 256, 128, 64)]
    for model in ("base", "tuned"):
        found = re.findall(rf"{model} (dim_\d+_cosine_ndcg@10): 0\.\d{{4}}$", article.err, re.M)
        assert found == keys
    log = article.folder / "articles" / "article" / "logs" / "job.log"
    assert all(key in log.read_text("utf-8") for key in keys)


def test_the_articles_card_is_on_the_hub(hub, article, tmp_path):
    """Licence, base model, and what base and tuned model score."""
    files = hub.files("me/financial", "article")
    front, _, body = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    data = yaml.safe_load(front)
    assert (data["license"], data["base_model"]) == ("apache-2.0", ARTICLE[1])
    scores = json.loads(files["report/report.json"])["scores"]
    base, tuned = (scores[model]["128"]["float32"]["ndcg@10"] for model in ("base", "tuned"))
    assert f"| 128 | {base:.3f} | {tuned:.3f} |" in body
    assert loaded(files, tmp_path).encode(["ask1"]).shape == (1, 768)


def test_the_report_names_the_commits_of_its_inputs(hub, article):
    """Also where the spec names no revision."""
    report = json.loads(hub.files("me/financial")["report/report.json"])
    commits = {
        "data": hub.repos["dataset", ARTICLE[0]].branches["main"],
        "model": hub.repos["model", ARTICLE[1]].branches["main"],
    }
    assert {role: found["commit"] for role, found in report["inputs"].items()} == commits
    markdown = hub.files("me/financial")["report/report.md"].decode()
    assert all(commit in markdown for commit in commits.values())
    assert not [path for _, path in hub.requests if path.endswith("pytorch_model.bin")]


# What is refused before any work, and what is never told.


@pytest.fixture(scope="module")
def wrong_token(hub, shell, options):
    """Launch with a token that the Hub does not know."""
    push = "--set=output.hub=me/never"
    return shell("launch", "--name", "wrong", push, *options, HF_TOKEN=WRONG_TOKEN)


@pytest.fixture(scope="module")
def denied(s3, shell, options):
    """Launch without the right to write."""
    s3.fail("AccessDenied", 403, method="PUT", match="/box/runs/denied/", times=1000)
    return shell("launch", "--name", "denied", *options)


def test_a_place_that_cannot_be_written_is_told_before_any_training(s3, denied):
    """Not after hours of it."""
    assert (denied.code, denied.stages) == (7, [])
    for part in (f"`{RUNS}/denied/spec.json` cannot be written", "s3:PutObject", "HTTP 403"):
        assert part in denied.last_line
    assert s3.keys("box", "runs/denied/") == []


def test_a_hub_that_refuses_the_token_is_told_before_any_training(s3, hub, wrong_token):
    """Nothing is trained that could not be pushed, and nothing is left that looks finished."""
    assert wrong_token.code == 7
    for part in ("`me/never`", "HTTP 401", "`HF_TOKEN`"):
        assert part in wrong_token.last_line
    assert wrong_token.stages == []
    assert ("model", "me/never") not in hub.repos
    assert s3.keys("box", "runs/wrong/") == ["runs/wrong/spec.json"]


def test_no_secret_is_ever_told(
    s3, hub, machine, first, killed, second, third, article, denied, wrong_token
):
    """Not in any byte of what runs write, say or push, whether they succeed or fail."""
    told = {}
    for done in (first, killed, second, third, article, denied, wrong_token):
        told[f"words {len(told)}"] = (done.out + done.err).encode()
    told |= {f"disk {name}": data for name, data in files_of(machine).items()}
    told |= {f"bucket {key}": s3.get("box", key) for key in s3.keys("box")}
    for repo in hub.repos.values():
        for commit in repo.commits.values():
            told |= {f"hub {commit.id} {name}": data for name, data in commit.files.items()}
            told[f"hub {commit.id}"] = commit.title.encode()
    assert len(told) > 100
    secrets = [*SECRETS.values(), WRONG_TOKEN]
    assert [
        (name, secret) for name, data in told.items() for secret in secrets
        if secret.encode() in data
    ] == []  # fmt: skip
    assert os.environ["AWS_SECRET_ACCESS_KEY"] in secrets
