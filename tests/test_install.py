"""Each install command in README.md installs a tool that runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"(?ms)^## Install\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"))[1]
BLOCK = re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1]
COMMANDS = [*BLOCK.splitlines(), *re.findall(r"or `(.+? install .+?)`", SECTION)]
# The folders into which uv and pipx install tools and their commands.
FOLDERS = ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "PIPX_HOME", "PIPX_BIN_DIR", "PIPX_MAN_DIR")


def test_the_readme_names_uv_and_pipx():
    assert [shlex.split(command)[0] for command in COMMANDS] == ["uv", "pipx"]


# A minute of downloads.
@pytest.mark.exhaustive
@pytest.mark.parametrize("command", COMMANDS)
def test_the_installed_tool_runs_alone(command, tmp_path):
    """It prints its help outside the checkout, and torch is not installed."""
    folders = {name: str(tmp_path / name.lower()) for name in FOLDERS}
    # Pinned versions, so that only our own changes can break it.
    pins = dict.fromkeys(("UV_CONSTRAINT", "PIP_CONSTRAINT"), str(ROOT / "constraints.txt"))
    found = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = os.environ | folders | pins | found
    subprocess.run(shlex.split(command), cwd=ROOT, env=environment, check=True)

    (tool,) = tmp_path.rglob("*_bin_dir/embedtune")
    shown = subprocess.run(
        [tool, "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert shown.stdout.startswith("Usage: embedtune")
    assert not [*tmp_path.rglob("site-packages/torch")]
    assert [*tmp_path.rglob("site-packages/launcher/aws/stack.yaml")]
