"""The command line as a shell sees it: exit codes, whole outputs, and what is left on disk."""

import itertools
import json
import os
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from job.spec.parse import build_spec, field_rows
from job.spec.schema import PRESETS
from launcher.cli import main
from launcher.plan.settings import settings_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty but for a file of pairs, which nothing here reads."""
    monkeypatch.chdir(tmp_path)
    # What whoever runs the tests has set for themselves; these folders do not exist.
    monkeypatch.delenv("EMBEDTUNE_OUTPUT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    (tmp_path / "pairs.jsonl").write_text('{"question": "q", "context": "c"}\n', "utf-8")
    return tmp_path


def run(*arguments):
    """Run a command; returns its exit code, stdout and stderr."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


def dry_run(*arguments):
    """Run a launch that must only print; returns its one document."""
    before = sorted(Path().rglob("*"))
    code, out, err = run("launch", *arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert sorted(Path().rglob("*")) == before
    return json.loads(out)


# Help and version.


def test_the_installed_command_tells_its_version():
    """`embedtune` is on the path after `pip install`, and says which version it is."""
    script = Path(sys.executable).with_name("embedtune")
    done = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"embedtune, version {metadata.version('embedtune')}\n"


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_every_command_explains_itself(command):
    """`--help` and `-h` say the same, on stdout, and every option has its sentence."""
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert run(*command, "-h") == (0, out, "")
    assert out.startswith(f"Usage: main {' '.join(command)}".rstrip())
    options = (main.commands[command[0]] if command else main).params
    assert all(option.help for option in options if option.param_type_name == "option")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["lunch"], "No such command 'lunch'"),
        (["launch", "--epochs", "3"], "No such option"),
        (["launch", "nowhere.yaml"], "File 'nowhere.yaml' does not exist."),
        (["launch", "--backend", "moon"], "'moon' is not "),
        (["launch", "--price-per-hour", "-1"], "-1.0 is not in the range x>=0."),
        (["launch", "--hosts", "0"], "0 is not in the range x>=1."),
        (["launch", "--max-runtime", "soon"], "'soon' is no time; expected 90m, 4h or 1d."),
        (["check"], "Missing argument 'DATA'."),
    ],
)
def test_wrong_usage_is_exit_code_2(folder, arguments, reason):
    """Click's own code, its usage line, and what was wrong."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")
    assert reason in err


# init and schema.


def test_init_writes_the_job_file_once_and_says_what_comes_next(folder):
    """The file is the one in the package, comments included; one that exists is left as it is."""
    assert run("init") == (0, "Wrote job.yaml. Next: embedtune launch job.yaml\n", "")
    packaged = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")
    assert (folder / "job.yaml").read_text("utf-8") == packaged
    (folder / "job.yaml").write_text("mine", "utf-8")
    code, out, err = run("init")
    assert (code, out, "`job.yaml` exists already" in err) == (7, "", True)
    assert (folder / "job.yaml").read_text("utf-8") == "mine"


def test_the_printed_schema_accepts_the_init_file_and_no_unknown_field(folder):
    """An editor can check job files with it: it is JSON Schema, and as strict as the job."""
    jsonschema = pytest.importorskip("jsonschema", reason="comes with moto")
    code, out, err = run("schema")
    schema = json.loads(out)
    assert (code, err) == (0, "")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    text = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")
    document = yaml.safe_load(text)
    assert list(validator.iter_errors(document)) == []
    for section in (document, document["data"], document["data"]["columns"], document["training"]):
        section["epoch"] = 3
        assert len(list(validator.iter_errors(document))) == 1
        del section["epoch"]
    document["training"]["epochs"] = -1
    assert len(list(validator.iter_errors(document))) == 1


# What would be launched.


def test_a_dry_run_prints_one_document_and_touches_nothing(folder):
    """Exactly `{"spec": …, "request": …}`; where a job runs is no part of what it does."""
    what = ["--data", "pairs.jsonl", "--model", "./encoder", "--set", "training.epochs=2"]
    where = ["--name", "n", "--output", "out", "--device", "cpu", "--price-per-hour", "1.212"]
    sections = {
        "data": {"source": "pairs.jsonl"},
        "model": {"base": "./encoder"},
        "training": {"epochs": 2},
        "output": {"uri": "out"},
    }
    spec = build_spec(sections).model_dump(mode="json")
    assert dry_run(*what, *where) == {
        "spec": spec,
        "request": {
            "backend": "process",
            "argv": [sys.executable, "-P", "-m", "job", "train", "--workspace", "out/n/.work"],
            "environment": {
                "TRAINING_JOB_NAME": "n",
                "EMBEDTUNE_RUN": "n",
                "EMBEDTUNE_DEVICE": "cpu",
                "EMBEDTUNE_PRICE_PER_HOUR": "1.212",
            },
            "inputs": {"data": "pairs.jsonl"},
        },
    }
    assert dry_run(*what, "--output", "out")["spec"] == spec


def test_every_local_input_becomes_a_channel(folder):
    """Files and folders that exist here are brought along; what is elsewhere the job reads."""
    for name in ("valid.csv", "corpus.jsonl"):
        (folder / name).touch()
    (folder / "held-out").mkdir()
    inputs = {
        "data": "pairs.jsonl",
        "validation": str(folder / "valid.csv"),
        "test": "held-out",
        "corpus": "./corpus.jsonl",
    }
    (folder / "encoder").mkdir()
    settings = [f"data.{key}={path}" for key, path in inputs.items() if key != "data"]
    options = [part for setting in settings for part in ("--set", setting)]
    options += ["--model", "./encoder", "--name", "n"]
    request = dry_run("--data", "pairs.jsonl", *options)["request"]
    assert request["inputs"] == inputs | {"corpus": "corpus.jsonl", "model": "encoder"}


def test_what_lies_in_s3_or_on_the_hub_is_fetched_by_the_job(folder):
    """No channel is made of it, and the workspace is here wherever the results go."""
    data = ["--data", "s3://bucket/pairs.jsonl", "--set", "data.test=hf://datasets/a/b@main:test"]
    request = dry_run(*data, "--name", "n", "--output", "s3://bucket/runs")["request"]
    assert (request["inputs"], request["argv"][-1]) == ({}, "runs/n/.work")


def test_what_a_backend_does_not_take_is_refused(folder):
    """An option that would be ignored is a mistake: usage, exit code 2."""
    options = ["--data", "pairs.jsonl", "--memory", "4g", "--gpus", "all", "--image", "mine"]
    code, _, err = run("launch", *options)
    assert (code, "`--backend process` takes no --gpus, --image, --memory." in err) == (2, True)
    code, _, err = run("launch", *options, "--backend", "sagemaker")
    assert (code, "`--backend sagemaker` takes no --gpus, --memory." in err) == (2, True)
    code, _, err = run("launch", "--data", "pairs.jsonl", "--detach")
    assert (code, "`--detach` is not for `--backend process`" in err) == (13, True)


# Where results go when nothing is said: the nearer to the command line, the stronger.
OUTPUTS = {
    "settings file": 'output = "of settings"\n',
    "environment": "of environment",
    "job file": "of job file",
    "--set": "of set",
    "--output": "of option",
}


@pytest.mark.parametrize("strongest", range(len(OUTPUTS) + 1))
def test_the_nearest_output_counts(folder, monkeypatch, strongest):
    """`--output`, `--set`, the job file, the environment, the user's settings, then `runs`."""
    said = dict(list(OUTPUTS.items())[:strongest])
    if text := said.pop("settings file", None):
        path = settings_file()
        path.parent.mkdir(parents=True)
        path.write_text(text, "utf-8")
    if uri := said.pop("environment", None):
        monkeypatch.setenv("EMBEDTUNE_OUTPUT", uri)
    job = {"data": {"source": "pairs.jsonl"}}
    if uri := said.pop("job file", None):
        job["output"] = {"uri": uri}
    (folder / "job.yaml").write_text(yaml.safe_dump(job), "utf-8")
    options = [f"output.uri={text}" if name == "--set" else text for name, text in said.items()]

    document = dry_run("job.yaml", *itertools.chain(*zip(said, options, strict=True)))

    expected = ["runs", *(f"of {n}" for n in ("settings", "environment", "job file", "set"))]
    assert document["spec"]["output"]["uri"] == [*expected, "of option"][strongest]


