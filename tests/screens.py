"""A terminal for tests: runs a command in it, types keys, resizes it, and reads the screen."""

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte

# Makes the terminal the one that controls the command, so that Ctrl-C reaches it.
CONTROLLED = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
# A drawing is complete if nothing more arrives for this long.
QUIET_SECONDS = 0.1


class Screen:
    """A command in a terminal; `pictures` are the screens between two drawings."""

    def __init__(self, command, folder, environment, columns=80, rows=40):
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.pictures = []
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", CONTROLLED, *map(str, command)],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment,
        )  # fmt: skip
        os.close(theirs)

    def resize(self, columns, rows=40):
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    def type(self, keys):
        os.write(self._ours, keys.encode())

    @property
    def lines(self):
        """The lines on the screen, without the empty ones below the last."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def is_cursor_visible(self):
        return not self._screen.cursor.hidden

    def wait_for(self, text, seconds=300):
        """Wait until a text is on the screen."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, self.lines
            assert self._read(), self.lines

    def finish(self):
        """Read until the command ends; return its exit code."""
        while self._read():
            pass
        os.close(self._ours)
        return self.process.wait(timeout=60)

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def _read(self):
        """Read what the command has written, if anything; return whether it may write more."""
        ready, _, _ = select.select([self._ours], [], [], QUIET_SECONDS)
        if not ready:
            if not self.pictures or self.pictures[-1] != self.lines:
                self.pictures.append(self.lines)
            return True
        try:
            data = os.read(self._ours, 65_536)
        except OSError:
            # Linux reports the end of the last writer in this way.
            data = b""
        self._stream.feed(self._decode(data))
        return bool(data)
