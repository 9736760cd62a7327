"""The image's contents, and its guarantees for `docker run`."""

import json

import pytest
from containers import docker

pytestmark = pytest.mark.docker

# An owner of the mounted folder without an entry in the image's /etc/passwd.
STRANGER = "1234:1234"
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")


def test_the_image_has_labels_and_starts_the_job_by_default(image):
    """It has an entrypoint in exec form, which receives signals, and the command `train`."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image).stdout)
    origin = {f"org.opencontainers.image.{key}" for key in ("source", "revision", "licenses")}
    assert config["Labels"].keys() >= {*origin, "embedtune.spec-version"}
    assert config["Entrypoint"] == ["embedtune-entrypoint"]
    assert config["Cmd"] == ["train"]
    assert config["WorkingDir"] == "/opt/ml"


def test_the_image_contains_only_what_a_job_needs(containers):
    """No compilers, caches, tests, secrets, pip in the venv, or setuid programs except Debian's."""
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


def test_the_images_packages_are_compatible_and_can_be_imported(containers):
    """`pip check` passes; packages for development and the launcher only are absent."""
    containers.shell(
        """
        /usr/local/bin/pip --python /opt/venv/bin/python check
        python -c 'import torch, sentence_transformers, datasets, boto3, bm25s, tensorboard'
        for name in moto pytest sagemaker; do ! python -c "import $name" 2> /dev/null; done
        """
    )


def test_commands_without_a_run_need_no_mount(containers):
    """`docker run IMAGE --help`, `schema` and `check DATA` need neither mount nor network."""
    shown = containers.run(command=("--help",)).output
    assert '--volume "$PWD/work":/opt/ml' in shown
    assert "input/config/hyperparameters.json" in shown
    schema = json.loads(containers.run(command=("schema",)).output)
    assert "training" in schema["properties"]
    check = containers.run(command=("check", "builtin:aws-docs"))
    assert (check.code, check.output.splitlines()[-1]) == (0, "Ready to train.")


def test_root_switches_to_the_owner_of_the_folder(containers, mount):
    """With hyperparameters.json only, no network and a read-only root, results are the owner's."""
    work = mount(STRANGER)
    job = containers.run(*work.options, *READ_ONLY)
    assert job.code == 0, job.output
    assert work.owners() == {STRANGER}
    assert work.report()["training"]["steps"] > 0
    assert "nDCG@10" in containers.run(*work.options, command=("report",)).output
    assert (work.folder / "output/data/manifest.json").is_file()
    # A launcher under another user can read the file.
    assert (work.folder / "model/model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("owner", "options"),
    [
        # On SageMaker root owns the folders.
        ("0:0", ()),
        # Without an entry in /etc/passwd, and without any capability.
        (
            STRANGER,
            (
                *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
                *(*READ_ONLY, "--user", STRANGER),
            ),
        ),
    ],
)
def test_any_user_can_run_the_job_on_their_folder(containers, mount, owner, options):
    work = mount(owner, training__epochs="0")
    job = containers.run(*work.options, *options)
    assert job.code == 0, job.output
    assert work.owners() == {owner}


def test_a_folder_without_write_permission_is_one_line(containers, mount):
    """The user of `--user` needs write permission."""
    job = containers.run(*mount("0:0").options, "--user", STRANGER)
    assert job.code == 6
    (line,) = job.output.splitlines()
    assert line.startswith("Error: The workspace `/opt/ml` cannot be written: Permission denied.")
