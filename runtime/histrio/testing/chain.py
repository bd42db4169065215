"""Stages of one model behind each other without actors: opened like a replica, fed step by step.

The chain does what kv and batching do elsewhere, with the same placement, slot tables and wire form: it keeps book of
blocks and lengths. Blocks are dealt from a shuffled pool, so that neighbouring ones belong to different sequences.

    chain = StageChain(ToyFactory(), folder, cuts=[2])
    logits = chain.step([ChainRow(slot=0, ids=prompt), ChainRow(slot=1, ids=other)])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import BackendFactory, Capability, StageSpec
from histrio.messages import Close, Copy, Open, ReplicaSize, Row, Step, Tensor
from histrio.net import wire
from histrio.replica.sizing import SizeLimits, fit
from histrio.testing.conformance.hosts import HERE, Host, LocalHost, Taken
from histrio.testing.conformance.remote import RemoteHost, WorkerPool
from histrio.testing.harness import HarnessOptions

__all__ = ["ChainRow", "Flight", "Logits", "StageChain", "stage_specs"]

Logits = npt.NDArray[np.float32]
_DEALING = 0


@dataclass(frozen=True, slots=True)
class ChainRow:
    """New tokens of one sequence in a step; the last `num_sampled` positions give logits, or the last `num_pooled`
    states."""

    slot: int
    ids: Sequence[int]
    num_sampled: int = 1
    num_pooled: int = 0


@dataclass(slots=True)
class Flight:
    """A step on its way: it has been computed by the stages before `next_stage`."""

    step: Step
    next_stage: int = 0


class StageChain:
    """`cuts` are the layers before which the model is split; no cut is one stage.

    `factories` is one for all stages, or one per stage. Stages run on this thread, or each in a process of the pool
    `workers`. Without one, backends that need a process per stage get them when there are several stages, and those
    end with the chain. Raises what opening raises, with everything closed.
    """

    def __init__(
        self,
        factories: BackendFactory | Sequence[BackendFactory],
        model: str | Path,
        cuts: Sequence[int] = (),
        options: HarnessOptions | None = None,
        *,
        workers: WorkerPool | None = None,
    ) -> None:
        options = options or HarnessOptions()
        specs = stage_specs(model, cuts, options)
        backends = list(factories) if isinstance(factories, Sequence) else [factories] * len(specs)
        self.hosts: list[Host] = []
        self._own_workers = WorkerPool(most_idle=0)
        try:
            for factory, spec in zip(backends, specs, strict=True):
                needs_process = len(specs) > 1 and Capability.ONE_STAGE_PER_PROCESS in factory.traits.capabilities
                pool = workers or (self._own_workers if needs_process else None)
                self.hosts.append(RemoteHost(factory, spec, pool) if pool else LocalHost(factory, spec))
            self.capacities = [host.open() for host in self.hosts]
            self.size = fit(SizeLimits(options.sizes, options.max_sequence_length), self.capacities)
            self.restart()
        except BaseException:
            self.close()
            raise
        self.disturb: Callable[[Tensor], Tensor] | None = None
        """Applied to what goes from stage to stage, for controls."""

    def restart(self, size: ReplicaSize | None = None) -> None:
        """Allocate anew, as with a new epoch; every sequence and block is forgotten."""
        if size is not None:
            self.size = size
        for host in self.hosts:
            host.start(self.size)
        self.tables: dict[int, list[int]] = {}
        """Slot → its blocks in order, counted from 0."""
        self.lengths: dict[int, int] = {}
        """Slot → tokens that are computed."""
        self._num_told: dict[int, int] = {}
        self._readers = dict.fromkeys(range(self.size.num_blocks), 0)
        self._free: list[int] = np.random.default_rng(_DEALING).permutation(self.size.num_blocks).tolist()
        self._num_steps = 0

    def step(self, rows: Sequence[ChainRow]) -> Logits | None:
        """Logits [sampled positions, vocab] of the last stage, or None where nothing is sampled."""
        return self.finish(self.start(rows)).logits

    def start(self, rows: Sequence[ChainRow]) -> Flight:
        """Compute the first stage of a step; others may start before it is finished. See `finish`.

        If the stage raises, the lengths are as before.
        """
        step = Step(self._num_steps, 0, [self._row(row) for row in rows], [token for row in rows for token in row.ids])
        self._num_steps += 1
        self.hosts[0].step(step)
        for row in rows:
            self.lengths[row.slot] += len(row.ids)
        return Flight(step, next_stage=1)

    def advance(self, flight: Flight) -> None:
        """Hand what the last computed stage gave over the wire to the next one, and compute that."""
        hidden = self.hosts[flight.next_stage - 1].take(flight.step.step).hidden
        if self.disturb is not None:
            hidden = [self.disturb(tensor) for tensor in hidden]
        step = Step(flight.step.step, flight.step.epoch, flight.step.rows, [], hidden)
        _, arrived = wire.decode([bytes(frame) for frame in wire.encode(HERE, step)])
        assert isinstance(arrived, Step)
        self.hosts[flight.next_stage].step(arrived)
        flight.next_stage += 1

    def finish(self, flight: Flight) -> Taken:
        """Run the stages that are missing; what the last one gave."""
        while flight.next_stage < len(self.hosts):
            self.advance(flight)
        return self.hosts[-1].take(flight.step.step)

    def greedy(self, ids: Sequence[int], num_tokens: int, slot: int = 0) -> list[int]:
        """Continue one prompt by `num_tokens` most likely tokens, then leave the slot."""
        row = ChainRow(slot, ids)
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            logits = self.step([row])
            assert logits is not None, "a sampled row has logits"
            tokens.append(int(logits[0].argmax()))
            row = ChainRow(slot, [tokens[-1]])
        self.leave(slot)
        return tokens

    def leave(self, slot: int) -> None:
        """Close the slot on all stages and give its blocks back, to be dealt next."""
        for host in self.hosts:
            host.tell(Close(slot))
        self._release(self.tables.pop(slot, []))
        self.lengths.pop(slot, None)

    def rewind(self, slot: int, length: int) -> None:
        """Forget the tokens behind `length`; their blocks stay with the slot."""
        assert length <= self.lengths[slot], "a rewind goes back"
        self.lengths[slot] = length

    def share(self, blocks: Sequence[int], slot: int, length: int) -> None:
        """A sequence takes the free `slot`, its first `length` tokens computed in these blocks."""
        self._open(slot, length)
        self.tables[slot] = list(blocks)
        for block in blocks:
            self._readers[block] += 1

    def keep(self, blocks: Sequence[int]) -> None:
        """These blocks are not dealt again when their last sequence leaves, as the prefix index does it."""
        for block in blocks:
            self._readers[block] += 1

    def copy(self, block: int) -> int:
        """Copy a block on all stages; the copy belongs to no slot until one takes it with `share`."""
        target = self._free.pop()
        for host in self.hosts:
            host.tell(Copy([block], [target]))
        return target

    def close(self) -> None:
        """Close all stages. Safe to call twice."""
        with self._own_workers:
            for host in self.hosts:
                host.close()

    def _open(self, slot: int, num_cached_tokens: int = 0) -> None:
        for host in self.hosts:
            host.tell(Open(slot, [], 0, num_cached_tokens=num_cached_tokens))
        self.tables[slot], self.lengths[slot], self._num_told[slot] = [], num_cached_tokens, 0

    def _row(self, row: ChainRow) -> Row:
        """The row of a step; its slot gets the blocks it needs."""
        if row.slot not in self.tables:
            self._open(row.slot)
        table, start = self.tables[row.slot], self.lengths[row.slot]
        while len(table) * self.size.block_size < start + len(row.ids):
            table.append(self._free.pop())
            self._readers[table[-1]] += 1
        new_blocks = table[self._num_told[row.slot] :]
        self._num_told[row.slot] = len(table)
        return Row(row.slot, start, len(row.ids), row.num_sampled, new_blocks, rewind=True, num_pooled=row.num_pooled)

    def _release(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._readers[block] -= 1
            if self._readers[block] <= 0:
                self._free.append(block)


def stage_specs(model: str | Path, cuts: Sequence[int], options: HarnessOptions) -> list[StageSpec]:
    """The placement of every stage of a chain."""
    num_layers = read_model_config(Path(model)).num_layers
    return [
        StageSpec(
            model=str(model),
            first_layer=first,
            last_layer=last,
            num_layers=num_layers,
            device=options.device,
            dtype=options.dtype,
            max_sequence_length=options.max_sequence_length,
            sizes=msgspec.structs.replace(options.sizes, kv_block_size=None),  # each backend offers what it can
            options=options.stage_options,
        )
        for first, last in pairwise([0, *cuts, num_layers])
    ]
