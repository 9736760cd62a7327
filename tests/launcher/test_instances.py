"""`embedtune launch --backend sagemaker --instances 2` runs one job on two machines."""

import json
import re

import pytest

from launcher.backends.sagemaker.context import SECURITY_GROUP_NOTE

PRICE = 1.515
TWO = ("--instances", "2", "--max-cost", "20")
# Fails on the second host only.
HALF = (
    "import json, sys; from pathlib import Path; "
    "me = json.loads(Path('input/config/resourceconfig.json').read_text())['current_host']; "
    "print('of', me); Path('output/failure').write_text('no room'); "
    "sys.exit(6 if me == 'algo-2' else 0)"
)


def report_of(account, name):
    return json.loads(account.server.s3.get("box", f"runs/{name}/report/report.json"))


def tuned(report):
    return {
        dimension: scores["float32"]["ndcg@10"]
        for dimension, scores in report["scores"]["tuned"].items()
    }


def test_two_machines_train_the_same_model_as_one(account, tmp_path):
    """They write one report, with the same scores up to floating-point order."""
    one, two = (
        account.start_launch(tmp_path, name, *options)
        for name, options in (("one", ()), ("two", TWO))
    )
    alone, together = account.finish(one), account.finish(two)
    assert alone.code == 0, alone.err
    assert together.code == 0, together.err
    assert account.server.jobs["two"].host_codes == [{"algo-1": 0, "algo-2": 0}]
    scores = [tuned(report_of(account, name)) for name in ("one", "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    assert "2 × ml.g5.2xlarge for at most 4 h: at most $12.12" in together.err
    assert re.search(r"(?m)^algo-1: .* train: step=", together.err)
    billed = account.server.jobs["two"].describe()["BillableTimeInSeconds"]
    assert f"Cost: ${2 * PRICE * billed / 3600:.4f}, {billed} s billed" in together.err
    # A launch says so beforehand.
    assert "2 GPUs are hardly worth it: about " in together.err
    assert "hardly worth it" not in alone.err


def test_a_failure_on_any_machine_fails_the_job(account, tmp_path):
    done = account.launch(tmp_path, "half", *TWO, "--env", f"PROGRAM={HALF}")
    assert (done.code, done.last_line) == (6, "Error: no room")
    assert {line for line in done.err.splitlines() if "of algo" in line} == {
        "algo-1: of algo-1",
        "algo-2: of algo-2",
    }


def test_a_launch_in_a_vpc_warns_that_machines_must_reach_each_other(account, tmp_path):
    """Security groups are not checked; if they block, machines wait until the time limit."""
    network = ("--subnet", "subnet-1", "--security-group", "sg-1")
    quiet = ("--detach", "--env", "PROGRAM=0")
    said = {
        name: account.launch(tmp_path, name, *network, *quiet, *options)
        for name, options in (("near", ()), ("far", TWO))
    }
    assert [done.code for done in said.values()] == [0, 0]
    assert SECURITY_GROUP_NOTE in said["far"].err.splitlines()
    assert SECURITY_GROUP_NOTE not in said["near"].err.splitlines()
