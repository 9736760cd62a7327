"""Run the commands that messages suggest, as they are written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from job.__main__ import main

SUGGESTED = re.compile(r"`((?:embedtune check |\(printf )[^`]*)`")


def commands_in(message):
    """Return the commands in a message, in their order."""
    return SUGGESTED.findall(message)


def run_command(command, *settings):
    """Run a suggested command, with more settings, which must succeed; returns its output."""
    more = [part for setting in settings for part in ("--set", setting)]
    if command.startswith("("):
        # Only a shell can run it; the command of this interpreter comes first.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        typed = shlex.join(more).join([f"{command} ", ""])
        environment = os.environ | {"PATH": path}
        done = subprocess.run(
            typed, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        code, output = done.returncode, done.stdout + done.stderr
    else:
        result = CliRunner().invoke(main, [*shlex.split(command)[1:], *more])
        code, output = result.exit_code, result.output
    assert code == 0, f"{command}\n{output}"
    return output
