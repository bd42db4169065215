"""The one manager of a replica's KV blocks: which request holds a block, and what the block contains.

    total = free + leased + shared + cached

    free    ──lease──▶  leased: batching's alone, in hand or being filled
    leased  ──seal───▶  shared: full, has a name, read by one request or more
    shared  ──release─▶ cached: named, read by no request; evicted when blocks run out, or shared again by a `match`

A request asks for its longest known prefix when it is first scheduled, never while it waits: so equal prompts that
arrive together share blocks, and a waiting request keeps no block from others. Where another request is computing the
next block of the prefix now, the answer waits for that block, so that no block is computed twice.

A block may be shared once the step that fills it is *issued*: links are first in, first out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from histrio.kv.prefix import BlockName, block_names, root_name
from histrio.messages import Matched

__all__ = ["KvManager"]


@dataclass(slots=True)
class _Reader:
    """A request that was matched, or that waits for its match."""

    names: list[BlockName]
    """Names of all full blocks of the tokens it came with, then of the blocks it sealed."""
    num_matchable: int
    """Blocks that a match may give: at least one token is left to compute."""
    root: BlockName
    computing: dict[BlockName, None] = field(default_factory=dict)
    """Names of the blocks that this request computes and has not sealed yet, in order."""
    awaited: BlockName | None = None
    """The block, computed by another request, for which its match waits."""


class KvManager:
    """Block ids count from 0. With `has_prefix_cache` False no block ever gets a name, so none is shared."""

    def __init__(self, num_blocks: int, block_size: int = 1, *, has_prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.has_prefix_cache = has_prefix_cache
        self.num_evictions = 0
        # The last one freed is handed out first: its memory is warm, and what was never used costs nothing until it is.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._leased: set[int] = set()
        self._num_readers: dict[int, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Least recently used first."""
        self._name_of: dict[int, BlockName] = {}
        self._block_of: dict[BlockName, int] = {}
        self._readers: dict[int, _Reader] = {}
        self._computing: dict[BlockName, int] = {}
        """Name → request that will seal it."""
        self._deferred: dict[BlockName, list[int]] = {}
        """Name that is being computed → requests whose match waits for it."""

    # --- what is where -----------------------------------------------------------------------------------------------

    @property
    def num_free_blocks(self) -> int:
        """Blocks without contents."""
        return len(self._free)

    @property
    def num_cached_blocks(self) -> int:
        """Named blocks that no request reads."""
        return len(self._cached)

    # --- batching's lease --------------------------------------------------------------------------------------------

    def lease(self, num_blocks: int) -> list[int]:
        """Up to `num_blocks` blocks: free ones, then cached ones, which lose their contents; fewer if none is left."""
        granted = [self._free.pop() for _ in range(min(num_blocks, len(self._free)))]
        while len(granted) < num_blocks and self._cached:
            granted.append(self._evict())
        self._leased.update(granted)
        return granted

    def give_back(self, block_ids: Iterable[int]) -> None:
        """Leased blocks become free again."""
        for block_id in block_ids:
            self._leased.remove(block_id)
            self._free.append(block_id)

    # --- requests ----------------------------------------------------------------------------------------------------

    def match(self, request: int, ids: list[int], salt: str = "") -> list[Matched]:
        """A request is about to be scheduled: the blocks that hold its longest known prefix are shared with it.

        No answer comes now if it pays to wait; then a later `seal` or `release` gives it.
        """
        assert request not in self._readers, "a request was matched twice"
        root = root_name(salt)
        names = block_names(root, ids, self.block_size) if self.has_prefix_cache else []
        self._readers[request] = _Reader(names, max(len(ids) - 1, 0) // self.block_size, root)
        return self._answer(request)

    def seal(self, request: int, block_ids: list[int], ids: list[int]) -> list[Matched]:
        """The request's next full blocks were issued, holding `ids`. Returns matches that waited for one of them."""
        if not self.has_prefix_cache:
            return []

        reader = self._readers[request]
        assert self._leased.issuperset(block_ids), "a block was sealed twice"
        return [
            matched
            for block_id, name in zip(block_ids, self._names_of(reader, ids), strict=True)
            for matched in self._name(block_id, name)
        ]

    def release(self, request: int, block_ids: list[int]) -> list[Matched]:
        """The request ended or was preempted: it reads none of these blocks any more.

        The tail of a prefix is evicted first: without its beginning it would be of no use.
        """
        for block_id in reversed(block_ids):
            if block_id in self._leased:
                self.give_back([block_id])
            else:
                self._leave(block_id)
        reader = self._readers.pop(request, None)
        if reader is None:
            return []

        if reader.awaited is not None:
            self._deferred[reader.awaited].remove(request)
        return [matched for name in reader.computing for matched in self._abandon(request, name)]

    def reset(self) -> int:
        """Forget the contents of all blocks that no request reads; returns their number."""
        num_cached = len(self._cached)
        while self._cached:
            self._free.append(self._evict())
        return num_cached

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is in exactly one of the sets."""
        sets = [set(self._free), self._leased, set(self._num_readers), set(self._cached)]
        assert len(self._free) == len(sets[0]), "a block is free twice"
        assert sum(map(len, sets)) == self.num_blocks, "blocks were lost or made, or are in two sets"
        assert len(set().union(*sets)) == self.num_blocks, "a block is in two sets"
        assert set(self._name_of) == sets[2] | sets[3], "a named block is neither shared nor cached"
        assert {name: block for block, name in self._name_of.items()} == self._block_of, "names and blocks disagree"
        assert all(count > 0 for count in self._num_readers.values()), "a block is shared with no request"
        assert set(self._computing.values()) <= set(self._readers), "no request computes an announced block"
        assert set(self._deferred) <= set(self._computing), "a match waits for a block that no request computes"

    # --- below -------------------------------------------------------------------------------------------------------

    def _answer(self, request: int) -> list[Matched]:
        """Share the known blocks of the prefix; or wait, if another request computes the next one now."""
        reader = self._readers[request]
        known: list[int] = []
        for name in reader.names[: reader.num_matchable]:
            if name not in self._block_of:
                break
            known.append(self._block_of[name])
        rest = reader.names[len(known) :]
        if len(known) < reader.num_matchable and rest and rest[0] in self._computing:
            reader.awaited = rest[0]
            self._deferred.setdefault(rest[0], []).append(request)
            return []

        reader.awaited = None
        for block_id in known:
            self._enter(block_id)
        for name in rest:
            if name not in self._block_of and self._computing.setdefault(name, request) == request:
                reader.computing[name] = None
        reader.names = reader.names[: len(known)]
        return [Matched(request, known)]

    def _names_of(self, reader: _Reader, ids: list[int]) -> list[BlockName]:
        parent = reader.names[-1] if reader.names else reader.root
        names = block_names(parent, ids, self.block_size)
        reader.names += names
        return names

    def _enter(self, block_id: int) -> None:
        self._num_readers[block_id] = self._num_readers.get(block_id, 0) + 1
        self._cached.pop(block_id, None)

    def _leave(self, block_id: int) -> None:
        self._num_readers[block_id] -= 1
        if not self._num_readers[block_id]:
            del self._num_readers[block_id]
            self._cached[block_id] = None

    def _name(self, block_id: int, name: BlockName) -> list[Matched]:
        """Give a leased block its name. If another block has the name already, this one stays its request's alone."""
        if name not in self._block_of:
            self._leased.remove(block_id)
            self._num_readers[block_id] = 1
            self._name_of[block_id] = name
            self._block_of[name] = block_id
        owner = self._computing.pop(name, None)
        if owner is not None:
            del self._readers[owner].computing[name]
        return self._resume(name)

    def _abandon(self, request: int, name: BlockName) -> list[Matched]:
        """The request will not compute this block any more; a request that waited for the block computes it."""
        if self._computing.get(name) != request:
            return []

        del self._computing[name]
        return self._resume(name)

    def _resume(self, name: BlockName) -> list[Matched]:
        return [matched for request in self._deferred.pop(name, []) for matched in self._answer(request)]

    def _evict(self) -> int:
        block_id, _ = self._cached.popitem(last=False)
        del self._block_of[self._name_of.pop(block_id)]
        self.num_evictions += 1
        return block_id