def test_an_output_section_without_a_place_has_the_default_one(folder, monkeypatch):
    """Who names a Hub repository in it has not said where the results go."""
    monkeypatch.setenv("EMBEDTUNE_OUTPUT", "s3://bucket/runs")
    (folder / "job.yaml").write_text(
        "data: {source: pairs.jsonl}\noutput: {hub: owner/name}\n", "utf-8"
    )

    output = dry_run("job.yaml")["spec"]["output"]

    assert (output["uri"], output["hub"]) == ("s3://bucket/runs", "owner/name")


@pytest.mark.parametrize("name", ["Größe 😀.jsonl", "a: b.jsonl", "no", "2024-01-01", " x ", "'q'"])
def test_a_path_arrives_as_it_was_typed(folder, name):
    """Whatever a file is called, it is found and becomes the channel."""
    (folder / name).touch()
    document = dry_run("--data", name, "--model", name, "--output", name, "--name", "n")
    spec = document["spec"]
    assert [spec["data"]["source"], spec["model"]["base"], spec["output"]["uri"]] == [name] * 3
    assert document["request"]["inputs"] == {"data": name, "model": name}


def test_options_win_over_set_and_set_wins_over_the_job_file(folder):
    """The nearer to the command line, the stronger; the rest stays, and wins over a preset."""
    (folder / "job.yaml").write_text(
        "preset: best\n"
        "data: {source: file, seed: 1}\n"
        "model: {base: file, revision: file}\n"
        "training: {epochs: 1, seed: 1}\n",
        "utf-8",
    )
    settings = ["--set", "training.epochs=2", "--set", "data.source=set", "--set", "model.base=set"]
    document = dry_run("job.yaml", "--data", "option", "--preset", "quick", *settings)
    expected = {
        "preset": "quick",
        "data": {"source": "option", "seed": 1},
        "model": {"base": "set", "revision": "file"},
        "training": {"epochs": 2, "seed": 1},
    }
    assert document["spec"] == build_spec(expected).model_dump(mode="json")


