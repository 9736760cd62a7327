"""What a job in a container of this machine needs: the engine, the image, a GPU."""

import json
from functools import partial
from pathlib import Path

from job.core.errors import BackendError
from launcher.containers import engine
from launcher.plan.checks import CheckResult, Missing, NotNeeded, message_of, run_check, skipped


def examine_docker(image: str) -> list[CheckResult]:
    """Look for what a job in a container of this machine needs."""
    findings = [run_check("engine", _engine)]
    if findings[0].state != "ok":
        return findings + skipped(("image", "GPU"), "needs the engine")
    return [
        *findings,
        run_check("image", partial(_local_image, image)),
        run_check("GPU", _gpu_runtime),
    ]


def _engine() -> str:
    try:
        version = engine.docker("version", "--format", "{{.Server.Version}}").strip()
    except BackendError as error:
        fix = "install Docker, `sudo systemctl start docker`; `--backend process` needs none"
        raise Missing(message_of(error), fix) from None
    return f"Docker {version} answers"


def docker_client() -> str:
    try:
        return _engine()
    except Missing as missing:
        found = f"{missing.found}. Only `embedtune image build` and `push` need it"
        raise NotNeeded(found) from None


def _local_image(image: str) -> str:
    try:
        return engine.docker("image", "inspect", "--format", "{{.Id}}", image).strip()
    except BackendError as error:
        if "No such image" not in str(error):
            raise
    if "/" in image:
        msg = f"`{image}` is not here; the engine will pull it, if it can."
        raise BackendError(msg)
    found = f"there is no image `{image}` here"
    raise Missing(found, "`embedtune image build`, or `--image` with another")


def gpu_driver() -> str:
    if any(Path(device).exists() for device in engine.DEVICES):
        return "NVIDIA's driver shows a GPU"
    found = "NVIDIA's driver shows none; the job will do without"
    raise NotNeeded(found)


def _gpu_runtime() -> str:
    driver = gpu_driver()
    runtimes = json.loads(engine.docker("info", "--format", "{{json .Runtimes}}"))
    if "nvidia" in (runtimes or {}):
        return f"{driver}, and the engine has its runtime"
    # Newer engines hand GPUs out without it, so only a launch can tell.
    msg = (
        f"{driver}, but the engine lists no runtime for it. If it refuses a launch: install the "
        "NVIDIA Container Toolkit, then `nvidia-ctk runtime configure --runtime=docker`."
    )
    raise BackendError(msg)
