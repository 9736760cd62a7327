"""The tuned model is pushed to the Hub with its card, if it improved and we have permission."""

import json
import re

import pytest
from hub_server import Hub
from remote import in_client

from job.storage.hub_errors import without_queries

TOKEN = "hf_PlantedRight"
MODEL = {"model.safetensors": b"tuned", "config.json": b"{}", "README.md": b"# Tuned\n"}


@pytest.fixture
def hub():
    with Hub(token=TOKEN) as hub:
        yield hub


@pytest.fixture
def write(tmp_path):
    """Write files into a folder; return it."""

    def work(name, files):
        fill(tmp_path / name, files)
        return tmp_path / name

    return work


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def push(folder, steps):
    """Run push steps one after another; return their results and the log lines."""
    import io
    import logging
    import os
    from pathlib import Path

    from job.core.errors import EmbedtuneError
    from job.runtime import counter
    from job.storage.hub import Push

    log, results = logging.getLogger("embedtune"), []
    log.addHandler(logging.StreamHandler(stream := io.StringIO()))
    log.setLevel("INFO")

    def take(kind, repository, run="first", **options):
        os.environ["HF_TOKEN"] = options.get("token", os.environ["HF_TOKEN"])
        target = Push(repository, private=options.get("private", True))
        if kind == "results":
            counter.FIRST_SECONDS = options.get("pause", counter.FIRST_SECONDS)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            return target.results({str(path.relative_to(folder)): path for path in paths}, run)
        if kind == "checkpoint":
            return target.checkpoint(Path(folder), run)
        return target.prepare()

    for *step, options in steps:
        try:
            results.append(take(*step, **options))
        except EmbedtuneError as error:
            results.append([error.exit_code, str(error)])
    return [results, stream.getvalue().splitlines()]


def pushed(hub, tmp_path, folder, *steps):
    environment = hub.environment(tmp_path / "cache", HF_TOKEN=TOKEN)
    steps = [step if isinstance(step[-1], dict) else (*step, {}) for step in steps]
    return in_client(environment, push, str(folder), steps)


def commits(hub, repository):
    repo, titles = hub.repos["model", repository], []
    commit = repo.at("main")
    while commit:
        titles.append(commit.title)
        commit = commit.parent
    return titles


def test_results_become_one_tagged_commit(hub, tmp_path, write):
    """A new repository is private; each run tags its commit with its name.

    Pushing the same files again, as a relaunched run does, succeeds.
    """
    folder = write("model", MODEL | {"logs/job.log": b"a line\n"})
    runs = ("first", "second", "second")
    steps = [step for run in runs for step in (("prepare", "me/new"), ("results", "me/new", run))]
    (_, first, _, second, _, again), lines = pushed(hub, tmp_path, folder, *steps)
    assert lines == []
    repo = hub.repos["model", "me/new"]
    assert repo.private
    assert repo.tags["first"] == first
    assert repo.tags["second"] == again == repo.branches["main"]
    for revision in (first, "first", second, "second", "main"):
        files = hub.files("me/new", revision)
        del files[".gitattributes"]
        assert files == MODEL | {"logs/job.log": b"a line\n"}
    assert commits(hub, "me/new")[-2:] == ["embedtune run first", "initial commit"]


def test_the_log_counts_the_bytes_of_a_push(hub, tmp_path, write):
    """Without a pause between two lines, the first file has one."""
    folder = write("model", MODEL)
    steps = [("prepare", "me/counted"), ("results", "me/counted", "first", {"pause": 0})]
    _, lines = pushed(hub, tmp_path, folder, *steps)
    total = sum(map(len, MODEL.values()))
    assert re.match(rf"upload: bytes done=\d+ total={total} per_second=", lines[0])


def test_the_spec_can_make_a_new_repository_public(hub, tmp_path, write):
    """The visibility of an existing one does not change."""
    hub.add("model", "me/old", MODEL)
    steps = [("prepare", "me/new", {"private": False}), ("prepare", "me/old")]
    assert pushed(hub, tmp_path, write("model", MODEL), *steps) == [[None, None], []]
    assert not hub.repos["model", "me/new"].private
    assert not hub.repos["model", "me/old"].private


@pytest.mark.parametrize("token", ["", "hf_PlantedWrong"], ids=["none", "wrong"])
def test_without_permission_nothing_is_prepared(hub, tmp_path, write, token):
    """The error comes before any training, with exit code 7."""
    hub.add("model", "me/old", MODEL)
    steps = [("prepare", "me/new", {"token": token}), ("prepare", "me/old")]
    ((code, line), (other, _)), lines = pushed(hub, tmp_path, write("model", MODEL), *steps)
    assert code == other == 7
    assert "`me/new`: access was refused (HTTP 401)" in line
    assert "Planted" not in f"{line}{lines}"
    assert ("model", "me/new") not in hub.repos


