"""Variables that libraries read when they are imported, or when the GPU starts."""

import os

VARIABLES = {
    # When workers end one after another, torch would log C++ stack traces about the closed store;
    # real errors raise exceptions anyway.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # Threads that spin while waiting slow down training on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Batches of many sizes would leave holes in a GPU's memory.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # Without it, `training.deterministic` would not hold for matrix products.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def set_library_variables() -> None:
    """Set those that the user has not set; must be called before torch is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
