"""One start of a job in a process of its own, forked from one that has imported everything."""

import multiprocessing
import os
import sys
import time

# Where a job may be cut: the stages that it logs, and what comes after them.
STAGES = ("fetch", "data", "model", "score base", "train", "score tuned", "compare", "store")
AFTER = "publish"

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["job.pipeline", "datasets", "bm25s", "matplotlib.figure"])


class Start:
    """A running job; its log lines go to a file."""

    def __init__(self, workspace, name, log):
        self.log = log
        log.write_text("", "utf-8")
        arguments = ["train", "--workspace", str(workspace), "--name", name, "--device", "cpu"]
        self._process = context.Process(target=_work, args=(arguments, str(log)))
        self._process.start()

    def wait(self):
        """Wait for its end; returns the exit code."""
        self._process.join()
        return self._process.exitcode

    def wait_for(self, text):
        """Wait for a log line; returns whether it came before the job's end."""
        while self._process.is_alive():
            if text in self.log.read_text("utf-8"):
                return True
            time.sleep(0.002)
        return text in self.log.read_text("utf-8")

    def kill(self):
        """Kill it as a machine that is taken away does; returns whether it still ran."""
        running = self._process.is_alive()
        self._process.kill()
        self._process.join()
        return running and self._process.exitcode == -9

    def stop(self):
        """Ask it to stop, as a spot machine or Ctrl-C does; returns the exit code."""
        self._process.terminate()
        return self.wait()


def _work(arguments, log):
    from job.__main__ import main

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["job", *arguments]
    main()
