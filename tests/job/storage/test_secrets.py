"""The Hub token from a secret reaches the Hub client, and never a message or log."""

import json
import os
import sys

import boto3
import pytest
from click.testing import CliRunner
from sagemaker_server import SageMaker

from job.__main__ import main
from job.core.errors import StorageError
from job.storage.secrets import use_hub_token, use_llm_key

TOKEN = "hf_PlantedToken"


@pytest.fixture(scope="module")
def server():
    with SageMaker([sys.executable, "-c", ""]) as server:
        yield server


@pytest.fixture
def make_secret(server, monkeypatch):
    """Create a secret in another region than this process's; return its ARN."""
    monkeypatch.setenv("HF_TOKEN", "")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.s3.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager", "eu-west-1")
    made = []

    def make(**content):
        made.append(client.create_secret(Name=f"hub-{len(made)}", **content)["ARN"])
        return made[-1]

    yield make
    for arn in made:
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    client.close()


@pytest.mark.parametrize("text", [TOKEN, f"  {TOKEN}\n"])
def test_the_token_is_set_in_the_environment(make_secret, text):
    """Read in the region of the ARN, without surrounding whitespace."""
    use_hub_token(make_secret(SecretString=text))
    assert os.environ["HF_TOKEN"] == TOKEN


def test_a_language_models_key_is_set_in_the_environment(make_secret, monkeypatch):
    monkeypatch.setenv("EMBEDTUNE_LLM_KEY", "")
    use_llm_key(make_secret(SecretString="sk-Planted/+=key\n"))
    assert os.environ["EMBEDTUNE_LLM_KEY"] == "sk-Planted/+=key"
    with pytest.raises(StorageError, match="is not a plain token"):
        use_llm_key(make_secret(SecretString='{"key":"sk"}'))


@pytest.mark.parametrize("text", [json.dumps({"HF_TOKEN": TOKEN}), f"{TOKEN} {TOKEN}", "", "ä"])
def test_a_secret_that_is_not_a_plain_token_is_refused_without_showing_it(make_secret, text):
    """The client's own error would show the invalid header."""
    arn = make_secret(SecretString=text or " ")
    with pytest.raises(StorageError) as raised:
        use_hub_token(arn)
    assert f"`{arn}` is not a plain token" in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert os.environ["HF_TOKEN"] == ""


ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:none-AbCdEf"


@pytest.mark.parametrize(
    ("arn", "kind"),
    [(ARN, "ResourceNotFoundException"), ("no-arn", "NoRegionError"), (None, "KeyError")],
    ids=["missing", "no ARN", "bytes"],
)
def test_a_secret_that_cannot_be_read_is_an_error_of_one_line(make_secret, monkeypatch, arn, kind):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    arn = arn or make_secret(SecretBinary=TOKEN.encode())
    with pytest.raises(StorageError, match=rf"`{arn}` \({kind}\)[^\n]*$"):
        use_hub_token(arn)


def test_the_job_ends_with_the_line_in_its_failure_file(make_secret, tmp_path):
    """SageMaker shows that file; the job fails before it reads any data or model."""
    arn = make_secret(SecretString="{}")
    arguments = ["train", "--workspace", str(tmp_path), "--hf-token-secret", arn]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == StorageError.exit_code
    line = (tmp_path / "output" / "failure").read_text("utf-8")
    assert line.startswith(f"The secret `{arn}` is not a plain token")
    assert done.stderr == f"Error: {line}"
