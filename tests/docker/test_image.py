"""What is in the image, and what `docker run` can rely on."""

import json

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


@pytest.mark.parametrize(
    ("owner", "options"),
    [
        # SageMaker's folders belong to root.
        ("0:0", ()),
        # Without an entry in /etc/passwd, and without a single capability.
        (
            STRANGER,
            (
                *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
                *(*READ_ONLY, "--user", STRANGER),
            ),
        ),
    ],
)
def test_any_user_works_on_a_folder_of_its_own(containers, mount, owner, options):
    work = mount(owner, training__epochs="0")
    job = containers.run(*work.options, *options)
    assert job.code == 0, job.output
    assert work.owners() == {owner}


def test_a_folder_that_cannot_be_written_is_a_clear_error(containers, mount):
    """The user given by `--user` must be able to write the folder."""
    job = containers.run(*mount("0:0").options, "--user", STRANGER)
    assert job.code == 6
    (line,) = job.output.splitlines()
    assert line.startswith("Error: The workspace `/opt/ml` cannot be written: Permission denied.")