def test_the_presets_on_the_command_line_are_those_of_the_spec():
    """The launcher lists them without loading the spec; none may be missing or made up."""
    option = next(option for option in main.commands["launch"].params if option.name == "preset")
    assert list(option.type.choices) == list(PRESETS)


def test_a_job_file_may_be_json(folder):
    """The resolved spec of a run, or of a dry run, is a job file."""
    spec = dry_run("--data", "pairs.jsonl", "--set", "model.name=Größe 😀")["spec"]
    (folder / "spec.json").write_text(json.dumps(spec), "utf-8")
    assert dry_run("spec.json")["spec"] == spec


def test_a_run_without_a_name_is_named_after_its_model(folder):
    """The folder says what was tuned and when."""
    document = dry_run("--data", "pairs.jsonl", "--model", "BAAI/bge-small-en-v1.5")
    name = document["request"]["environment"]["TRAINING_JOB_NAME"]
    assert re.fullmatch(r"bge-small-en-v1-5-\d{8}-\d{6}-[0-9a-f]{4}", name)
    assert document["request"]["argv"][-1] == f"runs/{name}/.work"


# What is refused, before anything is done.

# What is wrong, and what the line says of it.
REFUSED = [
    ([], "`embedtune init`"),
    (["--name", "new"], "No data"),
    (["--set", "training.epoch=3"], "Did you mean `training.epochs`?"),
    (["--set", "training.epochs"], "`--set training.epochs` has no `=`"),
    (["--set", "preset=fast"], "`preset`"),
    (["--data", "pairs.jsonl", "--name", "../up"], "`--name ../up`"),
    (
        ["--data", "pairs.jsonl", "--output", "s3://My_Bucket/runs", "--name", "n"],
        "`s3://My_Bucket",
    ),
    (["latin.yaml"], "`latin.yaml` is not UTF-8"),
]


@pytest.mark.parametrize(("arguments", "part"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_spec_is_exit_code_3_and_leaves_nothing(folder, arguments, part):
    """One line that says what to type; no folder of a run that never began."""
    (folder / "latin.yaml").write_bytes("model: {name: Größe}\n".encode("latin-1"))
    before = sorted(folder.rglob("*"))
    code, out, err = run("launch", *arguments)
    assert (code, out, len(err.splitlines())) == (3, "", 1)
    assert part in err
    assert sorted(folder.rglob("*")) == before


# Where there are no runs.


def test_runs_are_looked_for_where_they_go_by_default(folder, monkeypatch):
    """`EMBEDTUNE_OUTPUT` serves all commands; an option wins. No runs are no failure of `ls`."""
    hint = "No runs in {} yet. Start one with: embedtune launch\n"
    assert run("ls") == (0, "", hint.format("runs"))
    monkeypatch.setenv("EMBEDTUNE_OUTPUT", "mine")
    assert run("ls") == (0, "", hint.format("mine"))
    assert run("ls", "--output", "other") == (0, "", hint.format("other"))
    for command in (["report"], ["report", "first"], ["fetch", "first"], ["compare", "first"]):
        code, out, err = run(*command)
        assert (code, out) == (7, "")
        assert "in `mine`" in err
    assert not (folder / "mine").exists()


def test_a_damaged_run_does_not_hide_the_others(folder):
    """A run whose report was lost is listed like any other, without its numbers."""
    for name in ("damaged", "other"):
        (folder / "runs" / name / ".work").mkdir(parents=True)
    (folder / "runs" / "damaged" / "manifest.json").write_text("{}", "utf-8")
    code, out, _ = run("ls")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()[3:-1]]
    assert sorted((row[1], row[2]) for row in rows) == [
        ("damaged", "finished"),
        ("other", "unfinished"),
    ]


# check.


def test_check_is_the_jobs_own_check(folder):
    """The launcher hands its output and its exit code through, settings and all."""
    command = [sys.executable, "-P", "-m", "launcher.cli", "check", "pairs.jsonl"]
    done = subprocess.run(
        [*command, "--set", "data.min_characters=1", "--set", "data.min_test_queries=1"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 4
    assert done.stdout.startswith("Source     pairs.jsonl: 1 rows, 1 usable\n")
    assert "needs at least 1" in done.stderr


def test_every_field_can_be_set_on_the_command_line(folder):
    """Even the defaults, as the README's table shows them, are taken by `--set`."""
    settings = [f"{name}={default}" for name, default, _ in field_rows()]
    options = [part for setting in settings for part in ("--set", setting)]
    expected = build_spec({"data": {"source": "pairs.jsonl"}}).model_dump(mode="json")
    assert dry_run("--data", "pairs.jsonl", *options)["spec"] == expected
