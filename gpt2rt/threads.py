"""How many threads to run a forward pass with on this machine."""

from __future__ import annotations

import os

from gpt2rt.lines import lines_of

CPU_TOPOLOGY = "/sys/devices/system/cpu"
PHYSICAL_CORES = "physical cores"  # a limit by choice: a second thread per core gains little


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _cgroup_quota() -> float | None:
    """Return the number of CPUs that this process's control group (v2 or v1) may use, None for no limit."""
    limits = []
    for line in lines_of(_read("/proc/self/cgroup") or ""):
        _, controllers, group = line.split(":", 2)
        # Limits of parent groups apply too. In a container the group's own path is not mounted; its files are at the
        # root.
        while True:
            if not controllers:
                quota = (_read(f"/sys/fs/cgroup{group}/cpu.max") or "").split()
            elif "cpu" in controllers.split(","):
                base = f"/sys/fs/cgroup/cpu{group}"
                quota = [_read(f"{base}/cpu.cfs_quota_us") or "-1", _read(f"{base}/cpu.cfs_period_us") or ""]
            else:
                break
            if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
                limits.append(int(quota[0]) / int(quota[1]))
            if group in ("", "/"):
                break
            group = group.rsplit("/", 1)[0]
    return min(limits, default=None)


def _physical_cores(cpus: set[int]) -> int:
    """Return the number of distinct cores among these logical processors; threads of one core share its units."""
    if _read(f"{CPU_TOPOLOGY}/smt/active") != "1":
        return len(cpus)
    siblings = {_read(f"{CPU_TOPOLOGY}/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    return len(siblings)


def thread_limits() -> dict[str, float]:
    """Return the limits to the number of threads: {reason: CPUs}, without the reasons that set no limit."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return {"processors": os.cpu_count() or 1}
    cpus = os.sched_getaffinity(0)
    limits: dict[str, float] = {"affinity": len(cpus), PHYSICAL_CORES: _physical_cores(cpus)}
    if quota := _cgroup_quota():
        limits["control group quota"] = quota
    return limits


def default_threads() -> int:
    """Return the smallest of CPU affinity, control group quota and physical cores, rounded down; at least 1.

    A quota of 1.75 CPUs gives one thread: of two, one would be paused while the other waits for it.
    """
    return max(1, int(min(thread_limits().values())))


def most_threads() -> int:
    """Return how many threads CPU affinity and control group quota allow; more would only wait for each other."""
    return max(1, int(min(limit for reason, limit in thread_limits().items() if reason != PHYSICAL_CORES)))
