"""The sequences of one replica: the waiting ones by rank, and the running ones in slots.

A sequence that takes a slot, or leaves it, causes commands to the stages; they are kept until a plan carries them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from histrio.batching.lease import BlockLease
from histrio.batching.sequence import Sequence
from histrio.batching.step_plan import SchedulerLimits, StageCommand
from histrio.messages import Close, Open, RequestState

__all__ = ["Roster"]


class Roster:
    """Waiting and running sequences, free slots, and what the stages have to be told of them."""

    def __init__(
        self, limits: SchedulerLimits, lease: BlockLease, on_vacated: Callable[[Sequence], None] = lambda sequence: None
    ) -> None:
        """`on_vacated` hears of each sequence that has lost its slot."""
        self.waiting: list[Sequence] = []
        """Waiting sequences, the lowest rank first."""
        self.running: list[Sequence] = []
        """Running sequences, the one that entered first comes first."""
        self.by_request: dict[int, Sequence] = {}
        self.num_preemptions = 0
        self.max_running = limits.max_slots
        """Most sequences in slots; may become less, and then no sequence enters until others have left."""
        self._limits = limits
        self._lease = lease
        self._on_vacated = on_vacated
        self._free_slots = list(range(limits.max_slots - 1, -1, -1))
        self._commands: list[StageCommand] = []

    @property
    def num_free_slots(self) -> int:
        """How many more sequences may enter."""
        return max(0, min(len(self._free_slots), self.max_running - len(self.running)))

    def add(self, sequence: Sequence) -> None:
        """A sequence with a rank waits."""
        assert sequence.request not in self.by_request, "a request was sent twice"
        self.by_request[sequence.request] = sequence
        self._wait(sequence)

    def enter(self, sequence: Sequence) -> None:
        """A waiting sequence takes a slot; it begins behind the tokens that are computed already."""
        self.waiting.remove(sequence)
        sequence.slot = self._free_slots.pop()
        sequence.state = RequestState.PREFILLING
        sequence.num_cached_tokens = sequence.progress.computed
        self.running.append(sequence)
        self._commands.append(_open(sequence))

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence gives slot and blocks back, and waits to be computed again."""
        self._vacate(sequence)
        sequence.state = RequestState.WAITING
        self._wait(sequence)
        self.num_preemptions += 1

    def leave(self, sequence: Sequence) -> None:
        """A sequence is gone for good."""
        del self.by_request[sequence.request]
        if sequence.slot >= 0:
            self._vacate(sequence)
        else:
            self.waiting.remove(sequence)
            self._lease.release(sequence.request, sequence.forget_blocks())

    def queue(self, command: StageCommand) -> None:
        """Queue a command to the stages, behind the commands that are queued already."""
        self._commands.append(command)

    def take_commands(self) -> list[StageCommand]:
        """Commands that no plan has carried yet."""
        commands, self._commands = self._commands, []
        return commands

    def check_integrity(self) -> None:
        """Raise AssertionError if slots, blocks or queues disagree."""
        slots = [sequence.slot for sequence in self.running]
        assert sorted(slots + self._free_slots) == list(range(self._limits.max_slots)), "slots were lost or doubled"
        assert len(self.waiting) + len(self.running) == len(self.by_request), "a sequence is in no queue, or in two"
        assert self.waiting == sorted(self.waiting, key=_rank), "waiting sequences are out of order"
        self._lease.check_integrity([sequence.block_ids for sequence in self.by_request.values()])
        for sequence in self.running:
            room = len(sequence.block_ids) * self._limits.block_size
            assert room >= sequence.progress.computed, "blocks are missing"

    def _wait(self, sequence: Sequence) -> None:
        sequence.is_matched = not self._limits.has_prefix_cache
        sequence.is_prepared = sequence.command.ask.grammar is None
        insort(self.waiting, sequence, key=_rank)

    def _vacate(self, sequence: Sequence) -> None:
        """Free the slot. Steps already issued stay valid, because links are first in, first out."""
        self.running.remove(sequence)
        self._commands.append(Close(sequence.slot))
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        self._lease.release(sequence.request, sequence.forget_blocks())
        self._on_vacated(sequence)


def _open(sequence: Sequence) -> Open:
    command = sequence.command
    return Open(
        slot=sequence.slot,
        ids=list(sequence.ids),
        num_prompt_tokens=command.num_prompt_tokens,
        ask=command.ask,
        seed=command.seed,
        choice=command.choice,
        num_cached_tokens=sequence.num_cached_tokens,
        sampler_state=sequence.sampler_state,
        request=command.request,
    )


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
