"""An engine behind batching's mailbox: what passes, what is dropped, and what a new epoch does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from histrio.contracts.backend import Probe, StageSpec, Traits
from histrio.contracts.engine_backend import EngineEvents
from histrio.contracts.honours import Honours
from histrio.errors import EngineError, RequestError
from histrio.messages import (
    Allocated,
    Ask,
    Cancel,
    ChildFailed,
    EngineCapacity,
    EngineOpened,
    Extras,
    Generate,
    Loading,
    Message,
    ReplicaSize,
    RequestState,
    Start,
    Stats,
    Stop,
    TokenLogprobs,
    TokenRow,
    Tokens,
)
from histrio.replica.hosted_engine import EngineActor

DECODING, DONE = RequestState.DECODING, RequestState.FINISHED_MAX_LENGTH
SIZE = ReplicaSize(num_blocks=800, block_size=1, max_slots=2, max_step_tokens=64, max_sequence_length=100)


class _Fields(msgspec.Struct, frozen=True):
    temperature: float = 1.0


class PaperEngine:
    """Factory and engine in one: notes what it is told, and says what a test has it say."""

    name = "paper-engine"
    traits = Traits(contract=1, level="engine")
    fields: type[msgspec.Struct] = _Fields
    honours = Honours()

    def __init__(self) -> None:
        self.submitted: list[Generate] = []
        self.aborted: list[int] = []
        self.num_closed = 0
        self.events: EngineEvents | None = None

    def probe(self) -> Probe:
        return Probe(available=True)

    def supports(self, spec: StageSpec) -> Probe:
        return Probe(available=True)

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        return sampling.get("temperature") == 0

    def create(self) -> PaperEngine:
        return self

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        events.progress(0.5, "paper")
        self.events = events
        return EngineCapacity(2, 100, 800, "float32")

    def submit(self, command: Generate) -> None:
        if command.ask.sampling.get("temperature") == 13:
            raise RequestError("13 is unlucky")
        self.submitted.append(command)

    def abort(self, request: int) -> None:
        self.aborted.append(request)

    def close(self) -> None:
        self.num_closed += 1


class World:
    """The actor with a mailbox that the test empties."""

    def __init__(self) -> None:
        self.engine = PaperEngine()
        self.told: list[tuple[str, Message]] = []
        self.now = 0.0
        spec = StageSpec("paper", 0, 4, 4)
        self.actor = EngineActor(spec, self.engine, lambda name, message: self.told.append((name, message)), self.clock)

    def clock(self) -> float:
        return self.now

    def begin(self, epoch: int = 1) -> None:
        self.actor.receive(Start(epoch, SIZE))

    def run(self, request: int, **sampling: Any) -> int:
        """Submit a request; the number by which the engine knows it, or -1 if it never came there."""
        known = len(self.engine.submitted)
        self.actor.receive(Generate(request, [1, 2], 2, 50, Ask(sampling)))
        return self.engine.submitted[-1].request if len(self.engine.submitted) > known else -1

    def say(self, *rows: TokenRow) -> None:
        """As an engine's thread does; the message waits in the actor's mailbox."""
        assert self.engine.events is not None
        self.engine.events.tokens(list(rows))

    def turn(self) -> list[list[TokenRow]]:
        """Empty the mailbox and flush, as a dispatcher does; the rows of each message to admission."""
        mine = [message for name, message in self.told if name == "batching"]
        self.told = [each for each in self.told if each[0] != "batching"]
        for message in mine:
            assert isinstance(message, Tokens | ChildFailed), "what an engine's own threads tell"
            self.actor.receive(message)
        self.actor.flush()
        news = [message.rows for name, message in self.told if name == "admission" and isinstance(message, Tokens)]
        self.told = [each for each in self.told if each[0] != "admission"]
        return news

    def of_kind(self, kind: type[Message]) -> list[Message]:
        return [message for _name, message in self.told if isinstance(message, kind)]


@pytest.fixture
def world() -> World:
    world = World()
    world.actor.start()
    world.begin()
    return world


def test_opening_tells_root_what_the_engine_holds(world: World) -> None:
    assert world.of_kind(Loading) == [Loading(0, 0.5, "paper")]
    assert world.of_kind(EngineOpened) == [EngineOpened(EngineCapacity(2, 100, 800, "float32"))]
    assert world.of_kind(Allocated) == [Allocated("batching", 1)]


def test_all_tokens_of_a_turn_are_one_message(world: World) -> None:
    first, second = world.run(5), world.run(6)
    world.say(TokenRow(first, [10], DECODING, Extras(logprobs=[TokenLogprobs(-0.5)])), TokenRow(second, [20], DECODING))
    world.say(TokenRow(first, [11], DONE))
    assert world.turn() == [
        [
            TokenRow(5, [10], DECODING, Extras(logprobs=[TokenLogprobs(-0.5)])),
            TokenRow(6, [20], DECODING),
            TokenRow(5, [11], DONE),
        ]
    ]
    assert world.turn() == [], "a control: nothing new, no message"


def test_rows_of_ended_cancelled_and_unknown_requests_are_dropped(world: World) -> None:
    ended, cancelled, running = world.run(5), world.run(6), world.run(7)
    world.say(TokenRow(ended, [1], DONE))
    assert world.turn() == [[TokenRow(5, [1], DONE)]]
    world.actor.receive(Cancel(6))
    assert world.engine.aborted == [cancelled]
    for run in (ended, cancelled, 12345):
        world.say(TokenRow(run, [2], DECODING))
    world.say(TokenRow(running, [3], DECODING))
    assert world.turn() == [[TokenRow(7, [3], DECODING)]]
    world.actor.receive(Cancel(5))
    assert world.engine.aborted == [cancelled], "what has ended is not aborted"


def test_a_new_epoch_aborts_everything_and_takes_no_late_row_for_a_replays(world: World) -> None:
    old = world.run(5, temperature=0)
    world.begin(2)
    assert world.engine.aborted == [old]
    new = world.run(5, temperature=0)
    world.say(TokenRow(old, [66], DECODING))
    assert world.turn() == []
    world.say(TokenRow(new, [7], DECODING))
    assert world.turn() == [[TokenRow(5, [7], DECODING)]], "a control: the replay's own rows pass"


def test_a_command_that_the_engine_refuses_ends_alone(world: World) -> None:
    assert world.run(5, temperature=13) == -1
    run = world.run(6)
    world.say(TokenRow(run, [1], DECODING))
    ((refused, other),) = world.turn()
    assert refused == TokenRow.failed(5, "13 is unlucky", "invalid_value")
    assert (other.request, other.ids) == (6, [1])


def test_a_request_longer_than_the_engine_that_came_back_is_refused(world: World) -> None:
    world.actor.receive(Generate(5, [1], 1, 101))
    world.actor.receive(Generate(6, [1], 1, 100))
    ((row,),) = world.turn()
    assert (row.request, row.state) == (5, RequestState.ERROR)
    assert row.extras is not None
    assert "room for 100 tokens" in row.extras.reason
    assert [command.max_total_tokens for command in world.engine.submitted] == [100]


def test_commands_of_no_epoch_are_dropped() -> None:
    world = World()
    world.actor.start()
    assert world.run(5) == -1
    world.begin()
    assert world.run(5) > 0


def test_a_broken_engine_fails_the_actor_on_its_own_thread(world: World) -> None:
    assert world.engine.events is not None
    world.engine.events.failed("out of paper")
    with pytest.raises(EngineError, match="out of paper"):
        world.turn()


def test_stopping_closes_the_engine(world: World) -> None:
    world.actor.receive(Stop())
    assert world.engine.num_closed == 1


def test_sizes_and_totals_reach_metrics_once_a_second_and_when_work_runs_out(world: World) -> None:
    runs = [world.run(request) for request in (5, 6, 7)]
    world.turn()
    world.say(TokenRow(runs[0], [1, 2], DONE))
    world.turn()
    (early,) = world.of_kind(Stats)
    world.now = 1.5
    world.say(*(TokenRow(run, [3], DONE) for run in runs[1:]))
    world.turn()
    _, last = world.of_kind(Stats)
    assert isinstance(early, Stats)
    assert isinstance(last, Stats)
    assert (early.values["running_sequences"], early.values["waiting_sequences"]) == (2, 1)
    assert last.values == {
        "running_sequences": 0,
        "waiting_sequences": 0,
        "submitted_tokens_total": 6,
        "generated_tokens_total": 4,
    }
