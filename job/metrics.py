"""`logs/metrics.jsonl`: each line of the run as a JSON object, with the memory held at that time.

It is made from the lines themselves, so the two cannot disagree.
"""

import json
import math
import sys

from job.lines import Line, Value, parse_line


def entry(line: str) -> str:
    """Write a line of the log as a JSON object; what is not a finite number is null."""
    time, _, text = line.partition(" ")
    found = parse_line(line) or Line(time, "", text, {})
    facts = {key: _finite(value) for key, value in found.facts.items()}
    said = {"time": found.time, "what": found.what, "event": found.event}
    return json.dumps({**said, **facts, **memory()} | said, ensure_ascii=False)


def memory() -> dict[str, int]:
    """Return the bytes that this process holds: `host_bytes` and, on a GPU, `device_bytes`."""
    import psutil

    held = {"host_bytes": int(psutil.Process().memory_info().rss)}
    # A signal may be logged while torch is half imported.
    cuda = sys.modules.get("torch.cuda")
    if getattr(cuda, "is_initialized", bool)():
        held["device_bytes"] = int(sys.modules["torch.cuda"].memory_reserved())
    return held


def _finite(value: Value) -> Value | None:
    # JSON has no other numbers.
    return value if isinstance(value, str) or math.isfinite(value) else None
