"""Everything one actor can tell another: read this page first.

All messages are frozen, array-like msgspec structs of one tagged union, `Message`. Facts are nouns or participles
(`Tokens`, `Opened`), commands are imperatives (`Generate`, `Cancel`). New fields go last and have defaults. Token ids
are plain lists of ints; tensors are `Tensor` objects, which cross a link as raw buffers beside the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

__all__ = [
    "MOST_LISTED_LOGPROBS",
    "PROTOCOL_VERSION",
    "WHOLE_VOCABULARY",
    "Allocated",
    "Ask",
    "Beat",
    "Cancel",
    "ChildEnded",
    "ChildFailed",
    "Close",
    "Copy",
    "EndChild",
    "EngineCapacity",
    "EngineOpened",
    "Extras",
    "Generate",
    "GrammarSpec",
    "Granted",
    "Hello",
    "HostBeat",
    "HostUp",
    "HostedChild",
    "LeaseBlocks",
    "LoadStages",
    "Loading",
    "Machines",
    "Match",
    "Matched",
    "Message",
    "OnTrial",
    "Open",
    "Opened",
    "Placement",
    "Pooling",
    "Prepare",
    "Prepared",
    "Probe",
    "Probed",
    "Ready",
    "Reasoning",
    "ReasoningMarks",
    "Release",
    "ReplicaDown",
    "ReplicaSize",
    "ReplicaUp",
    "RequestState",
    "ResetCache",
    "ReturnBlocks",
    "Row",
    "Sealed",
    "SpawnChild",
    "StageAnswer",
    "StageCapacity",
    "Start",
    "Stats",
    "Step",
    "StepResult",
    "Stop",
    "Tensor",
    "TokenLogprobs",
    "TokenRow",
    "Tokens",
    "Tune",
]

PROTOCOL_VERSION = 6
"""Peers compare it in `Hello`; it changes when the meaning of a message does."""

WHOLE_VOCABULARY = -1
"""As a number of the most likely tokens: all of them, whose log probabilities come packed."""
MOST_LISTED_LOGPROBS = 128
"""Most likely tokens that are told of one by one; where more are asked for, those of the whole vocabulary come."""

SamplingFields: TypeAlias = dict[str, Any]
"""Request fields that samplers own (`temperature`, `top_p` …), checked at the front, defaults left out."""


Pooling: TypeAlias = Literal["mean", "last", "cls"]
"""How one vector is made of the hidden states behind the final norm: their mean over the prompt, or the one of its last
or of its first token."""

Reasoning: TypeAlias = Literal["never", "maybe", "already"]
"""Whether an answer begins with reasoning. `maybe`: if its opening mark comes first; `already`: the prompt opened
it."""


class ReasoningMarks(msgspec.Struct, frozen=True, array_like=True):
    """Between which texts a model reasons."""

    open: str = "<think>"
    close: str = "</think>"
    separator: str = "\n\n"
    """Between the reasoning and an answer that has a grammar; it belongs to neither."""


class GrammarSpec(msgspec.Struct, frozen=True, array_like=True):
    """What an answer must look like. Plain data, small enough to travel with the request."""

    kind: str
    """Of `GrammarBackend.kinds`: `json_object`, `json_schema`, `regex`, `choice`, `lark`, `gbnf`, `structural_tag`,
    `text` for any text, or a plugin's own."""
    text: str
    """The schema as JSON, the expression, the choices as a JSON list, the grammar, a `TagSpec` as JSON; empty for
    `json_object` and `text`."""
    reasoning: Reasoning = "never"
    """Reasoning is free; the text after its closing mark and the separator has the grammar. Any value but `never` needs
    `GrammarCapability.REASONING`."""
    marks: ReasoningMarks = ReasoningMarks()
    """The marks around the reasoning."""
    max_reasoning_tokens: int | None = None
    """Most tokens between the marks, of which the last has to be a token of its own; then that one comes. Needs
    `GrammarCapability.REASONING_BUDGET`."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """What a client asked for, checked once in the front. Whatever works on the request holds it as it is."""

    sampling: SamplingFields = {}
    """The defaults of the model are merged."""
    eos_ids: list[int] = []
    """Ids that end the text (FINISHED_EOS); empty with `ignore_eos`."""
    stop_ids: list[int] = []
    """Ids the client asked to stop at (FINISHED_STOP)."""
    seed: int | None = None
    """64 bits, of which the tokens are then a function; None where the client chose none."""
    priority: int = 0
    """0 is served first."""
    cache_salt: str = ""
    """Prefixes are shared only among requests of the same salt."""
    grammar: GrammarSpec | None = None
    """What the answer must look like."""
    num_logprobs: int | None = None
    """Log probabilities of each token and of that many of the most likely ones, up to `MOST_LISTED_LOGPROBS`, or
    `WHOLE_VOCABULARY`; None for none at all."""
    num_prompt_logprobs: int | None = None
    """The same of the prompt's tokens, told once, with the first tokens of the first choice."""
    max_speculation: int | None = None
    """Most tokens drafted at a time, 0 for none; None for what `[engine]` allows."""
    pooling: Pooling | None = None
    """The answer is one vector, `Extras.pooled`, and no token; None for an answer of tokens."""
    second_at: int = 0
    """Of a pair of texts: where in the prompt the tokens of the second one begin; 0 for one text."""
    logprob_token_ids: list[int] = []
    """With `num_logprobs`: the log probabilities of these tokens beside each token of the answer, in place of those of
    the most likely ones."""

    @property
    def is_seeded(self) -> bool:
        """Whether the client chose the seed."""
        return self.seed is not None

    @property
    def end_ids(self) -> list[int]:
        """All ids that end the text."""
        return [*self.eos_ids, *self.stop_ids]


