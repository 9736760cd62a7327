"""`.ci/secrets` finds a key that was once committed, and shows nobody what it is."""

import random
import string
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCAN = ROOT / ".ci" / "secrets"
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "kingfisher").is_file(), reason="the scanner is in .venv alone"
)


def drawn(count, letters):
    return "".join(random.Random(8).choices(letters, k=count))


# Made while the test runs: as texts they would be found in this very repository.
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
def test_a_key_is_found_after_it_was_deleted(repository, text):
    """History keeps it; the place is named, the key is not repeated."""
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


def test_what_tests_plant_is_told_from_a_key(repository):
    """`hf_PlantedToken` is no token: none is that short."""
    done = scan(repository)
    assert done.returncode == 0, done.stdout


def test_a_shallow_clone_is_scanned_as_far_as_it_goes(repository, tmp_path_factory):
    """And so is what is not committed yet."""
    clone = tmp_path_factory.mktemp("clone") / "shallow"
    git(repository, "clone", "-q", "--depth", "1", repository.as_uri(), str(clone))
    assert scan(clone).returncode == 0
    (clone / "settings.py").write_text(PLANTED["aws"], "utf-8")
    assert scan(clone).returncode != 0
