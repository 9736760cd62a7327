"""The seven commands of infra/README.md, "The first hour in a real account", on local servers."""

import re
from pathlib import Path

import pytest
from code_build import builds
from first_hour import COMMANDS, SECTION

CHECKOUT = Path(__file__).parents[2]


def test_each_command_has_a_row_with_its_cost_and_what_to_look_at():
    rows = re.findall(r"(?m)^\| (\d) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", SECTION)
    assert [number for number, *_ in rows] == [str(n) for n in range(1, len(COMMANDS) + 1)]
    assert len(COMMANDS) == 7
    assert [bool(re.search(r"\$\d", cost)) for _, cost, *_ in rows] == [
        *(False, True, False, True, True, False, False)
    ]
    # No command can meet, or delete, the stack that somebody works with.
    stacks = [c[c.index("--stack") + 1] for c in COMMANDS if c[0] != "report"]
    assert stacks == ["first-hour"] * 6


@pytest.mark.exhaustive
def test_the_commands_work_on_the_local_control_plane(account, tmp_path):
    """`launch` uses the image that was built on AWS. A program replaces the job, for its time."""
    deploy, build, doctor, on_cpu, on_gpu, _, delete = COMMANDS
    (tmp_path / "builds").mkdir()
    with builds(tmp_path / "builds"):
        assert account.run(tmp_path, *deploy).code == 0
        built = account.run(CHECKOUT, *build)
    assert built.code == 0, built.err
    digest = built.out.strip()
    assert "/first-hour@sha256:" in digest
    checked = account.run(tmp_path, *doctor)
    assert checked.code == 0, checked.err
    for command in (on_cpu, on_gpu):
        name = command[command.index("--name") + 1]
        done = account.run(tmp_path, *command, "--detach", "--env", "PROGRAM=print('ran')")
        assert done.code == 0, done.err
        assert account.server.wait(name)["TrainingJobStatus"] == "Completed"
        job = account.server.jobs[name].request
        assert job["AlgorithmSpecification"]["TrainingImage"] == digest
    assert account.server.jobs["first-gpu"].is_spot
    deleted = account.run(tmp_path, *delete)
    assert deleted.code == 0, deleted.err
    assert deleted.last_line.startswith("Deleted the bucket ")
