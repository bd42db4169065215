"""The cores of the processor that this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["num_cores"]

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_GROUPS = "/sys/fs/cgroup"
_OWN_GROUP = "/proc/self/cgroup"
_OLD_QUOTA = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def num_cores() -> int:
    """How many threads can compute side by side: the physical cores of the process's affinity, or the container's
    share of processor time if that is less, in whole cores and at least one.

    A second thread on a core shares its arithmetic units and caches, so it computes nothing sooner.
    """
    shares = [quota / period for quota, period in _quotas()]
    return max(int(min([_num_physical(), *shares])), 1)


def _processors() -> Iterable[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _num_physical() -> int:
    return len({_read(_SIBLINGS.format(processor)) or str(processor) for processor in _processors()})


def _quotas() -> Iterator[tuple[int, int]]:
    """Microseconds of processor time in a period, of each limit: the process's group and those around it."""
    files = [Path(_GROUPS, "cpu.max")]
    for line in _read(_OWN_GROUP).splitlines():
        number, _, path = line.partition("::")
        if number == "0":
            own = Path(_GROUPS, path.lstrip("/"))
            files += [folder / "cpu.max" for folder in (own, *own.parents) if folder.is_relative_to(_GROUPS)]
    limits = [_read(str(file)).split() for file in dict.fromkeys(files)]
    limits.append([_read(file) for file in _OLD_QUOTA])
    for limit in limits:
        if len(limit) == 2 and all(number.isdecimal() and int(number) > 0 for number in limit):
            yield int(limit[0]), int(limit[1])


def _read(file: str) -> str:
    """The text without the white space around it; empty where there is no such file."""
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except OSError:
        return ""
