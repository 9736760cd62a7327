"""Jobs of SageMaker that lose their machine in every phase: the same result in the end."""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from held_job import PHASES, SETTINGS, Hold, outcome, work_of, work_when_cut

from job.errors import OutOfMemory

LAST = list(PHASES)[-1]


@dataclass
class Cuts:
    """What became of three jobs that do the same, of which two were cut in each phase in turn."""

    folder: str
    # Of each that was cut, by phase: whether report and manifest were there while it was held.
    stored: dict


def stored(account, name):
    keys = account.server.s3.keys("box", f"runs/{name}/")
    return tuple(f"runs/{name}/{file}" in keys for file in ("report/report.json", "manifest.json"))


def result(account, name):
    return outcome(lambda file: account.server.s3.get("box", f"runs/{name}/{file}"))


def with_notice(account, name, process, phase):
    """SIGTERM, as spot machines get it two minutes before their end."""
    del process, phase
    account.server.interrupt(name)


def at_once(account, name, process, phase):
    """SIGKILL of all that runs on a machine that is gone; the last time, of the job alone."""
    os.kill(process, signal.SIGSTOP)
    if phase != LAST:
        account.server.interrupt(name)
    os.killpg(process, signal.SIGKILL)


def cut_everywhere(account, folder, name, take):
    """Cut a spot job in one phase after the other; returns what was stored while it was held."""
    hold, phases, found = Hold(folder / f"hold-{name}"), list(PHASES), {}
    hold.at(phases[0])
    given = [part for each in hold.environment.items() for part in ("--env", "=".join(each))]
    started = account.launch(folder, name, "--spot", "--detach", *SETTINGS, *given)
    assert started.code == 0, started.err
    for phase, following in zip(phases, [*phases[1:], None], strict=True):
        process = hold.await_job()
        found[phase] = stored(account, name)
        # Another machine may begin as soon as this one is gone.
        if following:
            hold.at(following)
        take(account, name, process, phase)
    account.server.wait(name, timeout=120)
    return found


@pytest.fixture(scope="module")
def cuts(account, tmp_path_factory):
    """Run all three at once."""
    folder = tmp_path_factory.mktemp("cuts")
    takes = {"noticed": with_notice, "vanished": at_once}
    with ThreadPoolExecutor() as pool:
        cut = {
            name: pool.submit(cut_everywhere, account, folder, name, take)
            for name, take in takes.items()
        }
        whole = account.launch(folder, "whole", "--detach", *SETTINGS)
        assert whole.code == 0, whole.err
        account.server.wait("whole")
        return Cuts(folder, {name: found.result() for name, found in cut.items()})


def test_no_cut_leaves_a_manifest(cuts):
    """Whoever looks while the run is under way finds no result; the report comes first."""
    expected = {phase: (phase == LAST, False) for phase in PHASES}
    assert cuts.stored == {"noticed": expected, "vanished": expected}


def test_a_machine_that_is_taken_with_notice_in_every_phase_costs_nothing(account, cuts):
    """SIGTERM: code 10 each time, the same result, and no step is done twice."""
    assert account.server.jobs["noticed"].exit_codes == [*[10] * len(PHASES), 0]
    assert result(account, "noticed") == result(account, "whole")
    log = "\n".join(account.lines("noticed"))
    assert work_of(log) == work_when_cut(12, starts=len(PHASES) + 1)
    assert "Traceback" not in log


def test_a_machine_that_vanishes_in_every_phase_costs_what_no_checkpoint_held(account, cuts):
    """SIGKILL: the last time of the job alone, which fails and is taken up by its name."""
    assert account.server.jobs["vanished"].exit_codes == [137] * len(PHASES)
    status = account.run(cuts.folder, "status", "vanished").out
    assert re.search(f"exit code +{OutOfMemory.exit_code}, ", status), status
    launch = ("launch", "--backend", "sagemaker", "--name", "vanished")
    again = account.run(cuts.folder, *launch, *account.places)
    assert again.code == 0, again.err
    assert account.server.jobs["vanished-2"].exit_codes == [0]
    assert result(account, "vanished") == result(account, "whole")
    log = "\n".join([*account.lines("vanished"), *account.lines("vanished-2")])
    assert work_of(log) == work_when_cut(10, starts=len(PHASES) + 1)
    assert "`checkpoint-10` is skipped: it was not written to its end" in log
    assert "Traceback" not in log
