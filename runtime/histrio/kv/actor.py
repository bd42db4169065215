"""Kv: the one manager of a replica's logical blocks."""

from __future__ import annotations

from histrio.actors.mailbox import Actor
from histrio.actors.refs import BATCHING, KV, METRICS, ROOT, Tell, ToKv, refuse
from histrio.contracts.backend import Capability
from histrio.kv.manager import KvManager
from histrio.messages import (
    Allocated,
    Granted,
    LeaseBlocks,
    Match,
    Matched,
    Ready,
    Release,
    ResetCache,
    ReturnBlocks,
    Sealed,
    Start,
    Stats,
    Stop,
)

__all__ = ["KvActor"]


class KvActor(Actor[ToKv]):
    """Grants blocks to batching, shares those that hold known prefixes, and takes them back."""

    def __init__(self, tell: Tell, *, prefix_cache: bool = True) -> None:
        self._tell = tell
        self._prefix_cache = prefix_cache
        self._epoch = 0
        self.manager = KvManager(0)

    def idle(self) -> None:
        """Check that no block is lost or owned twice, and tell metrics how many hold something."""
        self.manager.check_integrity()
        sizes = {"cached_blocks": self.manager.num_cached_blocks, "evicted_blocks_total": self.manager.num_evictions}
        self._tell(METRICS, Stats(self._epoch, dict(sizes)))

    def start(self) -> None:
        """Tell root that an epoch may begin."""
        self._tell(ROOT, Ready(KV))

    def receive(self, message: ToKv) -> None:
        """Handle one command of batching, or `Start`: an epoch begins with all blocks free."""
        manager = self.manager
        match message:
            case LeaseBlocks(num_blocks):
                granted = manager.lease(num_blocks)
                num_left = manager.num_free_blocks + manager.num_cached_blocks
                self._tell(BATCHING, Granted(granted, num_left))
            case ReturnBlocks(block_ids):
                manager.give_back(block_ids)
            case Match(request, ids, salt):
                self._answer(manager.match(request, ids, salt))
            case Sealed(request, block_ids, ids):
                self._answer(manager.seal(request, block_ids, ids))
            case Release(request, block_ids):
                self._answer(manager.release(request, block_ids))
            case ResetCache():
                manager.reset()
            case Start():
                self._start(message)
            case Stop():
                self.manager = KvManager(0)
            case _:
                refuse("kv", message)

    def _answer(self, matches: list[Matched]) -> None:
        for matched in matches:
            self._tell(BATCHING, matched)

    def _start(self, start: Start) -> None:
        self._epoch = start.epoch
        has_prefix_cache = self._prefix_cache and Capability.PREFIX_SHARE in start.size.capabilities
        size = start.size
        self.manager = KvManager(size.num_blocks, size.block_size, has_prefix_cache=has_prefix_cache)
        self._tell(ROOT, Allocated(KV, start.epoch))
