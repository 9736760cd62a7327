"""GPUs of each instance type, and the time to all-reduce gradients between them.

All figures follow from specifications; none was measured.
"""

# GPU count of the instance types with more than one.
GPUS = {
    "ml.g4dn.12xlarge": 4, "ml.g5.12xlarge": 4, "ml.g5.24xlarge": 4, "ml.g5.48xlarge": 8,
    "ml.g6.12xlarge": 4, "ml.g6.24xlarge": 4, "ml.g6.48xlarge": 8, "ml.g6e.12xlarge": 4,
    "ml.g6e.24xlarge": 4, "ml.g6e.48xlarge": 8, "ml.p3.8xlarge": 4, "ml.p3.16xlarge": 8,
    "ml.p3dn.24xlarge": 8, "ml.p4d.24xlarge": 8, "ml.p4de.24xlarge": 8,
    "ml.p5.48xlarge": 8,
}  # fmt: skip
# Gbit/s to other machines; for the smaller types this is the burst bandwidth. Above 100 Gbit/s a
# machine needs EFA, whose libraries the image does not contain.
NETWORK_GBITS = {
    "ml.g4dn.12xlarge": 50, "ml.g5.4xlarge": 25, "ml.g5.8xlarge": 25, "ml.g5.12xlarge": 40,
    "ml.g5.16xlarge": 25, "ml.g5.24xlarge": 50, "ml.g5.48xlarge": 100, "ml.g6.8xlarge": 25,
    "ml.g6.12xlarge": 40, "ml.g6.16xlarge": 25, "ml.g6.24xlarge": 50, "ml.g6.48xlarge": 100,
    "ml.g6e.8xlarge": 25, "ml.g6e.12xlarge": 100, "ml.g6e.24xlarge": 100, "ml.g6e.48xlarge": 100,
    "ml.p4d.24xlarge": 100, "ml.p4de.24xlarge": 100, "ml.p5.48xlarge": 100,
}  # fmt: skip
# Gigabytes of memory of one GPU, by family.
GPU_GB = {
    "g4dn": 16, "g5": 24, "g6": 24, "g6e": 48, "p3": 16, "p3dn": 32, "p4d": 40, "p4de": 80,
    "p5": 80,
}  # fmt: skip
# The T4 and the V100 of these families have no bfloat16.
FLOAT16 = ("g4dn", "p3", "p3dn")
USUAL_GBITS = 10
# Gbit/s between the GPUs of one machine: over PCI Express, or over NVLink if they have it.
INSIDE_GBITS, NVLINK_GBITS = 80, 2400
NVLINK = ("ml.p4d.", "ml.p4de.", "ml.p5.")
FLOAT32_BYTES = 4


def family(instance_type: str) -> str:
    """Return `g5` for `ml.g5.2xlarge`, and an empty string for anything but an instance type."""
    return instance_type.split(".")[1] if instance_type.count(".") == 2 else ""


def gpu_memory(instance_type: str) -> tuple[float, str] | None:
    """Return the gigabytes of one GPU and the precision it computes in; None if unknown."""
    kind = family(instance_type)
    if kind not in GPU_GB:
        return None
    return GPU_GB[kind], "float16" if kind in FLOAT16 else "bfloat16"


def gpus_of(instance_type: str) -> int:
    return GPUS.get(instance_type, 1)


def link_gbits(instance_type: str, instances: int) -> int:
    """Return the bandwidth of the slowest link that the gradients cross."""
    inside = NVLINK_GBITS if instance_type.startswith(NVLINK) else INSIDE_GBITS
    if instances == 1:
        return inside
    return min(inside, NETWORK_GBITS.get(instance_type, USUAL_GBITS))


def all_reduce_seconds(instance_type: str, instances: int, parameters: int) -> float:
    """Return the seconds of one step's all-reduce: each GPU sends the gradients nearly twice.

    This is an upper bound: the overlap of communication with computation is ignored.
    """
    gpus = instances * gpus_of(instance_type)
    sent = 2 * (gpus - 1) / gpus * FLOAT32_BYTES * parameters
    return sent * 8 / (link_gbits(instance_type, instances) * 1e9)
