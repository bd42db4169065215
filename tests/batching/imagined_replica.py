"""A replica with a memory for a device: batching and kv as they are, and the order of messages in a test's hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from msgspec.structs import replace

from histrio.actors.mailbox import Actor
from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.batching.scheduler import Scheduler
from histrio.config.settings import BatchingSettings, SpeculationSettings
from histrio.contracts.backend import Capability
from histrio.contracts.policy import BatchingPolicy
from histrio.kv.actor import KvActor
from histrio.kv.manager import KvManager
from histrio.messages import (
    Ask,
    Cancel,
    Close,
    Copy,
    Extras,
    Generate,
    GrammarSpec,
    Message,
    Open,
    Prepare,
    Prepared,
    ReplicaSize,
    RequestState,
    Row,
    Start,
    Step,
    StepResult,
    TokenLogprobs,
    Tokens,
)
from histrio.testing.scripted_drafter import ScriptedDrafter

__all__ = ["BLOCK_SIZE", "FORM", "MAX_SLOTS", "Replica", "half_right", "next_token"]

BLOCK_SIZE, MAX_SLOTS = 4, 4
FORM = GrammarSpec("imagined", "")
LONGEST_STEP_MS = 1e6
"""Up to two tokens behind each that is drawn must come."""
_CAPABILITIES = [
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
]


def next_token(ids: list[int]) -> int:
    """What the imagined model says: depends on every token before."""
    return (sum((index + 1) * token for index, token in enumerate(ids)) * 31 + len(ids)) % 3


def half_right(known: list[int], num_tokens: int) -> list[int]:
    """A drafter that knows the imagined model, and is wrong about every third sum of tokens."""
    ids = list(known)
    for _ in range(num_tokens):
        right = next_token(ids)
        ids.append(right if sum(ids) % 3 else (right + 1) % 3)
    return ids[len(known) :]


class Replica:
    """Batching, kv and a device, with the front's book of all requests.

    Batching and kv share a mailbox, as they do in an engine's thread; the device has one of its own. `lots` draws which
    of the two goes on; without it the device waits until the other is empty.
    """

    def __init__(
        self,
        num_blocks: int,
        *,
        has_drafts: bool = False,
        lots: Random | None = None,
        policy: BatchingPolicy | None = None,
        num_micro_batches: int = 1,
        num_ahead: int = 0,
        **settings: Any,
    ) -> None:
        self.tokens: dict[int, list[int]] = {}
        """Request → everything known of it, by the naive book."""
        self.ended: dict[int, RequestState] = {}
        self.scores: dict[int, list[float]] = {}
        """Request → positions of the prompt's tokens whose log probabilities were told."""
        self.commands: dict[int, Generate] = {}
        self.device = _Device(num_blocks, self)
        self._lots = lots
        self._epoch = 0
        self._size = ReplicaSize(num_blocks, BLOCK_SIZE, MAX_SLOTS, 16, 64, list(_CAPABILITIES))
        self._inbox: deque[tuple[str, Message]] = deque()
        self._link: deque[Message] = deque()
        bounds = {"chunked_prefill_size": 8, "step_budget_ms": LONGEST_STEP_MS, "preemption_threshold": 0.0}
        engine = BatchingSettings(**bounds | settings)
        self._batching = BatchingActor(
            self._tell,
            BatchingSpec(
                settings=engine,
                speculation=SpeculationSettings(max_speculation=5),
                num_micro_batches=num_micro_batches,
                num_ahead=num_ahead,
            ),
            make_drafter=(lambda: ScriptedDrafter(half_right)) if has_drafts else None,
            policy=policy,
            clock=lambda: 0.0,
        )
        self._kv = KvActor(self._tell, prefix_cache=engine.prefix_cache)
        self._actors: dict[str, Actor[Any]] = {"batching": self._batching, "kv": self._kv}
        self._batching.start()
        self.begin()

    @property
    def scheduler(self) -> Scheduler:
        """Batching's."""
        assert self._batching.scheduler is not None, "an epoch has begun"
        return self._batching.scheduler

    @property
    def kv(self) -> KvManager:
        """Kv's."""
        return self._kv.manager

    def begin(self) -> None:
        """A new epoch: what was on its way to the device is lost, and unfinished requests are sent again."""
        self._epoch += 1
        self._link.clear()
        self._tell("batching", Start(self._epoch, self._size))
        while self._inbox:
            self._deliver()
        for request, command in self.commands.items():
            if request not in self.ended:
                self._send(request, command)

    def add(self, request: int, prompt: list[int], num_new_tokens: int, leader: int = 0, **fields: Any) -> None:
        """A client asks."""
        self.tokens[request] = list(prompt)
        self.scores[request] = []
        # The seed tells the device whose slot it is.
        command = Generate(
            request, list(prompt), len(prompt), len(prompt) + num_new_tokens, Ask(**fields), request, leader=leader
        )
        self.commands[request] = command
        self._send(request, command)

    def cancel(self, request: int) -> None:
        """A client leaves, if it is still there."""
        if request in self.commands and request not in self.ended:
            self.ended[request] = RequestState.CANCELLED
            self._tell("batching", Cancel(request))

    def hear_of(self, message: Message) -> None:
        """The device tells batching."""
        self._tell("batching", message)

    def turn(self) -> bool:
        """One step more is computed; or, where lots are drawn, one message taken in. False when nothing is left."""
        num_steps = len(self.device.steps)
        while len(self.device.steps) == num_steps:
            if self._inbox and not (self._link and self._lots and self._lots.random() < 0.3):
                self._deliver()
            elif self._link:
                result = self.device.take(self._link.popleft(), self._epoch)
                if result is not None:
                    self._tell("batching", result)
            else:
                self._batching.idle()
                return bool(self._inbox)
            if self._lots:
                break
        return True

    def run(self, most: int = 50_000) -> None:
        """Turns until nothing is left."""
        for _ in range(most):
            if not self.turn():
                return

    def check(self) -> None:
        """All books are in order."""
        self.scheduler.check_integrity()
        self.kv.check_integrity()

    def _send(self, request: int, command: Generate) -> None:
        self._tell("batching", replace(command, ids=list(self.tokens[request])))

    def _tell(self, name: str, message: Message) -> None:
        if name in ("batching", "kv"):
            self._inbox.append((name, message))
        elif name == "stage0":
            self._link.append(message)
        elif isinstance(message, Tokens) and message.epoch == self._epoch:
            self._hear(message)

    def _deliver(self) -> None:
        name, message = self._inbox.popleft()
        self._actors[name].receive(message)
        if not self._inbox:
            self._batching.flush()
        self.check()

    def _hear(self, message: Tokens) -> None:
        for row in message.rows:
            if row.request in self.ended:
                continue
            self.tokens[row.request] += row.ids
            extras = row.extras or Extras()
            self.scores[row.request] += [each.logprob for each in extras.prompt_logprobs]
            if row.state.is_finished:
                self.ended[row.request] = row.state


