"""A tiny job that is held in each phase, to be cut there, and what it must leave in the end."""

import hashlib
import json
import re
import time
from pathlib import Path

# What each phase is known by: log lines and files, at the last of which `holds/` holds the job.
PHASES = {
    "data": ("data: start",),
    "baseline": ("score base: start",),
    # All are found, and none is kept.
    "mining": ("lookalikes.part",),
    # The checkpoint of step 10 is all there but for its seal.
    "training": ("train: step=10/", "digests.json"),
    "evaluation": ("score tuned: start",),
    "report": ("report.md",),
    # The report is published, the model is not.
    "upload": ("manifest.json", "model.safetensors"),
}
HOLDS = Path(__file__).with_name("holds")
SETTINGS = (
    *("--set", "training.epochs=3", "--set", "training.checkpoint_steps=3"),
    *("--set", "training.mined_negatives=2", "--set", "evaluation.permutations=100"),
)
# Each start says it once; one that has only to publish does not.
BEGUN = "fetch: start"
BM25, TAKEN_UP = "bm25 ndcg@10: ", "score base: taken from an earlier start"
STEP = re.compile(r"train: step=(\d+)/")
# What a report tells of a run's own times and name.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


class Hold:
    """The folder by which a test and a job agree where the job waits for its signal."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder

    @property
    def environment(self):
        # A home of its own at each start would cost a list of fonts.
        fonts = {"MPLCONFIGDIR": str(self.folder)}
        return {"PYTHONPATH": str(HOLDS), "HOLD": str(self.folder)} | fonts

    def at(self, phase):
        (self.folder / "at").write_text("\n".join(PHASES[phase]), "utf-8")

    def await_job(self, seconds=300):
        """Wait until a job is held; returns its process's number, and forgets it."""
        held, deadline = self.folder / "held", time.monotonic() + seconds
        while not held.is_file():
            assert time.monotonic() < deadline, "the job never came there"
            time.sleep(0.02)
        number = int(held.read_text("utf-8"))
        held.unlink()
        return number


def outcome(read):
    """Read a result, which `read` brings by its names; each file must be what the manifest says."""
    manifest = json.loads(read("manifest.json"))
    for name, entry in manifest.items():
        assert hashlib.sha256(read(name)).hexdigest() == entry["sha256"], name
    report = json.loads(read("report/report.json"))
    same = {key: value for key, value in report.items() if key not in VOLATILE}
    digests = [manifest[n]["sha256"] for n in ("model/model.safetensors", "per_query.parquet")]
    return same, digests


def work_of(log):
    """Tell what each start of a run computed: whether it scored the base, and steps it logged."""
    return [
        (BM25 in each and TAKEN_UP not in each, [int(step) for step in STEP.findall(each)])
        for each in log.split(BEGUN)[1:]
    ]


def work_when_cut(first_step_after, starts):
    """Return what `work_of` finds of a run of 30 steps that was cut in each phase.

    The base is scored and kept once, by the start that is cut while mining.
    """
    before, after = list(range(2, 11, 2)), list(range(first_step_after, 31, 2))
    begun = [(False, []), (False, []), (True, []), (False, before), (False, after)]
    return begun + [(False, [])] * (starts - len(begun))
