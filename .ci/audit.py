"""Known holes in what the image installs, and its bill of materials: `python .ci/audit.py SBOM`.

Exits with 0 (no advisory), 1 (advisories, which are printed) or 3 (no source of advisories answers
from here: nothing was checked, which is not the same as nothing found).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent.parent / "container" / "locks"
# The GPU image's packages; a CPU's image has fewer.
IMAGE = [LOCKS / f"{name}.txt" for name in ("torch", "train", "demo")]
BIN = Path(sys.executable).parent
NO_SOURCE = 3


def main() -> int:
    write_sbom(Path(sys.argv[1]))
    found = ask()
    if found is None:
        print("audit: no source of advisories answers from here; nothing was checked.")
        return NO_SOURCE
    holes = [(package, hole) for package in found for hole in package.get("vulns", ())]
    for package, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "none yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in found if "skip_reason" in package]
    print(f"audit: {len(found)} packages, {len(holes)} advisories; not known there: {skipped}")
    return 1 if holes else 0


def write_sbom(path: Path) -> None:
    """Write the image's packages as CycloneDX; the same locks give the same bytes."""
    locks = "".join(lock.read_text("utf-8") for lock in IMAGE)
    command = [str(BIN / "cyclonedx-py"), "requirements", "-", "--output-reproducible"]
    subprocess.run(  # noqa: S603  with our own files
        [*command, "--of", "JSON", "-o", str(path)], input=locks, text=True, check=True
    )
    count = len(json.loads(path.read_text("utf-8"))["components"])
    print(f"audit: {count} packages are in {path}")


def ask() -> list[dict[str, Any]] | None:
    """Ask the package index, or else OSV; nothing where neither knows our packages."""
    for service in ("pypi", "osv"):
        # A mirror without advisories knows no package, and pip-audit calls that success: the
        # few of the build tell.
        if any("vulns" in package for package in advisories(service, [LOCKS / "build.txt"])):
            return advisories(service, IMAGE)
    return None


def advisories(service: str, locks: list[Path]) -> list[dict[str, Any]]:
    """Return what a service knows of each locked package; nothing where it does not answer."""
    command = [str(BIN / "pip-audit"), "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", service, "--format", "json"]
    command += [part for lock in locks for part in ("--requirement", str(lock))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return []
    return found


if __name__ == "__main__":
    sys.exit(main())