class _Device:
    """Every block keeps the tokens that were written into it; a row must see exactly the tokens before it."""

    def __init__(self, num_blocks: int, replica: Replica) -> None:
        self.steps: list[list[int]] = []
        """Tokens of each row, by step."""
        self._replica = replica
        self._memory = [[-1] * BLOCK_SIZE for _ in range(num_blocks)]
        self._tables: dict[int, tuple[list[int], int]] = {}
        """Slot → blocks and tokens in them."""
        self._opened: dict[int, Open] = {}
        self._prepared: set[int] = set()
        """Requests whose grammars are compiled and have not entered."""
        self._drawn: dict[int, int] = {}
        """Slot → the token drawn last."""

    @property
    def num_computed(self) -> int:
        """Tokens of all steps."""
        return sum(map(sum, self.steps))

    def take(self, message: Message, epoch: int) -> StepResult | None:
        """A command, or a step, which has a result."""
        match message:
            case Prepare(request):
                self._prepared.add(request)
                self._replica.hear_of(Prepared(request, epoch))
            case Open():
                if message.ask.grammar is not None:
                    assert message.request in self._prepared, "steps wait for a grammar"
                    self._prepared.discard(message.request)
                self._tables[message.slot] = ([], message.num_cached_tokens)
                self._opened[message.slot] = message
            case Copy(src, dst):
                for source, target in zip(src, dst, strict=True):
                    self._memory[target] = list(self._memory[source])
            case Close():
                pass
            case Step():
                return self._run(message, epoch)
        return None

    def _run(self, step: Step, epoch: int) -> StepResult:
        """Write the tokens of all rows, check what each row sees, and say the next ones as far as drafts are right."""
        ids: Iterator[int] = iter(step.ids)
        for row in step.rows:
            self._write(row, list(islice(ids, row.num_tokens)))
        sampled: list[int] = []
        num_ids: list[int] = []
        extras: dict[int, Extras] = {}
        drafted = iter(step.drafts)
        for row in step.rows:
            drafts = list(islice(drafted, max(row.num_sampled - 1, 0)))
            most = self._replica.commands[self._opened[row.slot].seed].ask.max_speculation
            assert most is None or len(drafts) <= most, "more is drafted than the request allows"
            known = self._known(row.slot, len(drafts))
            if row.num_sampled:
                gained = self._draw(row.slot, known, drafts)
                sampled += gained
                num_ids.append(len(gained))
            if row.num_scored:
                scores = [TokenLogprobs(float(row.start + index + 1)) for index in range(row.num_scored)]
                extras[row.slot] = Extras(prompt_logprobs=scores)
        self.steps.append([row.num_tokens for row in step.rows])
        seconds = 0.01 + 0.0001 * len(step.ids)
        return StepResult(step.step, epoch, sampled, seconds, num_ids=num_ids, extras=extras)

    def _write(self, row: Row, ids: list[int]) -> None:
        table, length = self._tables[row.slot]
        table = table + row.block_ids
        assert row.start == length or (row.rewind and row.start < length), "the row and its slot disagree"
        for position, token in enumerate(ids, row.start):
            written = self._drawn[row.slot] if token < 0 else token
            self._memory[table[position // BLOCK_SIZE]][position % BLOCK_SIZE] = written
        self._tables[row.slot] = (table, row.start + row.num_tokens)

    def _known(self, slot: int, num_drafts: int) -> list[int]:
        """What the blocks of the slot hold, without drafts."""
        table, length = self._tables[slot]
        seen = [token for block in table for token in self._memory[block]][: length - num_drafts]
        request = self._opened[slot].seed
        if request not in self._replica.ended:
            own = self._replica.tokens[request]
            if len(seen) > len(own):
                own = [*own, next_token(own)]  # what a step ahead goes on from, before its own token was told
            assert seen == own[: len(seen)], "a row sees tokens that are not its own"
        return seen

    def _draw(self, slot: int, known: list[int], drafts: list[int]) -> list[int]:
        gained = [next_token(known)]
        while len(gained) <= len(drafts) and drafts[len(gained) - 1] == gained[-1]:
            gained.append(next_token(known + gained))
        if self._opened[slot].ask.grammar is not None and len(gained) > len(drafts):
            for _ in range(sum(known) % 3):
                gained.append(next_token(known + gained))
        self._drawn[slot] = gained[-1]
        return gained
