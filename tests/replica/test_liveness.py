"""Which process is hung and which only busy, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from histrio.config.topology import RuntimeTable
from histrio.messages import Beat
from histrio.replica.liveness import Liveness
from histrio.system.own_time import OwnTime

LIMITS = RuntimeTable(hang_timeout_s=10.0, first_step_timeout_s=100.0, start_timeout_s=50.0, load_timeout_s=70.0)
TICK_S = 0.5
IDLE = Beat("engine.1", 0, 0.0, 0.0)


@dataclass
class Process:
    """One process, as the operating system shows it."""

    is_stopped: bool = False
    cpu_s: float = 0.0
    descendants_s: float = 0.0

    def work_s(self) -> float:
        """Its own and that of what it started."""
        return self.cpu_s + self.descendants_s


@dataclass
class World:
    """A judge and one process."""

    now: float = 0.0
    process: Process = field(default_factory=Process)
    is_loading: bool = False
    verdicts: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judge = Liveness(LIMITS, lambda: self.now)
        self.judge.started("engine.1")

    def serve(self) -> None:
        """Let it begin, load and go idle."""
        self.judge.begun("engine.1")
        self.judge.beat(IDLE)

    def run(self, seconds: float, beat: Beat | None = None, *, cpu: float = 0.0, descendants: float = 0.0) -> float:
        """Ticks with a beat before each, while it computes with that share of a core; when it was found hung."""
        began = self.now
        while self.now < began + seconds and not self.verdicts:
            self.now += TICK_S
            self.process.cpu_s += TICK_S * cpu
            self.process.descendants_s += TICK_S * descendants
            if beat is not None:
                self.judge.beat(beat)
            self.check()
        return self.now - began

    def check(self) -> None:
        self.verdicts += self.judge.check(lambda _name: self.process, lambda _name: self.is_loading)


@pytest.fixture
def world() -> World:
    return World()


def test_an_idle_process_that_says_so_lives_for_ever(world: World) -> None:
    world.serve()
    world.run(1000.0, IDLE)
    assert world.verdicts == []


def test_silence_without_work_is_a_hang(world: World) -> None:
    world.serve()
    assert 10.0 < world.run(1000.0) < 15.0
    assert [name for name, _ in world.verdicts] == ["engine.1"]
    assert "no sign of life" in world.verdicts[0][1]


@pytest.mark.parametrize(("cpu", "descendants"), [(0.1, 0.0), (0.0, 0.1)])
def test_silence_with_work_is_a_held_lock(world: World, cpu: float, descendants: float) -> None:
    world.serve()
    world.run(60.0, cpu=cpu, descendants=descendants)
    assert world.verdicts == []
    world.run(60.0, cpu=cpu, descendants=descendants)
    assert world.verdicts, "but not for ever"


def test_what_the_beats_themselves_cost_is_no_work(world: World) -> None:
    world.serve()
    assert world.run(100.0, cpu=0.002) < 20.0


def test_a_step_of_a_known_size_has_five_times_what_it_took(world: World) -> None:
    world.serve()
    world.run(1.0, Beat("engine.1", 3, 30.0, 10.0))
    world.run(1.0, Beat("engine.1", 3, 9.0, 0.1))
    assert world.verdicts == []
    world.run(1.0, Beat("engine.1", 3, 10.5, 0.1))
    assert "hangs in step 3" in world.verdicts[0][1]


def test_the_first_step_of_a_size_may_compile_but_not_for_ever(world: World) -> None:
    world.serve()
    world.run(1.0, Beat("engine.1", 3, 99.0, 0.0))
    assert world.verdicts == []
    world.run(1.0, Beat("engine.1", 3, 101.0, 0.0))
    assert "hangs in step 3" in world.verdicts[0][1]


def test_a_first_step_that_silences_the_process_has_the_same_time(world: World) -> None:
    world.serve()
    world.run(1.0, Beat("engine.1", 3, 1.0, 0.0))
    world.run(60.0)
    assert world.verdicts == []
    assert world.run(200.0) < 60.0


def test_messages_that_are_not_handled_are_a_hang(world: World) -> None:
    world.serve()
    for stuck_s in range(9):
        world.run(1.0, Beat("engine.1", 0, 0.0, 0.0, stuck_s=stuck_s))
    assert world.verdicts == []
    for stuck_s in range(9, 14):
        world.run(1.0, Beat("engine.1", 0, 0.0, 0.0, stuck_s=stuck_s))
    assert "has not handled its messages" in world.verdicts[0][1]


def test_a_message_that_takes_work_is_waited_for(world: World) -> None:
    world.serve()
    for stuck_s in range(50):
        world.run(1.0, Beat("engine.1", 0, 0.0, 0.0, stuck_s=stuck_s), cpu=0.5)
    assert world.verdicts == []


def test_a_stopped_process_is_found_at_once_and_a_traced_one_is_none(world: World) -> None:
    world.serve()
    world.process.is_stopped = True
    world.run(30.0, IDLE, cpu=0.1)
    assert world.verdicts == [], "a tracer stops it at every call, and lets it go on"
    assert world.run(30.0) < 3.0
    assert world.verdicts == [("engine.1", "is stopped")]


def test_a_process_stopped_before_its_first_message_is_found_too(world: World) -> None:
    world.process.is_stopped = True
    assert world.run(30.0) < 3.0
    assert world.verdicts == [("engine.1", "is stopped")]


def test_a_start_has_a_limit_of_its_own(world: World) -> None:
    assert 50.0 < world.run(1000.0, cpu=1.0) < 52.0
    assert "did not begin" in world.verdicts[0][1]


def test_loading_goes_on_while_it_works_or_gets_on(world: World) -> None:
    world.is_loading = True
    world.judge.begun("engine.1")
    world.run(500.0, cpu=0.05)  # silent all the time
    for _ in range(10):
        world.run(60.0, IDLE)
        world.judge.got_on("engine.1")
    assert world.verdicts == []
    assert 69.0 < world.run(1000.0, IDLE) < 72.0
    assert "without any progress" in world.verdicts[0][1]


def test_what_the_judge_slept_through_is_nobodys_silence(world: World) -> None:
    world.serve()
    for _ in range(8):
        world.now += 60.0  # it was stopped; what others said meanwhile it hears later
        world.check()
    assert world.verdicts == []
    world.run(10.0)
    assert world.verdicts, "the control: time that it lived through counts"


def test_of_a_process_that_ended_nothing_is_said(world: World) -> None:
    world.serve()
    world.judge.gone("engine.1")
    world.judge.beat(IDLE)
    world.run(100.0)
    assert world.verdicts == []


def test_own_time_leaves_out_gaps() -> None:
    now = 5.0
    clock = OwnTime(1.0, lambda: now)
    seen = []
    for step in (0.25, 0.5, 3600.0, 0.25):
        now += step
        seen.append(clock())
    assert seen == [0.25, 0.75, 1.75, 2.0]
