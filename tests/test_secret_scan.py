"""`.ci/secrets` finds keys in the Git history without printing them."""

import random
import string
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCAN = ROOT / ".ci" / "secrets"
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "kingfisher").is_file(), reason="the scanner is only in .venv"
)


def drawn(count, letters):
    return "".join(random.Random(8).choices(letters, k=count))


# Generated at run time: as literals they would be found in this repository.
LETTERS = string.ascii_letters + string.digits
PLANTED = {
    "aws": f"aws_access_key_id = {'AK' + 'IA'}{drawn(16, string.ascii_uppercase + '234567')}\n"
    f"aws_secret_access_key = {drawn(40, LETTERS)}\n",
    "hugging face": f'token = "{"h" + "f_"}{drawn(34, string.ascii_letters)}"\n',
    "github": f"GITHUB_TOKEN={'gh' + 'p_'}{drawn(36, LETTERS)}\n",
}


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def scan(folder):
    return subprocess.run([SCAN, folder], check=False, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "README.md").write_text('TOKEN = "hf_PlantedToken"\n', "utf-8")
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED)
def test_a_deleted_key_is_found_in_the_history(repository, text):
    """The file is printed, but not the key."""
    (repository / "settings.py").write_text(text, "utf-8")
    git(repository, "add", "settings.py")
    git(repository, "commit", "-qm", "second")
    git(repository, "rm", "-q", "settings.py")
    git(repository, "commit", "-qm", "third")

    done = scan(repository)
    assert done.returncode != 0
    assert "settings.py" in done.stdout
    secret = text.split()[-1].partition("=")[2].strip('"') or text.split()[-1].strip('"')
    assert secret not in done.stdout + done.stderr


def test_fake_tokens_of_tests_are_not_reported(repository):
    """`hf_PlantedToken` is too short for a token."""
    done = scan(repository)
    assert done.returncode == 0, done.stdout


def test_shallow_clones_and_uncommitted_files_are_scanned(repository, tmp_path_factory):
    """The scan covers the available history and the working tree."""
    clone = tmp_path_factory.mktemp("clone") / "shallow"
    git(repository, "clone", "-q", "--depth", "1", repository.as_uri(), str(clone))
    assert scan(clone).returncode == 0
    (clone / "settings.py").write_text(PLANTED["aws"], "utf-8")
    assert scan(clone).returncode != 0
