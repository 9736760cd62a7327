"""The commands for S3 and the Hub in launcher/README.md, run unchanged on local servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from s3_server import S3

ROOT = Path(__file__).parents[1]
README = (ROOT / "launcher" / "README.md").read_text("utf-8")
SECTION = re.search(r"## S3 and the Hugging Face Hub\n(.*?)\n## ", README, re.DOTALL)[1]
S3_BLOCK, HUB_BLOCK = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
BIN = Path(sys.executable).parent


def run_block(block, folder, environment):
    """Run a block's lines in a shell; returns each line's stdout."""
    outputs = {}
    for line in block.strip().splitlines():
        done = subprocess.run(
            line,
            shell=True,
            cwd=folder,
            env=environment | {"PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        outputs[line.split()[1]] = done.stdout
    return outputs


@pytest.fixture
def pairs_bytes(pairs_file):
    return pairs_file.read_bytes()


def test_the_s3_commands_bring_back_report_and_model(tmp_path, pairs_bytes):
    """`launch` and `report` print the same table, `ls` lists the run, `fetch` saves the model."""
    with S3() as s3:
        s3.bucket("my-bucket")
        s3.put("my-bucket", "pairs.jsonl", pairs_bytes)
        shown = run_block(S3_BLOCK, tmp_path, os.environ | s3.environment)
    assert shown["launch"].splitlines()[:8] == shown["report"].splitlines()[:8]
    assert "first" in shown["ls"]
    assert (tmp_path / "first" / "model" / "model.safetensors").is_file()


def test_the_hub_command_pushes_the_tuned_model(tmp_path, pairs_bytes, tiny_encoder):
    """Data and model come from the Hub; the tuned model is pushed with its card, private."""
    with Hub() as hub:
        hub.add("dataset", "my-org/my-pairs", {"train.jsonl": pairs_bytes})
        hub.add("model", "my-org/my-model", tiny_encoder)
        # The tiny encoder learns little at the default rate: push it whatever the verdict is.
        block = HUB_BLOCK.replace("--name", "--set output.hub_always=true --name")
        run_block(block, tmp_path, hub.environment(tmp_path / "home"))
        pushed = hub.files("my-org/my-model-tuned")
        assert hub.repos["model", "my-org/my-model-tuned"].private
    assert "model.safetensors" in pushed
    assert b"nDCG@10" in pushed["README.md"]
