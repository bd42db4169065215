"""The pool of blocks that holds the keys and values of a stage's layers, and where the running step finds its own.

Layers of equal shape share a tensor of keys [block, layer, kv head, token of the block, dim] and one of values; as int8
(see `stores.py`) two more hold their scales. So a block is one stretch of each: copying and clearing it is quick, and
what no block in use lies in is never touched (with huge blocks, a pool with layers outside took 0.9 GB and a second at
its first token). What is gathered are the parts of a block that belong to one head: in order they are a matrix [tokens,
dim] that the attention's products take as it is. `begin` turns a step's block tables into indices once, and all layers
use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from histrio.contracts.backend import StepBatch
from histrio_torch.residents import Arena, ResidentRows, Residents
from histrio_torch.row_groups import IndexArray, Part, Rows, make_group, similar_rows, spans
from histrio_torch.stores import FloatStore, Int8Store, Scratch, Store

__all__ = ["DeviceGroup", "DevicePart", "LayerShape", "PagedCache"]


RESIDENT_RATIO = 0.2
"""Memory for copies of running rows (see `residents.py`) in addition to the pool, as a share of it; CPU only."""


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps for each token. A latent (MLA) is one head with `value_dim` 0."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def values_per_token(self) -> int:
        """How many numbers a token takes."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)

    @property
    def scales_per_token(self) -> int:
        """How many scales a token takes as int8."""
        return self.num_kv_heads * (bool(self.key_dim) + bool(self.value_dim))


@dataclass(slots=True)
class DevicePart:
    """A `Part` with what the products need of it on the device."""

    rows: slice
    """Which rows of the group."""
    num_rows: int
    num_queries: int
    first_masked: int
    tokens: slice | Tensor
    """[rows * queries] which tokens of the step they are; a slice where they are neighbours."""
    kept: Tensor | None
    """Which of [rows * queries] are kept; None: all of them."""
    targets: slice | Tensor
    """The tokens of those that are kept."""
    hidden: Tensor | None
    """[rows, 1, queries, 1, keys - first_masked] 0 or -inf; None where nothing is hidden."""
    biases: dict[int, Tensor] = field(default_factory=dict)
    """Query heads per key head → `hidden` as [rows, 1, queries * heads, keys - first_masked]."""

    @property
    def is_in_order(self) -> bool:
        """Whether the results are those of neighbouring tokens, one after the other."""
        return self.kept is None and isinstance(self.targets, slice)

    def bias(self, num_group: int) -> Tensor | None:
        """What to add to the scores of `num_group` query heads per key head."""
        if self.hidden is None:
            return None

        if num_group not in self.biases:
            self.biases[num_group] = self.hidden.expand(-1, -1, -1, num_group, -1).flatten(2, 3)

        return self.biases[num_group]


@dataclass(slots=True)
class DeviceSeats:
    """How the copies of resident rows are brought up to the running step."""

    resident: ResidentRows
    stale: list[slice]
    """Rows that are read from blocks; all others lack only this step's tokens."""
    tokens: slice | Tensor
    """[new tokens] of the rows, among those of the step."""
    rows: Tensor
    """[new tokens] the row of each."""
    keys: Tensor
    """[new tokens] which key of its row it is."""


@dataclass(slots=True)
class DeviceGroup:
    """A `RowGroup` with what reading its blocks needs on the device."""

    parts: list[DevicePart]
    blocks: Tensor
    """[rows, 1, blocks]"""
    seats: DeviceSeats | None = None
    """Where its rows are resident."""
    block_rows: dict[LayerShape, Tensor] = field(default_factory=dict)
    """[rows, heads * blocks] rows of a pool seen as [blocks * layers * heads, …], for the first layer."""
    resident_rows: dict[int, Tensor] = field(default_factory=dict)
    """num_kv_heads → [tokens * heads] where the new tokens go in a copy seen as [rows * heads * keys, dim]."""

    @property
    def num_rows(self) -> int:
        """How many rows are read."""
        return self.blocks.shape[0]


