"""The commands of infra/README.md, "The first hour in a real account"."""

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "infra" / "README.md").read_text("utf-8")
SECTION = re.search(r"## The first hour in a real account\n(.*?)\n## ", PAGE, re.DOTALL)[1]
BLOCK = re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1]
# The arguments of each `embedtune` command.
COMMANDS = [shlex.split(line)[1:] for line in BLOCK.strip().splitlines()]


def renamed(commands, suffix):
    """Give the runs other names: SageMaker never frees a job's name."""
    return [
        [f"{part}-{suffix}" if part in ("first-cpu", "first-gpu") else part for part in command]
        for command in commands
    ]