def test_a_read_only_repository_is_an_error_before_any_training(hub, tmp_path, write):
    """After hours of training it would be too late."""
    hub.add("model", "other/model", MODEL)
    # The Hub's response to a read-only token.
    for path in ("POST /api/repos/create", "/auth-check/write", "/commit/", "/preupload/"):
        hub.fail_next(403, times=100, match=path)
    found, _ = pushed(hub, tmp_path, write("model", MODEL), ("prepare", "other/model"))
    ((code, line),) = found
    assert code == 7
    assert "`other/model`: access was refused (HTTP 403)" in line


CHECKPOINT = MODEL | {"1_Pooling/config.json": b"{}"}
TRAINERS = {
    "optimizer.pt": b"o",
    "scheduler.pt": b"s",
    "scaler.pt": b"s",
    "rng_state.pth": b"r",
    "rng_state_0.pth": b"r",
    "trainer_state.json": b"{}",
    "training_args.bin": b"t",
}


def test_a_checkpoint_goes_to_its_own_branch(hub, tmp_path, write):
    """Its model, without the trainer's files; `main` gets only the evaluated model."""
    folder = write("checkpoint-12", CHECKPOINT | TRAINERS)
    steps = [("prepare", "me/new"), *[("checkpoint", "me/new")] * 2]
    _, lines = pushed(hub, tmp_path, folder, *steps)
    assert lines == ["hub: checkpoint-12 is in `me/new`, branch `first-checkpoints`"] * 2
    attributes = hub.files("me/new").keys()
    assert attributes == {".gitattributes"}
    branch = hub.files("me/new", "first-checkpoints")
    assert {name: branch[name] for name in branch.keys() - attributes} == CHECKPOINT


def test_a_failed_push_of_a_checkpoint_is_only_logged(hub, tmp_path, write):
    """Training continues, and the next checkpoint is pushed again."""
    folder = write("checkpoint-12", CHECKPOINT)
    hub.fail_next(500, times=100, match="/commit/")
    steps = [("prepare", "me/new"), ("checkpoint", "me/new"), ("checkpoint", "me/unknown")]
    results, lines = pushed(hub, tmp_path, folder, *steps)
    assert results == [None, None, None]
    assert [line.split(":")[0] for line in lines] == ["hub", "hub"]
    for line, expected in zip(
        lines, ("`me/new`: the Hub failed (HTTP 500)", "`me/unknown`"), strict=True
    ):
        assert "checkpoint-12 was not pushed: " in line
        assert expected in line


def push_reports(root, cases):
    """Push the results of workspaces; `cases` maps their names to `always`."""
    import io
    import logging
    from pathlib import Path

    from job.storage.hub import Push
    from job.storage.publish import push_model
    from job.storage.workspace import Workspace

    log = logging.getLogger("embedtune")
    log.addHandler(logging.StreamHandler(stream := io.StringIO()))
    log.setLevel("INFO")
    for name, always in cases.items():
        push = Push(f"me/{name}", private=True)
        push.prepare()
        push_model(Workspace(Path(root, name)), push, name, always=always)
    return stream.getvalue().splitlines()


def test_a_model_is_pushed_if_it_improved(hub, tmp_path):
    """Or if the spec says always; the data is never pushed."""
    wanted = {
        "README.md": b"# Card\n",
        "model.safetensors": b"weights",
        "report/report.md": b"# Report\n",
        "logs/job.log": b"a line\n",
        "exports/onnx-int8/onnx/model.onnx": b"an export",
    }
    not_pushed = ("per_query.parquet", "data/train.jsonl", "manifest.json")
    reports = {
        name: json.dumps({"verdict": {"improved": name == "better"}}).encode()
        for name in ("better", "worse", "anyway")
    }
    for name, report in reports.items():
        own = dict.fromkeys(not_pushed, b"mine") | {"report/report.json": report}
        results = {n: data for n, data in wanted.items() if "/" in n}
        fill(tmp_path / name / "output" / "data", results | own)
        fill(tmp_path / name / "model", {n: wanted[n] for n in wanted.keys() - results.keys()})
    environment = hub.environment(tmp_path / "cache", HF_TOKEN=TOKEN)
    cases = {name: name == "anyway" for name in reports}
    lines = in_client(environment, push_reports, str(tmp_path), cases)
    for name in ("better", "anyway"):
        files = hub.files(f"me/{name}", name)
        del files[".gitattributes"]
        assert files == wanted | {"report/report.json": reports[name]}
    assert hub.files("me/worse").keys() == {".gitattributes"}
    assert hub.repos["model", "me/worse"].tags == {}
    better, worse, anyway = (line for line in lines if "pushing the model" not in line)
    assert "not pushed to `me/worse`; `output.hub_always=true`" in worse
    for name, line in {"better": better, "anyway": anyway}.items():
        commit = hub.repos["model", f"me/{name}"].tags[name][:12]
        assert line == f"hub: the model is in `me/{name}`, commit {commit}, tag `{name}`"


def test_signatures_are_removed_from_urls():
    """Redirects to storage are signed, and libraries print them."""
    text = "GET https://cdn/x?X-Amz-Signature=abc failed, see http://docs/y#z."
    assert without_queries(text) == "GET https://cdn/x failed, see http://docs/y#z."
