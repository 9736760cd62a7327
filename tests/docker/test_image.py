"""What is in the image, and what `docker run` can rely on."""

import json
import re

import pytest
from containers import docker

pytestmark = pytest.mark.docker

# An owner of the mounted folder whom the image does not know.
STRANGER = "1234:1234"
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")


def test_it_says_where_it_comes_from_and_starts_the_job_by_default(image):
    """Labels, an entrypoint that signals pass through, `train` where nothing is said."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image).stdout)
    origin = {f"org.opencontainers.image.{key}" for key in ("source", "revision", "licenses")}
    assert config["Labels"].keys() >= {*origin, "embedtune.spec-version"}
    assert config["Entrypoint"] == ["embedtune-entrypoint"]
    assert config["Cmd"] == ["train"]
    assert config["WorkingDir"] == "/opt/ml"


def test_it_holds_nothing_that_a_job_does_not_need(containers):
    """No compilers, caches, tests, secrets, no pip in the venv, no setuid program but Debian's."""
    too_much = containers.shell(
        """
        find /opt/venv -name tests -o -name pip -o -perm -o+w ! -type l -o ! -user 0
        find /opt /root /tmp -name .cache -o -name '*.whl'
        find /tmp /opt /opt/ml -mindepth 1 -maxdepth 1 ! -name ml ! -name venv
        find /etc/pip.conf /src /requirements.txt /wheels 2> /dev/null || true
        which cc gcc g++ clang make ld git || true
        find / -xdev -perm /6000 -type f -printf '*/%f\\n' | xargs dpkg -S 2>&1 > /dev/null || true
        """
    )
    assert too_much == ""


def test_its_packages_fit_and_work(containers):
    """`pip check` is content, the heavy packages load, and what only a laptop uses is not there."""
    containers.shell(
        """
        /usr/local/bin/pip --python /opt/venv/bin/python check
        python -c 'import torch, sentence_transformers, datasets, boto3, bm25s, tensorboard'
        for name in moto pytest sagemaker; do ! python -c "import $name" 2> /dev/null; done
        """
    )


def test_what_needs_no_folder_works_without_one(containers):
    """`docker run IMAGE --help`, `schema` and `check DATA`, with nothing mounted and no network."""
    shown = containers.run(command=("--help",)).output
    assert '--volume "$PWD/work":/opt/ml' in shown
    assert "input/config/hyperparameters.json" in shown
    schema = json.loads(containers.run(command=("schema",)).output)
    assert "training" in schema["properties"]
    check = containers.run(command=("check", "builtin:aws-docs"))
    assert (check.code, check.output.splitlines()[-1]) == (0, "Ready to train.")


def test_root_works_as_the_owner_of_the_folder(containers, mount):
    """Nothing but hyperparameters.json, no network, a read-only root: results are the owner's."""
    work = mount(STRANGER)
    job = containers.run(*work.options, *READ_ONLY)
    assert job.code == 0, job.output
    assert work.owners() == {STRANGER}
    assert work.report()["training"]["steps"] > 0
    assert "nDCG@10" in containers.run(*work.options, command=("report",)).output
    assert (work.folder / "output/data/manifest.json").is_file()
    # A launcher under another user can read it too.
    assert (work.folder / "model/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_any_user_works_on_a_folder_of_its_own(containers, mount):
    """`--user` without an entry in /etc/passwd, and without a single capability."""
    work = mount(STRANGER, training__epochs="0")
    bare = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    job = containers.run(*work.options, *READ_ONLY, *bare, "--user", STRANGER)
    assert job.code == 0, job.output
    assert work.owners() == {STRANGER}


def test_root_stays_root_on_its_own_folder(containers, mount):
    """SageMaker's folders belong to root."""
    work = mount("0:0", training__epochs="0")
    job = containers.run(*work.options)
    assert job.code == 0, job.output
    assert work.owners() == {"0:0"}


def test_a_folder_that_cannot_be_written_is_a_clear_error(containers, mount):
    """The user given by `--user` must be able to write the folder."""
    job = containers.run(*mount("0:0").options, "--user", STRANGER)
    line = (
        "Error: The workspace `/opt/ml` cannot be written: Permission denied. Give the job a "
        "folder that it may write, with `--workspace` or as the volume `/opt/ml`.\n"
    )
    assert (job.code, job.output) == (6, line)


def test_stopped_in_mid_training_it_goes_on_from_there(containers, mount):
    """`docker stop` leaves a checkpoint and exit code 10; a second start takes it up."""
    work = mount(STRANGER, training__epochs="2", training__batch_size="32")
    first = containers.run(*work.options, "--detach")
    assert first.says("train: step="), first.log()
    process = docker("exec", first.name, "cat", "/proc/1/cmdline").stdout
    docker("stop", "--time", "60", first.name)
    assert first.state()["ExitCode"] == 10, first.log()
    failure = (work.folder / "output/failure").read_text("utf-8")
    interrupted = r"The run was interrupted after step (\d+) of 20\. Launch it again .*\n"
    step = int(re.fullmatch(interrupted, failure)[1])

    second = containers.run(*work.options)
    assert second.code == 0, second.output
    assert work.report()["training"]["resumed_from_step"] == step
    assert not (work.folder / "output/failure").exists()
    assert process.split("\0")[:4] == ["python", "-P", "-m", "job"]


def test_a_full_disk_is_the_machines_fault(containers, mount):
    """The model does not fit: exit code 6, not a bug of ours."""
    inputs = f"{mount(STRANGER, training__epochs='0').folder}/input:/opt/ml/input:ro"
    small = ("--tmpfs", "/opt/ml:size=20m", "--volume", inputs)
    job = containers.run(*small)
    line = "Error: The disk is full; free some space and launch the run again."
    assert (job.code, job.output.splitlines()[-1]) == (6, line), job.output


def test_out_of_memory_is_told_from_a_kill(containers, mount):
    """The kernel's SIGKILL leaves 137, and Docker knows why."""
    job = containers.run(*mount("0:0").options, "--memory", "300m", "--memory-swap", "300m")
    assert job.code == 137, job.output
    assert job.state()["OOMKilled"]


def test_a_gpu_asked_of_the_job_where_none_is(containers, mount):
    """The job names what it found and what to do."""
    job = containers.run(*mount("0:0").options, "--env", "EMBEDTUNE_DEVICE=cuda")
    line = "Error: The device `cuda` is not usable here (found: cpu). Use `--device cpu`?"
    assert (job.code, job.output.splitlines()[-1]) == (6, line)


def test_a_gpu_asked_of_an_engine_without_the_runtime(containers):
    """The engine refuses before anything starts."""
    if "nvidia" in docker("info", "--format", "{{json .Runtimes}}").stdout:
        pytest.skip("this engine has NVIDIA's runtime")
    job = containers.run("--gpus", "all")
    assert job.code == 125
    assert "could not select device driver" in job.output
