"""The command line from the shell: exit codes, whole outputs, and files on disk."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
import reports
import yaml
from click.testing import CliRunner

from job.spec.parse import build_spec, field_rows
from job.spec.schema import PRESETS
from launcher.cli import main
from launcher.plan.settings import settings_file

LAUNCHER = [sys.executable, "-P", "-m", "launcher.cli"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with only a file of pairs, which no test here reads."""
    monkeypatch.chdir(tmp_path)
    # Hide the developer's own settings; these folders do not exist.
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
    """Run `launch --dry-run`, which must only print; returns its JSON document."""
    before = sorted(Path().rglob("*"))
    code, out, err = run("launch", *arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert sorted(Path().rglob("*")) == before
    return json.loads(out)


# Help and version.


def test_the_installed_command_prints_its_version():
    """`embedtune` is on the path after `pip install`."""
    script = Path(sys.executable).with_name("embedtune")
    done = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"embedtune, version {metadata.version('embedtune')}\n"


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_every_command_has_help(command):
    """`--help` and `-h` print the same to stdout, and every option has a help text."""
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
        (["launch", "--max-runtime", "soon"], "'soon' is not a duration; expected 90m, 4h or 1d."),
        (["check"], "Missing argument 'DATA'."),
    ],
)
def test_wrong_usage_is_exit_code_2(folder, arguments, reason):
    """With Click's usage line and the reason."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")
    assert reason in err


# init and schema.


def test_init_writes_the_job_file_and_prints_the_next_command(folder):
    """The packaged file, with comments; an existing file is not overwritten."""
    assert run("init") == (0, "Wrote job.yaml. Next: embedtune launch job.yaml\n", "")
    packaged = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")
    assert (folder / "job.yaml").read_text("utf-8") == packaged
    (folder / "job.yaml").write_text("mine", "utf-8")
    code, out, err = run("init")
    assert (code, out, "`job.yaml` already exists" in err) == (7, "", True)
    assert (folder / "job.yaml").read_text("utf-8") == "mine"


def test_init_writes_a_job_file_for_given_pairs(folder, pairs_file, tiny_encoder):
    """`launch` accepts it; a refusal is that of the check, and nothing is written."""
    given = ["--data", str(pairs_file), "--model", str(tiny_encoder)]
    started = [*LAUNCHER, "init", "mine.yaml", *given, "--set", "preset=quick"]
    done = subprocess.run(started, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "Wrote mine.yaml. Next: embedtune launch mine.yaml\n"
    document = dry_run("mine.yaml")
    assert document["spec"]["data"]["columns"]["anchor"] == "question"

    (folder / "odd.jsonl").write_text('{"a": 1}\n', "utf-8")
    done = subprocess.run(
        [*LAUNCHER, "init", "odd.yaml", "--data", "odd.jsonl"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("Error: `odd.jsonl` has no column")
    assert not (folder / "odd.yaml").exists()


def test_options_of_a_job_for_data_need_the_data(folder):
    """The article's job has its own model and fields."""
    code, _, err = run("init", "--model", "builtin:minilm")
    assert (code, "need --data" in err) == (2, True)


def test_the_schema_accepts_the_init_file_and_no_unknown_field(folder):
    """It is valid JSON Schema, and as strict as the job, so editors can check job files."""
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


# Dry runs.


def test_seeds_of_a_launch_are_a_field_of_the_spec(folder):
    job = ("--data", "pairs.jsonl", "--model", "builtin:minilm", "--name", "several")
    assert dry_run(*job, "--seeds", "3")["spec"]["training"]["seeds"] == 3
    assert dry_run(*job)["spec"]["training"]["seeds"] == 1
    assert run("launch", *job, "--seeds", "0")[0] == 2