class RequestState(IntEnum):
    """Where a request stands; the last five are final."""

    WAITING = 0
    PREFILLING = 1
    DECODING = 2
    FINISHED_EOS = 3
    FINISHED_STOP = 4
    FINISHED_MAX_LENGTH = 5
    ERROR = 6
    CANCELLED = 7

    def __init__(self, value: int) -> None:
        # From FINISHED_EOS on. Not a property: every row is asked in every step.
        self.is_finished = value >= 3
        """Whether no more tokens will come."""


SamplerState: TypeAlias = dict[str, Any]
"""Sampler → state that its tokens cannot rebuild; opaque to everything else."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """One position: how likely the token that stands there was, and which others were."""

    logprob: float
    """Natural logarithm."""
    top: list[tuple[int, float]] = []
    """The most likely tokens, as many as were asked for, or those that were asked for by their ids; in descending
    order, each with its own."""
    rank: int = 0
    """How many tokens are at least as likely, the token itself among them; 0 where that was not counted."""
    packed: bytes = b""
    """With `WHOLE_VOCABULARY`, in place of `top`: the log probability of every token by its id, float32 in
    little-endian order."""


class Extras(msgspec.Struct, frozen=True, array_like=True):
    """What a row brings beside its tokens. It stays as it is on its way from where it is known to the client's delta.

    Lists of one entry per id are cut and joined with the ids, counts are added, and of the rest the last one holds.
    """

    reason: str = ""
    """What went wrong, in words that are safe to show to the client; only with ERROR."""
    code: str = ""
    """The `code` of the error's class, such as `request_timeout`; only with ERROR."""
    logprobs: list[TokenLogprobs] = []
    """One entry for each id, where they were asked for."""
    prompt_logprobs: list[TokenLogprobs] = []
    """One entry for every token of the prompt but the first, where asked for; they come with the first tokens."""
    sampler_state: SamplerState = {}
    """After these tokens, where it has changed; a replay gives it back."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that were taken from the prefix cache; told with the first tokens."""
    num_drafted: int = 0
    """Tokens that were drafted."""
    num_accepted: int = 0
    """How many of them were accepted."""
    pooled: bytes = b""
    """With the end of a request for a vector: the numbers of the vector, float32 in little-endian order."""

    def cut(self, num_ids: int) -> Extras:
        """The extras of the first `num_ids` ids only."""
        return self if len(self.logprobs) <= num_ids else replace(self, logprobs=self.logprobs[:num_ids])

    @classmethod
    def joined(cls, parts: Sequence[Extras]) -> Extras:
        """The extras of rows that follow each other, in one."""
        if len(parts) == 1:
            return parts[0]

        return cls(
            reason=next((part.reason for part in reversed(parts) if part.reason), ""),
            code=next((part.code for part in reversed(parts) if part.code), ""),
            logprobs=[each for part in parts for each in part.logprobs],
            prompt_logprobs=[each for part in parts for each in part.prompt_logprobs],
            sampler_state=next((part.sampler_state for part in reversed(parts) if part.sampler_state), {}),
            num_cached_tokens=sum(part.num_cached_tokens for part in parts),
            num_drafted=sum(part.num_drafted for part in parts),
            num_accepted=sum(part.num_accepted for part in parts),
            pooled=next((part.pooled for part in reversed(parts) if part.pooled), b""),
        )


