"""One continuation of one prompt, as batching sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from histrio.batching.progress import Progress
from histrio.batching.speculation.drafted import Drafted
from histrio.messages import Extras, Generate, RequestState, SamplerState

__all__ = ["Sequence"]


@dataclass(slots=True, eq=False)
class Sequence:
    """Known tokens, how many of them are computed or on their way, and the blocks they live in.

    ids:  |----------- prompt -----------|-- generated --|
          |== computed ==|~~ in flight ~~|... pending ...|      pending > 1: prefilling, pending == 1: decoding
    """

    command: Generate
    ids: list[int]
    state: RequestState = RequestState.WAITING
    block_ids: list[int] = field(default_factory=list)
    slot: int = -1
    """Its slot on every stage while it runs, -1 while it waits."""
    progress: Progress = field(default_factory=Progress)
    drafted: Drafted = field(default_factory=Drafted)
    rank: tuple[int, int] = (0, 0)
    """Its rank among waiting sequences: lower ranks enter first. No two ranks are equal, so that of any two sequences
    one can be preempted for the other."""
    is_matched: bool = False
    """kv has answered the match; the shared blocks are in `block_ids`."""
    is_matching: bool = False
    """kv was asked for a match and has not answered."""
    is_prepared: bool = True
    """Whether its grammar is compiled on the last stage, or it has none."""
    is_preparing: bool = False
    """The last stage was told of its grammar and has not answered."""
    num_cached_tokens: int = 0
    """How many tokens the last match gave."""
    num_sealed_blocks: int = 0
    """Full blocks whose contents kv knows."""
    sampler_state: SamplerState = field(default_factory=dict)
    """State of the samplers that its tokens cannot rebuild."""
    has_reported: bool = False
    """The front was told its first tokens, and with them the size of its first match."""
    extras: list[Extras] = field(default_factory=list)
    """What came with steps that gained it no token; the first tokens bring it to the front."""
    eos_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()
    """Ids that end the text, `eos_ids` included."""

    @classmethod
    def from_command(cls, command: Generate) -> Sequence:
        """A waiting sequence; after a failure `command.ids` already holds delivered tokens."""
        return cls(
            command,
            list(command.ids),
            sampler_state=command.sampler_state,
            drafted=Drafted(next_look=command.max_total_tokens if command.ask.max_speculation == 0 else 0),
            eos_ids=frozenset(command.ask.eos_ids),
            end_ids=frozenset(command.ask.end_ids),
        )

    @property
    def request(self) -> int:
        """The request's id at the front."""
        return self.command.request

    @property
    def num_pending_tokens(self) -> int:
        """Known tokens that no step has been issued for; -1 if a step is to compute the token that comes next."""
        return len(self.ids) - self.progress.planned

    @property
    def may_have_drafts(self) -> bool:
        """Whether its request allows drafts."""
        return self.command.ask.max_speculation != 0

    @property
    def num_useful_drafts(self) -> int:
        """Most useful drafts: more would be cut off by the end of the answer, or exceed the request's bound."""
        num_left = self.command.max_total_tokens - len(self.ids) - 1
        most = self.command.ask.max_speculation
        return num_left if most is None else min(num_left, most)

    @property
    def end(self) -> int:
        """Length at which the sequence ends in any case."""
        return self.command.trial_end or self.command.max_total_tokens

    @property
    def wants_scores(self) -> bool:
        """Whether log probabilities of its prompt are to be told and have not been."""
        return not self.has_reported and self.command.num_prompt_logprobs is not None

    @property
    def reads_whole_prompt(self) -> bool:
        """Whether every token of its prompt has to be computed, even where kv knows its blocks."""
        return self.wants_scores or self.command.ask.pooling in ("mean", "cls")

    def share(self, block_ids: list[int], block_size: int) -> None:
        """Begin with blocks that hold the first tokens already."""
        self.is_matched, self.is_matching = True, False
        self.block_ids = block_ids
        self.num_sealed_blocks = len(block_ids)
        self.num_cached_tokens = len(block_ids) * block_size
        self.progress.begin_at(self.num_cached_tokens)

    def forget_blocks(self) -> list[int]:
        """Begin anew without any block; returns the blocks it had."""
        block_ids, self.block_ids = self.block_ids, []
        self.is_matched = self.is_matching = False
        self.num_sealed_blocks = 0
        self.progress.begin_at(0)
        self.drafted.drop()
        self.extras = []
        return block_ids

    @property
    def is_finished(self) -> bool:
        """Whether it has left for good."""
        return self.state.is_finished

    def num_pooled(self, start: int, num_tokens: int) -> int:
        """How many trailing tokens of the row `start : start + num_tokens` belong to the vector that is asked for."""
        if self.command.ask.pooling in ("mean", "cls"):
            return num_tokens
        return int(self.command.ask.pooling == "last" and start + num_tokens == len(self.ids))

    def take(self, ids: list[int]) -> list[int]:
        """Add drawn tokens, up to the one that ends the text; returns the added tokens."""
        num_left = self.command.max_total_tokens - len(self.ids)
        if len(ids) >= num_left or not self.end_ids.isdisjoint(ids):
            ids = self._up_to_end(ids[:num_left])
        else:
            self.state = RequestState.DECODING
        self.ids += ids
        if len(self.ids) >= self.end and not self.state.is_finished:
            self.state = RequestState.FINISHED_MAX_LENGTH
        return ids

    def _up_to_end(self, ids: list[int]) -> list[int]:
        for index, token in enumerate(ids, 1):
            if token in self.end_ids:
                is_eos = token in self.eos_ids
                self.state = RequestState.FINISHED_EOS if is_eos else RequestState.FINISHED_STOP
                return ids[:index]

        self.state = RequestState.FINISHED_MAX_LENGTH
        return ids
