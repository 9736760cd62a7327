"""Check what a job in a local container needs: the engine, the image, a GPU."""

import json
from functools import partial
from pathlib import Path

from job.core import drivers
from job.core.drivers import IMAGE_CUDA
from job.core.errors import BackendError
from launcher.containers import engine
from launcher.plan.checks import CheckResult, Missing, NotNeeded, message_of, run_check, skipped


def check_docker(image: str) -> list[CheckResult]:
    """Run the checks for a job in a local container."""
    engine_result = run_check("engine", _engine)
    if engine_result.state != "ok":
        return [engine_result, *skipped(("image", "GPU"), "needs the engine")]
    return [
        engine_result,
        run_check("image", partial(_local_image, image)),
        run_check("GPU", _gpu_runtime),
    ]


def _engine() -> str:
    try:
        version = engine.docker("version", "--format", "{{.Server.Version}}").strip()
    except BackendError as error:
        fix = "install Docker, `sudo systemctl start docker`, or use `--backend process`"
        raise Missing(message_of(error), fix) from None
    return f"Docker {version} is running"


def docker_client() -> str:
    """Check the engine for a launch elsewhere, which needs Docker only to build images."""
    try:
        return _engine()
    except Missing as missing:
        found = f"{missing.found}. `embedtune image build --on aws` works without it"
        raise NotNeeded(found) from None


def _local_image(image: str) -> str:
    try:
        return engine.docker("image", "inspect", "--format", "{{.Id}}", image).strip()
    except BackendError as error:
        if "No such image" not in str(error):
            raise
    if "/" in image:
        msg = f"`{image}` is not on this machine; the engine will try to pull it."
        raise BackendError(msg)
    found = f"there is no image `{image}` on this machine"
    raise Missing(found, "`embedtune image build`, or `--image` with another")


def gpu_driver() -> str:
    if any(Path(device).exists() for device in engine.DEVICES):
        return "the NVIDIA driver shows a GPU"
    found = "the NVIDIA driver shows no GPU; the job will run on the CPU"
    raise NotNeeded(found)


def _gpu_runtime() -> str:
    driver = gpu_driver()
    version = drivers.driver_version()
    if version and (needed := drivers.too_old(version, IMAGE_CUDA)):
        found = f"this machine's NVIDIA driver is {version}; "
        found += f"the image's CUDA {IMAGE_CUDA} needs {needed}"
        raise Missing(found, "update the driver, or build an image for an older CUDA")
    runtimes = json.loads(engine.docker("info", "--format", "{{json .Runtimes}}"))
    if "nvidia" in (runtimes or {}):
        return f"{driver}, and the engine has the NVIDIA runtime"
    # Newer engines can use GPUs without the runtime, so only a launch shows whether it works.
    msg = (
        f"{driver}, but the engine lists no NVIDIA runtime. If a launch fails, install the NVIDIA "
        "Container Toolkit and run `nvidia-ctk runtime configure --runtime=docker`."
    )
    raise BackendError(msg)