def test_a_dry_run_prints_one_document_and_touches_nothing(folder):
    """Exactly `{"spec": …, "request": …}`; machine options are not part of the spec."""
    job = ["--data", "pairs.jsonl", "--model", "./encoder", "--set", "training.epochs=2"]
    machine = ["--name", "n", "--output", "out", "--device", "cpu", "--price-per-hour", "1.212"]
    sections = {
        "data": {"source": "pairs.jsonl"},
        "model": {"base": "./encoder"},
        "training": {"epochs": 2},
        "output": {"uri": "out"},
    }
    spec = build_spec(sections).model_dump(mode="json")
    assert dry_run(*job, *machine) == {
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
    assert dry_run(*job, "--output", "out")["spec"] == spec


def test_every_local_input_becomes_a_channel(folder):
    """Existing local files and folders are staged; the job reads remote inputs itself."""
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


def test_inputs_in_s3_and_on_the_hub_are_fetched_by_the_job(folder):
    """They are no channels; the workspace is local even if results go to S3."""
    data = ["--data", "s3://bucket/pairs.jsonl", "--set", "data.test=hf://datasets/a/b@main:test"]
    request = dry_run(*data, "--name", "n", "--output", "s3://bucket/runs")["request"]
    assert (request["inputs"], request["argv"][-1]) == ({}, "runs/n/.work")


def test_an_option_of_another_backend_is_refused(folder):
    """An option that would be ignored is a usage error, exit code 2."""
    options = ["--data", "pairs.jsonl", "--memory", "4g", "--gpus", "all", "--image", "mine"]
    code, _, err = run("launch", *options)
    assert (code, "`--backend process` does not accept --gpus, --image, --memory." in err) == (
        2,
        True,
    )
    code, _, err = run("launch", *options, "--backend", "sagemaker")
    assert (code, "`--backend sagemaker` does not accept --gpus, --memory." in err) == (2, True)
    code, _, err = run("launch", "--data", "pairs.jsonl", "--detach")
    assert (code, "`--detach` does not work with `--backend process`" in err) == (13, True)


# Sources of the output, in ascending priority.
OUTPUTS = {
    "settings file": 'output = "of settings"\n',
    "environment": "of environment",
    "job file": "of job file",
    "--set": "of set",
    "--output": "of option",
}


@pytest.mark.parametrize("strongest", range(len(OUTPUTS) + 1))
def test_the_output_has_five_sources_in_order(folder, monkeypatch, strongest):
    """`--output`, `--set`, the job file, the environment, the user's settings, then `runs`."""
    given = dict(list(OUTPUTS.items())[:strongest])
    if text := given.pop("settings file", None):
        path = settings_file()
        path.parent.mkdir(parents=True)
        path.write_text(text, "utf-8")
    if uri := given.pop("environment", None):
        monkeypatch.setenv("EMBEDTUNE_OUTPUT", uri)
    job = {"data": {"source": "pairs.jsonl"}}
    if uri := given.pop("job file", None):
        job["output"] = {"uri": uri}
    (folder / "job.yaml").write_text(yaml.safe_dump(job), "utf-8")
    options = [f"output.uri={text}" if name == "--set" else text for name, text in given.items()]

    document = dry_run("job.yaml", *itertools.chain(*zip(given, options, strict=True)))

    expected = ["runs", *(f"of {n}" for n in ("settings", "environment", "job file", "set"))]
    assert document["spec"]["output"]["uri"] == [*expected, "of option"][strongest]


def test_an_output_section_without_uri_gets_the_default(folder, monkeypatch):
    """For example a section with a Hub repository only."""
    monkeypatch.setenv("EMBEDTUNE_OUTPUT", "s3://bucket/runs")
    (folder / "job.yaml").write_text(
        "data: {source: pairs.jsonl}\noutput: {hub: owner/name}\n", "utf-8"
    )

    output = dry_run("job.yaml")["spec"]["output"]

    assert (output["uri"], output["hub"]) == ("s3://bucket/runs", "owner/name")


@pytest.mark.parametrize("name", ["Größe 😀.jsonl", "a: b.jsonl", "no", "2024-01-01", " x ", "'q'"])
def test_any_path_is_passed_on_unchanged(folder, name):
    """A file with any name is found and becomes the channel."""
    (folder / name).touch()
    document = dry_run("--data", name, "--model", name, "--output", name, "--name", "n")
    spec = document["spec"]
    assert [spec["data"]["source"], spec["model"]["base"], spec["output"]["uri"]] == [name] * 3
    assert document["request"]["inputs"] == {"data": name, "model": name}


def test_options_override_set_which_overrides_the_job_file(folder):
    """Other fields of the job file are kept, and override the preset."""
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
    """The launcher lists them without importing the spec."""
    option = next(option for option in main.commands["launch"].params if option.name == "preset")
    assert list(option.type.choices) == list(PRESETS)


def test_a_job_file_may_be_json(folder):
    """The resolved spec of a run, or of a dry run, is a job file."""
    spec = dry_run("--data", "pairs.jsonl", "--set", "model.name=Größe 😀")["spec"]
    (folder / "spec.json").write_text(json.dumps(spec), "utf-8")
    assert dry_run("spec.json")["spec"] == spec


def test_a_run_without_a_name_is_named_after_its_model(folder):
    """The folder's name contains the model and the time."""
    document = dry_run("--data", "pairs.jsonl", "--model", "BAAI/bge-small-en-v1.5")
    name = document["request"]["environment"]["TRAINING_JOB_NAME"]
    assert re.fullmatch(r"bge-small-en-v1-5-\d{8}-\d{6}-[0-9a-f]{4}", name)
    assert document["request"]["argv"][-1] == f"runs/{name}/.work"


# Refused launches.

# Arguments, and a part of the error message.
REFUSED = [
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
def test_an_invalid_spec_is_exit_code_3_and_leaves_nothing(folder, arguments, part):
    """A one-line error that says how to fix it, and no run folder."""
    (folder / "latin.yaml").write_bytes("model: {name: Größe}\n".encode("latin-1"))
    before = sorted(folder.rglob("*"))
    code, out, err = run("launch", *arguments)
    assert (code, out, len(err.splitlines())) == (3, "", 1)
    assert part in err
    assert sorted(folder.rglob("*")) == before


def test_a_launch_of_nothing_names_four_ways_to_begin(folder):
    """A file of pairs, documents, a job file and the demo, as commands; it is wrong usage."""
    before = sorted(folder.rglob("*"))
    code, out, err = run("launch")
    assert (code, out) == (2, "")
    commands = re.findall(r"(?m)^    embedtune ((?:.*\\\n)*.*)$", err)
    words = ["launch", "launch", "init", "launch", "launch"]
    assert [line.split()[0] for line in commands] == words
    assert max(map(len, err.splitlines())) <= 80
    assert sorted(folder.rglob("*")) == before
    pairs, documents, _, _, demo = (shlex.split(line.replace("\\\n", " ")) for line in commands)
    assert dry_run(*pairs[1:])["spec"]["data"]["source"] == "pairs.jsonl"
    assert dry_run(*documents[1:])["spec"]["data"]["documents"] == "docs/"
    assert dry_run(*demo[1:])["spec"]["model"]["base"] == "builtin:minilm"
    # Any option is an attempt to launch something.
    assert run("launch", "--backend", "process")[0] == 3


# Listing.


def test_all_commands_use_the_default_output(folder, monkeypatch):
    """`EMBEDTUNE_OUTPUT`, unless there is `--output`; `ls` without any runs exits with 0."""
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
    """A run without its report is listed without scores."""
    for name in ("damaged", "other"):
        (folder / "runs" / name / ".work").mkdir(parents=True)
    (folder / "runs" / "damaged" / "manifest.json").write_text("{}", "utf-8")
    code, out, _ = run("ls")
    assert code == 0
    rows = [line.split()[:2] for line in out.splitlines()[1:]]
    assert sorted(rows) == [["damaged", "finished"], ["other", "unfinished"]]


def test_a_run_of_the_version_before_is_reported(folder):
    """With its own verdict; gates are decided by the numbers that it has."""
    old = folder / "runs" / "old"
    (old / "report").mkdir(parents=True)
    (old / "manifest.json").write_text("{}", "utf-8")
    shutil.copy(reports.GOLDEN / "before.json", old / "report" / "report.json")
    code, out, err = run("report", "old", "--require", "improved")
    assert (code, err) == (0, "")
    report, text = reports.before(), " ".join(out.split())
    assert report["verdict"]["sentence"] in text
    assert report["recommendation"]["sentence"] in text
    assert run("report", "old", "--require", "lift>0.9")[0] == 9
    assert "0.000 → 0.596 at 32  yes" in run("ls")[1]


# check.


def test_check_runs_the_jobs_check(folder):
    """The launcher passes on settings, output and exit code."""
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
    """`--set` accepts the defaults as the generated table shows them."""
    settings = [f"{name}={default}" for name, default, _ in field_rows()]
    options = [part for setting in settings for part in ("--set", setting)]
    expected = build_spec({"data": {"source": "pairs.jsonl"}}).model_dump(mode="json")
    assert dry_run("--data", "pairs.jsonl", *options)["spec"] == expected
