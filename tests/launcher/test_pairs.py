"""`embedtune pairs`: its options become settings of the spec."""

import json
import sys

import click
import pytest
from click.testing import CliRunner

from job.core.errors import SpecError, StorageError
from job.spec.generation_section import local_model
from job.spec.options import as_arguments
from job.spec.pairs_options import pairs_options, settings_of
from job.spec.parse import build_spec, parse_assignments
from launcher.aws import token_prices
from launcher.aws.token_prices import TokenPrices
from launcher.cli import main
from launcher.runs.run import Run


def parsed(*arguments):
    """Return the options of a command line, as a command gets them."""
    given = {}
    command = click.command()(pairs_options(lambda **options: given.update(options)))
    command.main([*arguments], standalone_mode=False)
    return given


def spec_of(*arguments):
    return build_spec({}, parse_assignments(settings_of(parsed(*arguments))))


def test_options_are_settings_and_files_their_texts(tmp_path):
    prompt, examples = tmp_path / "prompt.md", tmp_path / "questions.txt"
    prompt.write_text('Ask: "{text}"\n', "utf-8")
    examples.write_text("vpn slow\n\n  Wie geht's? \n", "utf-8")
    given = ["--llm=openai:m", "--llm-url=http://x/v1/", "--model=m/base", "--limit=5"]
    given += ["--max-cost=1.5", "--price-per-million-tokens=0.15,0.6", "--judge=openai:j"]
    given += ["--judge-price-per-million-tokens=1,2", "--set", "generation.concurrency=3"]
    given += [f"--prompt={prompt}", f"--examples={examples}"]
    spec = spec_of(*given)
    assert spec.model.base == "m/base"
    expected = {"llm": "openai:m", "llm_url": "http://x/v1/", "limit": 5, "max_cost": 1.5}
    expected |= {"prompt": 'Ask: "{text}"\n', "examples": ("vpn slow", "Wie geht's?")}
    expected |= {"input_price": 0.15, "output_price": 0.6, "judge": "openai:j"}
    expected |= {"judge_input_price": 1, "judge_output_price": 2, "concurrency": 3}
    assert spec.generation == spec.generation.model_copy(update=expected)


def test_options_that_are_not_given_set_nothing():
    assert settings_of(parsed("--llm=openai:m")) == ['generation.llm="openai:m"']


def test_the_job_gets_the_options_as_they_were_given():
    given = ["--llm=-odd", "--set=a.b=1", "--set=c.d=[1, 2]", "--dry-run", "--max-cost=2"]
    given += ["--price-per-million-tokens=1,2", "--to=some file.jsonl", "--device=cpu"]
    options = parsed(*given)
    assert parsed(*as_arguments(options)) == options


@pytest.mark.parametrize("price", ["1", "1,2,3", "a,b"])
def test_a_price_is_two_numbers(price):
    given = ["pairs", "docs", "--llm", "openai:m", "--price-per-million-tokens", price]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "0.15,0.60" in done.stderr


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    given = parsed("--llm=openai:m", f"--prompt={tmp_path / 'gone.md'}")
    with pytest.raises(StorageError, match=r"gone\.md.*--prompt"):
        settings_of(given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("local:me/model", ("me/model", None)),
        ("local:me/model@v1.0", ("me/model", "v1.0")),
        ("local:./me/model@v1", ("./me/model@v1", None)),
        ("local:/models/a@b", ("/models/a@b", None)),
        ("local:s3://box/model", ("s3://box/model", None)),
        ("openai:me/model@v1", None),
    ],
)
def test_a_local_model_is_a_hub_id_with_a_revision_or_a_place(name, expected):
    assert local_model(name) == expected


def test_examples_and_a_prompt_of_windows_begin_with_their_first_letter(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("vpn {text}\r\n", "utf-8-sig")
    found = spec_of("--llm=openai:m", f"--examples={path}", f"--prompt={path}").generation
    assert (found.examples, found.prompt) == (("vpn {text}",), "vpn {text}\n")


def test_an_examples_file_without_a_question_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n", "utf-8")
    given = parsed("--llm=openai:m", f"--examples={tmp_path / 'empty.txt'}")
    with pytest.raises(StorageError, match=r"empty\.txt.*no line"):
        settings_of(given)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (["--documents", "DOCS", "--llm", "bedrok:nova"], "`bedrok:nova`; expected `openai:MODEL`"),
        (["--documents", "DOCS", "--llm", "local:"], "`local:`; expected"),
        (["--data", "builtin:aws-docs", "--llm", "openai:m"], "`--documents`"),
    ],
)
def test_a_launch_refuses_a_model_that_cannot_write_before_it_starts(tmp_path, given, wrong):
    (tmp_path / "a.md").write_text("Words.", "utf-8")
    words = [str(tmp_path) if word == "DOCS" else word for word in given]
    done = CliRunner().invoke(main, ["launch", *words, "--output", str(tmp_path / "runs")])
    assert done.exit_code == SpecError.exit_code
    assert wrong in done.stderr
    assert not (tmp_path / "runs").exists()


