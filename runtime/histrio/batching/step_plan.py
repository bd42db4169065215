"""The bounds of a step, and the planned step."""

from __future__ import annotations

from dataclasses import dataclass, field

from histrio.batching.sequence import Sequence
from histrio.batching.speculation.cost import attended_pairs
from histrio.config.settings import BatchingSettings, SpeculationSettings
from histrio.contracts.sampler import DraftProbs
from histrio.messages import Close, Copy, Open, Prepare, Row, Sealed

__all__ = ["Batch", "Plan", "SchedulerLimits", "StageCommand"]

StageCommand = Open | Close | Copy | Prepare
"""A command to the stages besides steps."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one step and of one sequence."""

    max_slots: int
    max_step_tokens: int
    block_size: int
    max_sequence_length: int
    num_blocks: int = 0
    """Blocks of the whole replica, for `preemption_threshold`."""
    settings: BatchingSettings = BatchingSettings()
    has_prefix_cache: bool = True
    can_copy: bool = False
    """The stages can copy blocks."""
    needs_whole_texts: bool = False
    """The row of a prompt has all of its tokens."""
    speculation: SpeculationSettings | None = None
    """None where the stages cannot verify drafts, or there is no drafter."""

    @property
    def max_row_tokens(self) -> int:
        """Most prompt tokens of one sequence in one step."""
        return self.max_step_tokens if self.needs_whole_texts else self.settings.chunked_prefill_size


@dataclass(slots=True)
class Plan:
    """One step to run: the commands and rows for the stages, in this order, and the sequences of the rows."""

    step: int
    commands: list[StageCommand]
    rows: list[Row]
    ids: list[int]
    sequences: list[Sequence]
    sealed: list[Sealed]
    """Blocks that this step fills."""
    num_pairs: float
    """Tokens attended to by all its tokens, for the cost model."""
    drafts: list[int]
    """Drafted tokens of all rows that verify some, concatenated."""
    draft_probs: dict[int, list[DraftProbs]]
    """Slot → the distributions of its drafts, where the drafter gave them."""
    num_decoding_drafts: int | None
    """How many drafts it verifies, if it does nothing but decode; otherwise None."""


@dataclass(slots=True)
class Batch:
    """A step while it is planned."""

    members: list[Sequence] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    num_tokens: int = 0
    num_pairs: float = 0.0
    num_decoding: int = 0
    """Rows of sequences that had one token to compute."""
    num_decoding_tokens: int = 0
    num_decoding_pairs: float = 0.0
    """Of these rows alone."""
    num_scored: int = 0
    """Positions of prompts whose logits score the next prompt token."""

    def add(self, sequence: Sequence, row: Row) -> None:
        """The sequence takes part with this row."""
        self.members.append(sequence)
        self.rows.append(row)
        pairs = attended_pairs(row.start, row.num_tokens)
        self.num_tokens += row.num_tokens
        self.num_pairs += pairs
        if row.num_tokens == row.num_sampled:
            self.num_decoding += 1
            self.num_decoding_tokens += row.num_tokens
            self.num_decoding_pairs += pairs
        self.num_scored += row.num_scored

    def without_preempted(self) -> Batch:
        """The batch without rows of sequences that were preempted while the plan was made."""
        pairs = list(zip(self.members, self.rows, strict=True))
        if all(sequence.slot == row.slot for sequence, row in pairs):
            return self

        kept = Batch()
        for sequence, row in pairs:
            if sequence.slot == row.slot:
                kept.add(sequence, row)
        return kept
