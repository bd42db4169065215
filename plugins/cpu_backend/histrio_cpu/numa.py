"""On machines whose memory is cut into NUMA nodes: which of them computes, and where the weights lie.

A processor reads the memory of its own node faster than that of others. A stage bound to a node has its threads and its
memory there: that is set for the calling thread and inherited by those that it starts, so it comes before the library's
threads and the weights. One that is distributed has threads on all nodes, and of each linear layer every node holds a
part: the library keeps threads on nodes, and they read what they packed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from pathlib import Path

from histrio.errors import BackendError

__all__ = ["Numa", "apply_numa", "check_numa", "read_nodes"]

Numa = str | int
"""`off`, `distribute`, or the number of a node."""
_log = logging.getLogger(__name__)
_NODES = Path("/sys/devices/system/node")
_BIND = 2
"""MPOL_BIND of set_mempolicy(2)."""
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_MOST_NODES = 1024


def read_nodes() -> dict[int, set[int]]:
    """Nodes with processors → their processors, as Linux lists them; node 0 alone where it lists none."""
    found = {}
    for each in _NODES.glob("node[0-9]*"):
        try:
            processors = _numbers((each / "cpulist").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if processors:
            found[int(each.name.removeprefix("node"))] = processors
    return dict(sorted(found.items())) or {0: set()}


def check_numa(numa: Numa) -> None:
    """Raise `BackendError` for a node that this machine has not."""
    nodes = read_nodes()
    if isinstance(numa, int) and numa not in nodes:
        raise BackendError(f"numa: there is no NUMA node {numa}; this machine has {', '.join(map(str, nodes))}")


def apply_numa(numa: Numa) -> list[list[int]]:
    """Bind this thread, and those that it starts, to a node; or answer the processors of each node over which the
    library shall distribute its threads. Raises `BackendError` where this process may use no processor of the node.

    On a machine with one node, and where the system does not allow it, nothing changes and a log line says so.
    """
    if numa == "off":
        return []

    nodes = read_nodes()
    if len(nodes) == 1:
        _log.info("numa = %s changes nothing: this machine has one NUMA node", numa)
        return []

    usable = os.sched_getaffinity(0)
    if not isinstance(numa, int):
        shares = [sorted(processors & usable) for processors in nodes.values()]
        return [processors for processors in shares if processors]

    processors = nodes[numa] & usable
    if not processors:
        raise BackendError(f"numa: this process may use no processor of the NUMA node {numa}")

    os.sched_setaffinity(0, processors)
    if not _bind_memory(numa):
        _log.warning("the system does not allow memory to be bound to NUMA nodes (CAP_SYS_NICE); threads are bound")
    _log.info("NUMA: %d processors and the memory of node %d", len(processors), numa)
    return []


def _bind_memory(node: int, policy: int = _BIND) -> bool:
    """Where later allocations of this thread lie; false where the system refuses."""
    call = _SET_MEMPOLICY.get(platform.machine())
    if call is None or sys.platform != "linux":
        return False

    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (_MOST_NODES // bits))()
    mask[node // bits] = 1 << node % bits
    return bool(ctypes.CDLL(None).syscall(call, policy, mask, ctypes.c_ulong(_MOST_NODES)) == 0)


def _numbers(text: str) -> set[int]:
    """`0-3,8` as a set. Raises `ValueError`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found