BEDROCK = ["--llm", "bedrock:amazon.nova-lite-v1:0"]


def listed(monkeypatch, *prices):
    """Plant prices of Amazon Bedrock's models."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = TokenPrices(prices or None, "of this test")
    monkeypatch.setattr(token_prices, "token_prices", lambda *_: found)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [0.06, 0.24]),
        (["--price-per-million-tokens", "1,2"], [1.0, 2.0]),
        (["--set", "generation.input_price=3"], [3.0, None]),
    ],
)
def test_pairs_passes_the_listed_price_to_the_job_unless_one_is_given(
    monkeypatch, tmp_path, options, expected
):
    listed(monkeypatch, 0.06, 0.24)
    code = f"import json, sys; json.dump(sys.argv[1:], open({str(tmp_path / 'argv')!r}, 'w'))"
    monkeypatch.setattr("launcher.job_command.JOB", (sys.executable, "-c", code))
    done = CliRunner().invoke(main, ["pairs", "docs", *BEDROCK, *options])
    assert done.exit_code == 0, done.output
    command, *words, _, documents = json.loads((tmp_path / "argv").read_text("utf-8"))
    assert (command, documents) == ("pairs", "docs")
    found = spec_of(*words).generation
    assert [found.input_price, found.output_price] == expected


def test_a_run_keeps_the_prices_that_it_began_with(monkeypatch, tmp_path):
    """Otherwise its name would be refused for another spec once AWS changes a price."""
    (tmp_path / "a.md").write_text("Words.", "utf-8")
    given = ["launch", "--documents", str(tmp_path), *BEDROCK, "--name", "mine", "--dry-run"]
    given += ["--output", str(tmp_path / "runs")]

    def launched():
        done = CliRunner().invoke(main, given)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["spec"]

    listed(monkeypatch, 0.06, 0.24)
    spec = launched()
    assert spec["generation"]["input_price"] == 0.06
    stored = Run(tmp_path / "runs" / "mine").workspace.job_spec
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps(spec), "utf-8")
    listed(monkeypatch, 0.07, 0.24)
    assert launched() == spec
    given[given.index("mine")] = "other"
    assert launched()["generation"]["input_price"] == 0.07
    listed(monkeypatch)
    assert launched()["generation"]["input_price"] is None


def test_a_limit_of_the_cost_needs_a_known_price(monkeypatch, tmp_path):
    given = ["launch", "--documents", str(tmp_path), *BEDROCK, "--dry-run"]
    given += ["--set", "generation.max_cost=1"]
    (tmp_path / "a.md").write_text("Words.", "utf-8")
    listed(monkeypatch, 0.06, 0.24)
    assert CliRunner().invoke(main, given).exit_code == 0
    listed(monkeypatch)
    assert CliRunner().invoke(main, given).exit_code == SpecError.exit_code


@pytest.mark.parametrize("more", [[], ["--llm", "openai:m", "--data", "pairs.jsonl"]])
def test_documents_without_a_model_or_beside_pairs_are_refused_at_once(tmp_path, more):
    done = CliRunner().invoke(main, ["launch", "--documents", str(tmp_path), *more, "--dry-run"])
    assert done.exit_code == SpecError.exit_code
    assert "`data.documents`" in done.stderr


def test_pairs_ends_with_the_exit_code_of_the_job_like_the_other_commands(monkeypatch):
    """`run_job` waits for the command; its own tests send the signal."""
    code = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr("launcher.job_command.JOB", (sys.executable, "-c", code))
    done = CliRunner().invoke(main, ["pairs", "docs", "--llm", "openai:m"])
    assert done.exit_code == 137


def test_documents_are_data_to_launch(tmp_path):
    (tmp_path / "a.md").write_text("Words.", "utf-8")
    given = ["launch", "--documents", str(tmp_path), "--llm", "openai:m", "--dry-run"]
    done = CliRunner().invoke(main, [*given, "--llm-url", "http://localhost:8000/v1"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["spec"]["data"]["documents"] == str(tmp_path)
    assert document["spec"]["generation"]["llm"] == "openai:m"
    assert document["request"]["inputs"] == {"documents": str(tmp_path)}


def test_the_folder_of_a_local_model_is_an_input_of_the_run(tmp_path):
    documents, model = tmp_path / "docs", tmp_path / "model"
    for folder, name in ((documents, "a.md"), (model, "config.json")):
        folder.mkdir()
        (folder / name).write_text("{}", "utf-8")
    given = ["launch", "--documents", str(documents), "--llm", f"local:{model}", "--dry-run"]
    done = CliRunner().invoke(main, [*given, "--set", "generation.judge=local:me/model@v1"])
    assert done.exit_code == 0, done.output
    inputs = json.loads(done.stdout)["request"]["inputs"]
    assert inputs == {"documents": str(documents), "llm": str(model)}
