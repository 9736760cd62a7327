"""Variables that libraries read when they are imported, or when the GPU starts."""

import os

VARIABLES = {
    # When workers end one after another, torch would log C++ stack traces about the closed store;
    # real errors raise exceptions anyway.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # Threads that spin for long while waiting slow down training on a shared machine; some
    # microseconds spare them most of the wake-ups (job/LOG.md).
    "GOMP_SPINCOUNT": "1000",
    # Batches of many sizes would leave holes in a GPU's memory.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # Without it, `training.deterministic` would not hold for matrix products.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def set_library_variables() -> None:
    """Set those that the user has not set; must be called before torch is imported."""
    for name, value in VARIABLES.items():
        # The number of spins would overrule the policy.
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(name, value)
