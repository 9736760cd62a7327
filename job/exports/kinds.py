"""The kinds of exports: their names, files and packages."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import get_args

from job.core.errors import MachineError, SpecError
from job.spec.schema import ExportName

# Modules that each format imports.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    # int8 is quantized by nncf.
    "openvino": ("onnx", "onnxruntime", "openvino", "nncf"),
}
# The file below an export's folder that sentence-transformers looks for.
FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Kind:
    format: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.format}-{self.precision}"

    @property
    def file(self) -> str:
        return FILES[self.format]


def kind_of(name: str) -> Kind:
    """Return the kind with a name such as `onnx-int8`; raises `SpecError` for other names."""
    if name not in get_args(ExportName):
        known = ", ".join(f"`{known}`" for known in get_args(ExportName))
        msg = f"There is no export `{name}`; there are {known}."
        if name == "onnx-float16":
            msg += " onnxruntime has no float16 on CPUs, where exports are measured."
        raise SpecError(msg)
    return Kind(*name.split("-"))


def require_packages(kinds: Collection[Kind]) -> None:
    """Raise `MachineError` if a package is missing that writes or reads one of the exports."""
    needed = {package for kind in kinds for package in PACKAGES[kind.format]}
    if missing := sorted(name for name in needed if find_spec(name) is None):
        names = ", ".join(f"`{name}`" for name in missing)
        msg = f"Exports need packages that are missing ({names}): "
        raise MachineError(msg + "`pip install 'embedtune[exports]'`.")
