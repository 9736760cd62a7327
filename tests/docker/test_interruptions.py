"""Containers that are stopped or killed in every phase: the same result in the end."""

import json

import pytest
from containers import ONE_THREAD, docker
from docker_desk import Desk
from held_job import HOLDS, PHASES, SETTINGS, Hold, outcome, work_of, work_when_cut

from job.errors import BackendError, Interrupted

pytestmark = pytest.mark.docker

# Where a container finds what holds it, and the folder by which it is told where.
HOLDING = (
    *("--volume", f"{HOLDS}:/holds:ro", "--env", "PYTHONPATH=/holds"),
    *("--env", "HOLD=/opt/ml/hold"),
)
LAST = list(PHASES)[-1]


@pytest.fixture(scope="module")
def whole(image, tmp_path_factory, pairs_file, tiny_encoder):
    """What a run leaves that nobody cuts."""
    folder = tmp_path_factory.mktemp("whole") / "desk"
    place = Desk(folder, image, epochs=3, pairs=pairs_file, encoder=tiny_encoder)
    start(place)
    assert docker("wait", *place.containers()).stdout == "0\n"
    assert place.run("status", "r").returncode == 0
    return result(place)


def result(place):
    return outcome(lambda name: (place.results / name).read_bytes())


def stored(place):
    files = ("report/report.json", "manifest.json")
    return tuple((place.results / file).is_file() for file in files)


def start(place, *more):
    """Run the launcher's own `docker run`, with more options."""
    dry = place.run(*place.launch(*SETTINGS, "--dry-run"))
    assert dry.returncode == 0, dry.stderr
    _, run, *options = json.loads(dry.stdout)["request"]["argv"]
    started = docker(run, *ONE_THREAD, *more, *options)
    assert started.returncode == 0, started.stdout


def cut_everywhere(place, command):
    """Start a run's container and cut it, in one phase after the other.

    Returns by phase what the run's folder held and the noted exit code, and the log of all starts.
    """
    workspace = place.results / ".work"
    hold, found, log = Hold(workspace / "hold"), {}, ""
    for phase in PHASES:
        hold.at(phase)
        start(place, *HOLDING)
        hold.await_job()
        files = stored(place)
        docker(*command, *place.containers())
        # Whoever looks notes the end.
        assert place.run("status", "r").returncode == 0
        found[phase] = (*files, place.receipt()["exit_code"])
        log += (workspace / "container.log").read_text("utf-8")
    return found, log


@pytest.mark.parametrize(
    ("command", "code", "goes_on_at"),
    [
        pytest.param(("stop", "--time", "60"), Interrupted.exit_code, 12, id="SIGTERM"),
        # After the last checkpoint that is whole, of step 9.
        pytest.param(("kill",), BackendError.exit_code, 10, id="SIGKILL"),
    ],
)
def test_a_container_that_is_cut_in_every_phase_ends_as_if_it_had_not_been(
    desk, whole, command, code, goes_on_at
):
    """No manifest before the end, each time the code of the table, nothing done twice."""
    place = desk(epochs=3)
    found, log = cut_everywhere(place, command)
    assert found == {phase: (phase == LAST, False, code) for phase in PHASES}

    done = place.run(*place.launch(*SETTINGS))

    assert done.returncode == 0, done.stderr
    assert result(place) == whole
    # The last start finds all made, and publishes it.
    assert work_of(log + done.stderr) == work_when_cut(goes_on_at, starts=len(PHASES))
    assert "Traceback" not in log + done.stderr
    assert place.containers() == []