class Tensor:
    """A dense row-major array on its way between stages: dtype name, shape and the raw bytes.

    `data` is any object with the buffer protocol, `dtype` one of "float32", "float16", "bfloat16", "int32", "int64".
    `name` is empty for the residual stream, and says what else a stage hands on. The bytes are never copied on the way
    out; the sender leaves them alone until the message is sent.
    """

    __slots__ = ("data", "dtype", "name", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], data: Any, name: str = "") -> None:
        self.dtype = dtype
        self.shape = shape
        self.data = data
        self.name = name

    def rows(self, first: int, last: int) -> Tensor:
        """The rows `first:last` of it, on the same bytes."""
        data = memoryview(self.data).cast("B")
        num_bytes = len(data) // self.shape[0]
        shape = (last - first, *self.shape[1:])
        return Tensor(self.dtype, shape, data[first * num_bytes : last * num_bytes], self.name)

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {self.shape}{f', {self.name!r}' if self.name else ''})"


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What all messages share: immutable, positional on the wire, tagged by class name."""


# --- the line of a request -------------------------------------------------------------------------------------------


class Generate(_Message, frozen=True):
    """Admission → batching: run this request, or go on with it after a failure."""

    request: int
    """Unique within the front process."""
    ids: list[int]
    """Prompt, followed by tokens already delivered when the request is replayed."""
    num_prompt_tokens: int
    """How many of `ids` are the prompt; never changes on replay."""
    max_total_tokens: int
    """Length of prompt + output at which the request is FINISHED_MAX_LENGTH; the prompt's with `Ask.pooling`."""
    ask: Ask = Ask()
    seed: int = 0
    """64-bit seed of the draws; admission picks one if the client did not."""
    choice: int = 0
    """Index among the `n` answers to one prompt; part of the draw's counter."""
    sampler_state: SamplerState = {}
    """What came with the last of the delivered tokens, on replay."""
    leader: int = 0
    """The request of the first choice of the same prompt, whose last block may be copied; 0 with one choice."""
    trial_end: int = 0
    """Length at which the request is FINISHED_MAX_LENGTH for now, with the step that comes to it or passes it; 0 for
    none. What the last step gives beyond it belongs to the answer."""

    @property
    def num_prompt_logprobs(self) -> int | None:
        """`Ask.num_prompt_logprobs`, or None where the prompt's scores have been told already."""
        return _untold_prompt_logprobs(self)


class Cancel(_Message, frozen=True):
    """Front → batching: forget the request. `state` tells why (CANCELLED, FINISHED_STOP)."""

    request: int
    state: RequestState = RequestState.CANCELLED


