"""Kv: the one manager of a replica's logical blocks."""

from __future__ import annotations

from histrio.actors.directory import Tell
from histrio.actors.mailbox import Actor
from histrio.engine.blocks import BlockPool
from histrio.errors import WireError
from histrio.messages import Allocated, Granted, LeaseBlocks, Message, Ready, ReturnBlocks, Start, Stop

__all__ = ["KvActor"]


class KvActor(Actor):
    """Grants blocks to batching and takes them back."""

    def __init__(self, name: str, tell: Tell, batching: str) -> None:
        self._name = name
        self._tell = tell
        self._batching = batching
        self.pool = BlockPool(0)

    def idle(self) -> None:
        """Count the blocks: none may be lost, none in two places."""
        self.pool.check_integrity()

    def start(self) -> None:
        """Tell root that an epoch may begin."""
        self._tell("root", Ready(self._name))

    def receive(self, message: Message) -> None:
        """Lease, return, or begin an epoch with all blocks free."""
        match message:
            case LeaseBlocks(num_blocks):
                self._tell(self._batching, Granted(self.pool.lease(num_blocks)))
            case ReturnBlocks(block_ids):
                self.pool.give_back(block_ids)
            case Start():
                self.pool = BlockPool(message.size.num_pages)
                self._tell("root", Allocated(self._name, message.epoch))
            case Stop():
                self.pool = BlockPool(0)
            case _:
                raise WireError(f"kv does not understand {type(message).__name__}")
