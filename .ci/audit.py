"""List known vulnerabilities of the image's packages, and write its SBOM.

Run `python .ci/audit.py SBOM`. Exit codes: 0 (no advisories), 1 (advisories, printed) or 3 (no
advisory database could be reached, so nothing was checked).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent.parent / "container" / "locks"
# Packages of the GPU image; the CPU image has fewer.
IMAGE = [LOCKS / f"{name}.txt" for name in ("torch", "train", "demo")]
BIN = Path(sys.executable).parent
NO_SOURCE = 3


def main() -> int:
    write_sbom(Path(sys.argv[1]))
    found = audit_image()
    if found is None:
        print("audit: no advisory database could be reached; nothing was checked.")
        return NO_SOURCE
    vulnerabilities = [(package, each) for package in found for each in package.get("vulns", ())]
    for package, each in vulnerabilities:
        fixed = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in found if "skip_reason" in package]
    print(f"audit: {len(found)} packages, {len(vulnerabilities)} advisories; skipped: {skipped}")
    return 1 if vulnerabilities else 0


def write_sbom(path: Path) -> None:
    """Write the image's packages as CycloneDX; the same locks give identical files."""
    locks = "".join(lock.read_text("utf-8") for lock in IMAGE)
    command = [str(BIN / "cyclonedx-py"), "requirements", "-", "--output-reproducible"]
    subprocess.run(  # noqa: S603  with our own files
        [*command, "--of", "JSON", "-o", str(path)], input=locks, text=True, check=True
    )
    count = len(json.loads(path.read_text("utf-8"))["components"])
    print(f"audit: wrote {count} packages to {path}")


def audit_image() -> list[dict[str, Any]] | None:
    """Query the package index, then OSV; None if neither has advisory data."""
    for service in ("pypi", "osv"):
        # pip-audit reports success for a mirror without advisory data, so first query the few
        # packages of the build.
        if any("vulns" in package for package in advisories(service, [LOCKS / "build.txt"])):
            return advisories(service, IMAGE)
    return None


def advisories(service: str, locks: list[Path]) -> list[dict[str, Any]]:
    """Return a service's entry for each locked package; empty if it does not respond."""
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
