"""What SageMaker itself stored of a job that could not publish its results."""

from job.places import S3Place
from job.workspace import MANIFEST
from launcher.runs import Run
from launcher.training_job import ARTEFACTS

# Folders of a job's output, and where their files belong in a run.
FOLDERS = {"output/data": "", "output/model": "model/"}


def bring_home(run: Run, job: str, kms_key: str | None) -> None:
    """Copy an isolated job's results, within S3, to where every run has them; manifest last."""
    target = S3Place(run.place.uri, kms_key)
    if target.changed(MANIFEST) is not None:
        return
    for folder, prefix in FOLDERS.items():
        source = S3Place(f"{run.place.uri}/{ARTEFACTS}/{job}/{folder}")
        names = [entry.name for entry in source.files() if entry.name != MANIFEST]
        target.copy(source, {name: prefix + name for name in names})
    source = S3Place(f"{run.place.uri}/{ARTEFACTS}/{job}/output/data")
    target.copy(source, {MANIFEST: MANIFEST})
