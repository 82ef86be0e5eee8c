"""How many CPU cores this process may use, and its share where several processes train on one host."""

import os
from pathlib import Path

_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def available_cores() -> int:
    """Count the cores of this process: those it is bound to, and no more than its container is granted."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, round(_granted(_CGROUP_2, _CGROUP_1) or bound)))


def share_cores(process_count: int) -> int | None:
    """Give the threads of one of `process_count` processes on this host, or None where OMP_NUM_THREADS is set.

    Threads beyond the cores wait for each other by spinning, which makes all of them slower.
    """
    return None if "OMP_NUM_THREADS" in os.environ else max(1, available_cores() // process_count)


def _granted(cgroup_2: Path, cgroup_1: Path) -> float | None:
    """Read the CPU time that a container gets in each period, in cores; None is unlimited."""
    if cgroup_2.is_file():
        quota, period = cgroup_2.read_text().split()
    elif cgroup_1.is_file():
        quota, period = cgroup_1.read_text(), cgroup_1.with_name("cpu.cfs_period_us").read_text()
    else:
        return None
    return int(quota) / int(period) if quota.strip() not in ("max", "-1") else None