class PagedCache:
    """Keys and values of the layers of one stage. Block ids index all layers alike; the caller owns which are whose.

    `dtype` is what goes in and comes out; blocks hold that, or `is_int8` codes and scales.
    """

    def __init__(
        self,
        layers: Mapping[int, LayerShape],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        is_int8: bool = False,
    ) -> None:
        self.layers = dict(layers)
        self.dtype = dtype
        self.is_int8 = is_int8
        self.device = torch.device(device)
        self.num_blocks = 0
        self.block_size = 0
        self._pools: list[Tensor] = []
        self._heads_per_block: dict[LayerShape, int] = {}
        # Each begins at the layer's part of block 0: one row index then serves all layers of a shape.
        self._keys: dict[int, Store] = {}
        self._values: dict[int, Store] = {}
        self._codes = Scratch()
        self._scratch: Tensor | None = None
        self._batch: StepBatch | None = None
        self._slot_blocks = torch.empty(0, dtype=torch.int64)
        self._slot_tokens = self._slot_blocks
        self._slot_rows: dict[LayerShape, Tensor] = {}
        self._written = np.empty(0, np.int64)
        self._groups: dict[int | None, list[DeviceGroup]] = {}
        self._residents: Residents | None = None

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token takes in all layers together."""
        num_values = sum(shape.values_per_token for shape in self.layers.values())
        if not self.is_int8:
            return num_values * self.dtype.itemsize

        return num_values + sum(shape.scales_per_token for shape in self.layers.values()) * self.dtype.itemsize

    @property
    def reserved_bytes_per_token(self) -> int:
        """The same with the copies of running rows, which follow the pool on a CPU."""
        has_copies = self.device.type == "cpu"
        return math.ceil(self.bytes_per_token * (1 + RESIDENT_RATIO)) if has_copies else self.bytes_per_token

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make the pool, zeroed; same sizes as before keep it with what it holds."""
        self._residents = self._no_residents(num_blocks, block_size)
        if (num_blocks, block_size) == (self.num_blocks, self.block_size):
            return

        self._pools, self._keys, self._values = [], {}, {}
        self._batch = None
        self.num_blocks, self.block_size = num_blocks, block_size
        for shape in sorted(set(self.layers.values()), key=repr):
            indices = [index for index, other in self.layers.items() if other == shape]
            self._heads_per_block[shape] = len(indices) * shape.num_kv_heads
            self._keys.update(self._make_stores(indices, shape.num_kv_heads, shape.key_dim))
            self._values.update(self._make_stores(indices, shape.num_kv_heads, shape.value_dim))

    def give_back(self) -> None:
        """Forget the copies of rows, with the memory that they took; later steps make those that they need."""
        self._scratch = None
        if self._residents is not None and self._residents.has_copies:
            self._residents, self._groups = None, {}  # the old memory is gone before the new is asked for
            self._residents = self._no_residents(self.num_blocks, self.block_size)

    def free(self) -> None:
        """Give the memory back."""
        self._pools, self._keys, self._values = [], {}, {}
        self._codes, self._scratch, self._residents = Scratch(), None, None
        self._batch, self._groups, self._slot_rows = None, {}, {}
        self.num_blocks = 0

    def _no_residents(self, num_blocks: int, block_size: int) -> Residents | None:
        """Room for the copies of rows, of which nothing is there before it is used; None for devices without."""
        if self.device.type != "cpu":
            return None

        num_bytes = num_blocks * block_size * self.bytes_per_token * RESIDENT_RATIO
        return Residents(Arena(int(num_bytes / self.dtype.itemsize), self.dtype, self.device), num_blocks)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks `src[i]` to `dst[i]` in all layers; all are read before any is written."""
        sources = torch.tensor(src, dtype=torch.int64, device=self.device)
        targets = torch.tensor(dst, dtype=torch.int64, device=self.device)
        for pool in self._pools:
            pool.index_copy_(0, targets, pool.index_select(0, sources))
        if self._residents is not None:
            self._residents.forget(dst)

    def begin(self, batch: StepBatch) -> None:
        """Make `batch` the running step: where its tokens are written, and (at first use) what its rows read."""
        assert self.block_size, "allocate() comes before begin()"
        rows = np.repeat(np.arange(batch.num_rows), batch.num_tokens)
        within = np.arange(batch.total_tokens) - batch.offsets[:-1].astype(np.int64)[rows]
        positions = batch.starts.astype(np.int64)[rows] + within
        self._written = batch.block_tables[rows, positions // self.block_size].astype(np.int64)
        self._batch = batch
        self._slot_blocks = self._to_device(self._written)
        self._slot_tokens = self._to_device(positions % self.block_size)
        self._slot_rows = {}
        self._groups = {}
        self._clear_entered_blocks(batch)

    def groups(self, window: int | None) -> list[DeviceGroup]:
        """The running step's rows, grouped for layers with this window (None: all keys are seen)."""
        if window not in self._groups:
            assert self._batch is not None, "begin() comes before the first layer"
            rows = Rows.of(self._batch, self.block_size, window)
            groups = similar_rows(rows)
            sets: list[ResidentRows | None] = [None] * len(groups)
            if window is None and self._residents is not None:
                sets = self._residents.begin(rows, groups, self._written)
            pairs = zip(groups, sets, strict=True)
            self._groups[window] = [self._device_group(rows, members, resident) for members, resident in pairs]

        return self._groups[window]

    def write(self, layer_index: int, key: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Store the step's keys [tokens, kv_heads, key_dim] and values in the blocks of their rows.

        Returns them as they were stored, that is rounded as int8.
        """
        rows = self._slot_rows_of(self.layers[layer_index])
        key = self._keys[layer_index].write(rows, key)
        if value is not None:
            value = self._values[layer_index].write(rows, value)
        return key, value

    def gather(
        self, layer_index: int, group: DeviceGroup, key: Tensor, value: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Keys and values [rows * kv_heads, keys, dim] of the group's blocks, in memory that the next gather reuses.

        `key` and `value` are what `write` has returned: all that is missing where the rows are resident.
        """
        shape = self.layers[layer_index]
        seats, num_rows, num_keys = group.seats, group.num_rows, group.blocks.shape[-1] * self.block_size
        keys_per_dim = (num_rows if seats is None else seats.resident.num_seats) * shape.num_kv_heads * num_keys
        memory, is_current = self._memory_for(layer_index, group, keys_per_dim * (shape.key_dim + shape.value_dim))

        def of_rows(memory: Tensor, dim: int) -> Tensor:
            num_heads = num_rows * shape.num_kv_heads
            return memory[: num_heads * num_keys * dim].view(num_heads, num_keys, dim)

        pairs = [(of_rows(memory, shape.key_dim), self._keys[layer_index], key)]
        if value is not None:
            values = of_rows(memory[keys_per_dim * shape.key_dim :], shape.value_dim)
            pairs.append((values, self._values[layer_index], value))
        stale = seats.stale if seats is not None and is_current else [slice(0, num_rows)]
        for target, store, new in pairs:
            if seats is not None and is_current:
                dim = target.shape[-1]
                rows = self._resident_rows_of(group, shape.num_kv_heads)
                target.view(-1, dim).index_copy_(0, rows, new[seats.tokens].reshape(-1, dim))
            for span in stale:
                heads = slice(span.start * shape.num_kv_heads, span.stop * shape.num_kv_heads)
                store.read(self._block_rows_of(group, shape)[span].reshape(-1), target[heads])

        return pairs[0][0], pairs[1][0] if value is not None else None

    def _memory_for(self, layer_index: int, group: DeviceGroup, num_values: int) -> tuple[Tensor, bool]:
        """A flat tensor for the group's keys and values, and whether it holds all but this step's."""
        if group.seats is not None and self._residents is not None:
            found = self._residents.copy_of(group.seats.resident, layer_index, num_values)
            if found is not None:
                return found

        if self._scratch is None or self._scratch.numel() < num_values:
            self._scratch = torch.empty(num_values, dtype=self.dtype, device=self.device)
        return self._scratch[:num_values], False

    def _make_stores(self, indices: list[int], num_kv_heads: int, dim: int) -> dict[int, Store]:
        if not dim:
            return {}

        if not self.is_int8:
            values = self._make_pool(len(indices), num_kv_heads, dim, self.dtype)
            return {index: FloatStore(part, self.block_size, dim) for index, part in zip(indices, values, strict=True)}

        codes = self._make_pool(len(indices), num_kv_heads, dim, torch.int8)
        scales = self._make_pool(len(indices), num_kv_heads, 1, self.dtype)
        parts = zip(indices, codes, scales, strict=True)
        return {index: Int8Store(own, its, self.block_size, self._codes) for index, own, its in parts}

    def _make_pool(self, num_layers: int, num_kv_heads: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
        """For each layer, the pool from that layer's part of block 0 on."""
        pool = _zeros((self.num_blocks, num_layers, num_kv_heads, self.block_size, dim), dtype, self.device)
        self._pools.append(pool)
        values_per_layer = num_kv_heads * self.block_size * dim
        return [pool.view(-1)[layer * values_per_layer :] for layer in range(num_layers)]

    def _clear_entered_blocks(self, batch: StepBatch) -> None:
        # A block's former owner may have left NaN behind the tokens that this step writes; 0 * NaN would reach the row.
        ends = batch.starts.astype(np.int64) + batch.num_tokens
        last_blocks = (ends - 1) // self.block_size
        entered = (last_blocks * self.block_size >= batch.starts) & (ends % self.block_size != 0)
        if not entered.any():
            return

        rows = np.flatnonzero(entered)
        blocks = self._to_device(batch.block_tables[rows, last_blocks[rows]].astype(np.int64))
        for pool in self._pools:
            pool.index_fill_(0, blocks, 0)

    def _device_group(self, rows: Rows, members: IndexArray, resident: ResidentRows | None) -> DeviceGroup:
        can_split = self.device.type == "cpu"
        if resident is None:
            group = make_group(rows, members, can_split=can_split)
        else:
            group = make_group(rows, resident.members, resident.capacity, can_split=can_split)
        parts = [self._device_part(part) for part in group.parts]
        seats = None if resident is None else self._device_seats(rows, resident)
        return DeviceGroup(parts, self._to_device(group.blocks)[:, None, :], seats)

    def _device_part(self, part: Part) -> DevicePart:
        tokens = self._indices(part.tokens)
        hidden = kept = None
        if part.hidden.any():
            bias = np.where(part.hidden, np.float32(-np.inf), np.float32(0))
            hidden = self._to_device(bias).to(self.dtype)[:, None, :, None, :]
        if part.repeated.any():
            kept = self._to_device(np.flatnonzero(~part.repeated))
        targets = tokens if kept is None else self._indices(part.tokens[~part.repeated])
        return DevicePart(part.rows, part.num_rows, part.num_queries, part.first_masked, tokens, kept, targets, hidden)

    def _device_seats(self, rows: Rows, resident: ResidentRows) -> DeviceSeats:
        counts = rows.count[resident.members]
        which = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
        members = resident.members[which]
        return DeviceSeats(
            resident,
            spans(resident.stale),
            self._indices(rows.token[members] + within),
            self._to_device(which),
            self._to_device(rows.start[members] + within),
        )

    def _indices(self, tokens: IndexArray) -> slice | Tensor:
        """A slice where they are neighbours: what it takes is no copy."""
        first, last = int(tokens[0]), int(tokens[-1])
        if last - first + 1 == len(tokens) and (tokens[1:] > tokens[:-1]).all():
            return slice(first, last + 1)

        return self._to_device(tokens)

    def _slot_rows_of(self, shape: LayerShape) -> Tensor:
        """[tokens * heads] rows of a pool seen as [blocks * layers * heads * tokens of a block, dim], first layer."""
        if shape not in self._slot_rows:
            heads = torch.arange(shape.num_kv_heads, device=self.device)
            rows = self._slot_blocks[:, None] * self._heads_per_block[shape] + heads
            self._slot_rows[shape] = (rows * self.block_size + self._slot_tokens[:, None]).reshape(-1)

        return self._slot_rows[shape]

    def _block_rows_of(self, group: DeviceGroup, shape: LayerShape) -> Tensor:
        if shape not in group.block_rows:
            heads = torch.arange(shape.num_kv_heads, device=self.device)[:, None]
            group.block_rows[shape] = (group.blocks * self._heads_per_block[shape] + heads).flatten(1)

        return group.block_rows[shape]

    def _resident_rows_of(self, group: DeviceGroup, num_kv_heads: int) -> Tensor:
        if num_kv_heads not in group.resident_rows:
            assert group.seats is not None
            heads = group.seats.rows[:, None] * num_kv_heads + torch.arange(num_kv_heads, device=self.device)
            rows = heads * (group.blocks.shape[-1] * self.block_size) + group.seats.keys[:, None]
            group.resident_rows[num_kv_heads] = rows.reshape(-1)

        return group.resident_rows[num_kv_heads]

    def _to_device(self, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _zeros(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed memory; on a CPU the system hands it out as it is first used, so that unused blocks cost nothing."""
    if device.type != "cpu":
        return torch.zeros(sizes, dtype=dtype, device=device)

    num_bytes = int(np.prod(sizes)) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(sizes)
