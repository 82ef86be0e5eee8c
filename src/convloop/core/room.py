"""How much memory this process may still take."""

from pathlib import Path

import psutil

_CGROUP_2 = Path("/sys/fs/cgroup")
_CGROUP_1 = Path("/sys/fs/cgroup/memory")


def available_bytes() -> int:
    """Tell how much memory is free on this machine, and no more than its container has left."""
    left = [
        int(psutil.virtual_memory().available),
        _left_of_container(_CGROUP_2, "memory.max", "memory.current"),
        _left_of_container(_CGROUP_1, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ]
    return min(byte_count for byte_count in left if byte_count is not None)


def _left_of_container(folder: Path, limit: str, used: str) -> int | None:
    """Read what a container has left, None where it has no limit; file pages that can be dropped at once are free."""
    try:
        granted, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if granted == "max":
        return None
    droppable = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return max(0, int(granted) - taken + int(droppable))