class TokenRow(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one request after one step."""

    request: int
    ids: list[int]
    state: RequestState
    extras: Extras | None = None
    """None for a row of plain tokens, as most are."""

    @classmethod
    def failed(cls, request: int, reason: str, code: str) -> TokenRow:
        """The request ends with an error: a text that is safe to show, and the `code` of the error's class."""
        return cls(request, [], RequestState.ERROR, Extras(reason, code))


class Tokens(_Message, frozen=True):
    """Batching → front, once per step: what every request gained."""

    epoch: int
    rows: list[TokenRow]


# --- kv blocks -------------------------------------------------------------------------------------------------------


class Match(_Message, frozen=True):
    """Batching → kv: a request is about to be scheduled; what is known of its beginning?"""

    request: int
    ids: list[int]
    salt: str = ""
    """Requests share blocks only with those of the same salt."""


class Matched(_Message, frozen=True):
    """Kv → batching: these blocks hold the beginning of the request's tokens and are shared with it."""

    request: int
    block_ids: list[int]


class Sealed(_Message, frozen=True):
    """Batching → kv: the request's next blocks are full, by a step that was issued."""

    request: int
    block_ids: list[int]
    ids: list[int]
    """The tokens in them."""


class Release(_Message, frozen=True):
    """Batching → kv: the request reads none of these blocks any more, and will not compute the blocks it announced."""

    request: int
    block_ids: list[int]


class ResetCache(_Message, frozen=True):
    """Front → kv: forget all prefixes that no running request reads."""


class Tune(_Message, frozen=True):
    """Front → batching: these bounds from now on; None leaves one as it is."""

    max_batch_size: int | None = None
    """Most sequences that run at the same time, as far as there are slots for them."""
    scheduler_wait_ms: float | None = None
    """As in the settings of batching."""


class LeaseBlocks(_Message, frozen=True):
    """Batching → kv: let me have up to this many free blocks more."""

    num_blocks: int


class Granted(_Message, frozen=True):
    """Kv → batching: these blocks are yours until returned; empty means that there are none."""

    block_ids: list[int]
    num_left: int = 0
    """Blocks that could be granted beyond these."""


class ReturnBlocks(_Message, frozen=True):
    """Batching → kv: leased blocks that were not used."""

    block_ids: list[int]


# --- stages ----------------------------------------------------------------------------------------------------------


class Open(_Message, frozen=True):
    """Batching → every stage: a sequence takes a slot. Sent once, before its first row."""

    slot: int
    ids: list[int]
    """All known tokens, for penalties; empty for stages that do not sample."""
    num_prompt_tokens: int
    ask: Ask = Ask()
    seed: int = 0
    choice: int = 0
    num_cached_tokens: int = 0
    """Tokens whose keys and values are in the blocks that come with the first row: it starts there."""
    sampler_state: SamplerState = {}
    request: int = 0
    """The request whose grammar was prepared."""

    @property
    def num_prompt_logprobs(self) -> int | None:
        """`Ask.num_prompt_logprobs`, or None where the prompt's scores have been told already."""
        return _untold_prompt_logprobs(self)


class Prepare(_Message, frozen=True):
    """Batching → every stage: a request with a grammar is about to enter; the last one compiles it beside its steps."""

    request: int
    grammar: GrammarSpec
    output_ids: list[int] = []
    """What it has said already."""


class Prepared(_Message, frozen=True):
    """Last stage → batching: the grammar of the request is compiled or has failed, so the request may enter."""

    request: int
    epoch: int


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One sequence's share of a step."""

    slot: int
    start: int
    """Position of the first token; equals the stage's own length of the slot unless `rewind`."""
    num_tokens: int
    num_sampled: int
    """0 for a prefill chunk that is not the last, else how many trailing positions are sampled."""
    block_ids: list[int] = []
    """Blocks appended to the slot's table by this step."""
    rewind: bool = False
    """The slot's length is first cut to `start`."""
    num_scored: int = 0
    """Positions before the sampled ones, up to all others, whose logits tell how likely the prompt's next token was."""
    num_pooled: int = 0
    """Trailing positions whose hidden states belong to the vector that was asked for; such a row samples none."""


class Step(_Message, frozen=True):
    """Batching → stage 0 → … → last stage: compute these rows."""

    step: int
    epoch: int
    rows: list[Row]
    ids: list[int]
    """Token ids of all rows, concatenated; read by stage 0."""
    hidden: list[Tensor] = []
    """The summed residual stream [num_tokens, hidden] of the stage before, then its named parts; empty for stage 0."""
    busy_s: float = 0.0
    """Seconds that earlier stages spent computing it."""
    drafts: list[int] = []
    """Drafted tokens of the rows that sample several positions, `num_sampled - 1` each; read by the last stage."""
    draft_probs: dict[int, list[list[tuple[int, float]]]] = {}
    """Slot → for each of its drafts the distribution it was drawn from: tokens and probabilities. Empty for drafts that
    were not drawn."""

    def row(self, index: int) -> Step:
        """A step of this one row alone, for the last stage, without token ids and hidden states."""
        row = self.rows[index]
        num_before = sum(max(each.num_sampled - 1, 0) for each in self.rows[:index]) if self.drafts else 0
        num_drafts = max(row.num_sampled - 1, 0) if self.drafts else 0
        return Step(
            self.step,
            self.epoch,
            [row],
            [],
            drafts=self.drafts[num_before : num_before + num_drafts],
            draft_probs={row.slot: self.draft_probs[row.slot]} if row.slot in self.draft_probs else {},
        )


class Copy(_Message, frozen=True):
    """Batching → every stage: copy blocks, `src[i]` to `dst[i]`."""

    src: list[int]
    dst: list[int]


class Close(_Message, frozen=True):
    """Batching → every stage: the slot is free."""

    slot: int


class StepResult(_Message, frozen=True):
    """Last stage → batching: the tokens that the sampled rows gained, concatenated in row order."""

    step: int
    epoch: int
    ids: list[int]
    busy_s: float = 0.0
    """Seconds that all stages together spent computing."""
    num_ids: list[int] = []
    """How many ids each sampled row gained; empty if each gained one."""
    extras: dict[int, Extras] = {}
    """Slot → extras, where there are any. A row with a `code` could not go on, and its id means nothing."""


def _untold_prompt_logprobs(command: Generate | Open) -> int | None:
    """They are told once for all choices, with the first token that follows the prompt."""
    is_untold = command.choice == 0 and len(command.ids) == command.num_prompt_tokens
    return command.ask.num_prompt_logprobs if is_untold else None


# --- life of a replica -----------------------------------------------------------------------------------------------


class StageCapacity(msgspec.Struct, frozen=True):
    """What a stage backend can hold, answered by `open` before blocks are allocated."""

    max_blocks: dict[int, int]
    """Block size in tokens → most blocks of that size that fit into memory, besides those it keeps for itself."""
    max_slots: int
    """Most sequences it can hold, and so most rows of a step, besides the slots it keeps for itself."""
    max_step_tokens: int
    """Most tokens of all rows of a step together."""
    dtype: str
    param_bytes: int
    block_bytes_per_token: int
    """Bytes one token takes in this stage's blocks, all its layers together; 0 for a model that keeps a state of
    constant size per slot, whose `max_blocks` are as many as its sequences can be long."""
    first_block_id: int = 0
    """Lowest block id in a `StepBatch` of this stage. The core counts from 0; each stage adds its own first id."""
    capabilities: list[str] = []
    """Of `histrio.contracts.backend.Capability`; names that the core does not know are passed over."""
    first_slot: int = 0
    """Lowest slot in a `StepBatch` of this stage."""


class EngineCapacity(msgspec.Struct, frozen=True):
    """What an engine backend can hold, answered by its `open`."""

    max_requests: int
    """Most requests it runs at a time; further ones wait inside it."""
    max_sequence_length: int
    num_cache_tokens: int
    """Tokens its cache holds, of all requests together."""
    dtype: str
    capabilities: list[str] = []


class ReplicaSize(msgspec.Struct, frozen=True, array_like=True):
    """What all stages of a replica allocate alike: the minimum of what each can hold."""

    num_blocks: int
    block_size: int
    """Tokens per block."""
    max_slots: int
    max_step_tokens: int
    max_sequence_length: int
    capabilities: list[str] = []
    """What all stages are capable of."""


class Probe(msgspec.Struct, frozen=True):
    """Whether a backend (or a placement on it) can be used here; if not, why and what to do."""

    available: bool
    reason: str = ""
    remedy: str = ""
    devices: list[str] = []
    """What `StageSpec.device` may name here, the best first: that is what `auto` means."""
    capabilities: Sequence[str] = []
    """Of a placement: what the opened stage will be capable of, as far as its configuration tells; values of
    `histrio.contracts.backend.Capability`."""
    dtype: str = ""
    """Of a placement: the number format that the opened stage will compute in; empty where that is not known yet."""
    weight_bytes: int | None = None
    """Of a placement: bytes that the stage's weights take once they are loaded; None where the backend leaves it to be
    estimated from the files."""
    device_bytes: int | None = None
    """Of a placement: all memory of its device; None where the backend does not say, or the device is the CPU."""

    @property
    def sentence(self) -> str:
        """Why not, and what to do."""
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class StageAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a stage's backend says, in the process or at least the interpreter that would run the stage."""

    stage: int
    machine: Probe | None = None
    model: Probe | None = None
    """What `supports` answers; None where the machine cannot run the backend, or lacks the device."""
    device: str = ""
    """Which of the machine's devices the topology means; as it says where the backend lists none."""
    error: str = ""
    """Why it could not be asked."""


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """Where and how a stage runs: what a check prints and what a start does."""

    stage: int
    device: str
    """The device as its backend names it; never `auto` where the backend lists its devices."""
    block_mem_ratio: float
    """Share of the device's memory for this stage's blocks: stages on one device divide it by their layers."""
    dtype: str = ""
    """Number format that it computes in; empty where the backend does not say."""
    weight_bytes: int | None = None
    """Bytes of its weights in that format; None where that is not known."""
    capabilities: list[str] = []
    computes_on: str = ""
    """What its steps keep busy: the device, or on a CPU the stage's own share of the cores. Stages that name the same
    take turns."""


class Hello(_Message, frozen=True):
    """Child process → root, first thing."""

    process: str
    pid: int
    protocol: int
    port: int = 0
    """Where its encrypted socket listens, for processes of other machines; 0 without one."""


class Probed(_Message, frozen=True):
    """Device process → root, before it loads anything: what the backends of its stages say."""

    process: str
    answers: list[StageAnswer]


class LoadStages(_Message, frozen=True):
    """Root → device process, once the placements of all stages are settled: load yours."""

    placements: list[Placement]


class Loading(_Message, frozen=True):
    """Stage → root: how far the weights are."""

    stage: int
    fraction: float
    text: str = ""


class Opened(_Message, frozen=True):
    """Stage → root: weights are there, this is what fits beside them."""

    stage: int
    capacity: StageCapacity


class EngineOpened(_Message, frozen=True):
    """Engine actor → root: the engine runs, this is what it holds."""

    capacity: EngineCapacity


class Ready(_Message, frozen=True):
    """Kv, batching → root: made, hosted and waiting for `Start`. (Stages say so with `Opened`.)"""

    actor: str


class Start(_Message, frozen=True):
    """Root → every actor of a replica: begin epoch `epoch` with nothing running and all blocks free."""

    epoch: int
    size: ReplicaSize
    peers: dict[str, str] = {}
    """Actor name → process that hosts it."""
    endpoints: dict[str, str] = {}
    """Process → endpoint to connect to; only for peers this process must dial."""
    num_side_by_side: int = 1
    """How many stages can compute at the same time, because they don't share what they compute on."""


class Allocated(_Message, frozen=True):
    """Every actor of a replica → root: ready for epoch `epoch`."""

    actor: str
    epoch: int


class ReplicaUp(_Message, frozen=True):
    """Root → admission: requests may flow."""

    replica: int
    epoch: int
    size: ReplicaSize


class ReplicaDown(_Message, frozen=True):
    """Root → admission: nothing runs there now; unfinished requests wait for the next `ReplicaUp`."""

    replica: int
    reason: str
    """Why, in a sentence that is safe to show to a client."""
    final: bool = False
    """No restart will follow: fail what waits."""
    convicted: int = 0
    """The request that was alone in it, where that is why it went down."""
    suspects: list[int] | None = None
    """Requests that may be why it went down: those of the step that failed; None where that is not known."""
    culprits: list[int] = []
    """Requests that are why: their rows raise alone, and others of the same step do not."""
    code: str = ""
    """The code that failed, such as `sampler 'mirostat' (module)`; safe to show, empty where it is not known."""


class OnTrial(_Message, frozen=True):
    """Admission → root, before `Generate`: from now on this request is alone in the replica; 0: no request is."""

    request: int
    has_got_on: bool = False
    """Whether it has come further than it can have been when the replica before went down."""


class FailedRow(msgspec.Struct, frozen=True, array_like=True):
    """A row of a step that failed: the tokens `start:end` of a request."""

    request: int
    start: int
    end: int


class FailedStep(msgspec.Struct, frozen=True, array_like=True):
    """The step that a stage was in when it failed, and what came of computing its rows again, each alone."""

    step: int
    rows: list[FailedRow]
    """Empty where they are not known."""
    code: str = ""
    """The code it was in, such as `sampler 'mirostat' (module)`; empty where that is not known."""
    is_request_code: bool = False
    """Whether that code works for single requests, as samplers and grammars do."""
    culprits: list[int] = []
    """Requests whose rows raise again when computed alone, while others of the same step do not."""
    raises_again: bool = False
    """Whether the step has one row and raises again with it."""

    @property
    def requests(self) -> list[int]:
        """The requests of its rows."""
        return [row.request for row in self.rows]


class ChildFailed(_Message, frozen=True):
    """A supervised actor or process ended by itself."""

    child: str
    error: str
    is_final: bool = False
    """Starting it again would fail in the same way (a model that cannot be served, say)."""
    dependants: list[str] = []
    """Actors that are made anew along with it."""
    ends_process: bool = False
    """Nothing is made anew in its process, which ends now."""
    is_request_code: bool = False
    """What failed is code that works on one request's behalf, such as a sampler."""
    failed_step: FailedStep | None = None
    """None for what failed between steps, or is no stage."""


class Beat(_Message, frozen=True):
    """I/O thread of a child → root, every half second: the process lives, and what its device does."""

    process: str
    step: int
    busy_s: float
    """Seconds since the running step began; 0 when idle."""
    expected_s: float
    """What such a step took before; 0 when its shape is new."""
    stuck_s: float = 0.0
    """Seconds since a message was last handled while one waits or is being handled; 0 when there is nothing to do."""


class HostUp(_Message, frozen=True):
    """Agent of another machine → hosts, first thing: the machine is here, and nothing runs on it."""

    agent: str
    """Its name on the link, `@PEER_ID.NUMBER`."""
    protocol: int
    address: str
    """Its own IP address on the way to the head, at which other machines dial its processes."""
    head_address: str
    """The head's on the same way."""


class HostedChild(msgspec.Struct, frozen=True, array_like=True):
    """What the system of another machine says of a process there."""

    process: str
    is_stopped: bool
    cpu_s: float
    worked_s: float
    """Seconds of computing and reading, of the process and all that it has started."""
    step: FailedStep | None = None
    """The step that it is in since the beat before; None where it is in none, or in another one."""


class HostBeat(_Message, frozen=True):
    """Agent → hosts, every half second: the machine lives, and so do these processes."""

    agent: str
    children: list[HostedChild] = []


class Machines(_Message, frozen=True):
    """Hosts → every device process: these machines are of the cluster, and their processes may dial in."""

    peer_ids: list[str]


class SpawnChild(_Message, frozen=True):
    """Hosts → agent: start a device process."""

    process: str
    payload: bytes
    """What it is to do, as JSON; its keys, address and files are the agent's to add."""
    python: str | None = None


class EndChild(_Message, frozen=True):
    """Hosts → agent: end a process."""

    process: str
    grace_s: float = 0.0
    """How long it may take to stop in order; 0: none."""


class ChildEnded(_Message, frozen=True):
    """Agent → hosts: a process has ended, or could not be started."""

    process: str
    reason: str
    is_own_doing: bool = False
    """Nothing outside the process can have ended it."""
    step: FailedStep | None = None
    """The step that it was in."""


class Stats(_Message, frozen=True):
    """Batching → metrics: totals since the epoch began and present sizes, by metric name."""

    epoch: int
    values: dict[str, float]


class Stop(_Message, frozen=True):
    """Close what you own and end."""


Message: TypeAlias = (
    Generate
    | Cancel
    | Tokens
    | Match
    | Matched
    | Sealed
    | Release
    | ResetCache
    | Tune
    | LeaseBlocks
    | Granted
    | ReturnBlocks
    | Prepare
    | Prepared
    | Open
    | Step
    | Copy
    | Close
    | StepResult
    | Hello
    | Probed
    | LoadStages
    | Loading
    | Opened
    | EngineOpened
    | Ready
    | Start
    | Allocated
    | ReplicaUp
    | ReplicaDown
    | OnTrial
    | ChildFailed
    | Beat
    | HostUp
    | HostBeat
    | Machines
    | SpawnChild
    | EndChild
    | ChildEnded
    | Stats
    | Stop
)
"""The union every link carries."""
