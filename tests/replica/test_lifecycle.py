"""The life of a replica: nothing runs before everything is there, and every failure begins a new epoch."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from histrio.actors.directory import Directory
from histrio.config.settings import SizeSettings
from histrio.errors import HistrioError
from histrio.messages import (
    PROTOCOL_VERSION,
    Allocated,
    Beat,
    ChildFailed,
    EngineCapacity,
    EngineOpened,
    FailedRow,
    FailedStep,
    Hello,
    Message,
    OnTrial,
    Opened,
    Placement,
    Probed,
    Ready,
    ReplicaDown,
    ReplicaUp,
    StageAnswer,
    StageCapacity,
    Start,
)
from histrio.replica.lifecycle import LINK, HostedActors, RootActor, replica_actors
from histrio.replica.sizing import SizeLimits

LIMITS = SizeLimits(SizeSettings(max_batch_size=8, max_num_tokens_per_batch=128), max_sequence_length=256)


def asking_for(num_cache_blocks: int) -> SizeLimits:
    return SizeLimits(replace(LIMITS.sizes, num_cache_blocks=num_cache_blocks), LIMITS.max_sequence_length)


class Links:
    """Records what would cross a process border."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Message]] = []
        self.gone: list[str] = []

    def connect(self, process: str, endpoint: str) -> None:
        raise AssertionError("root dials no process")

    def disconnect(self, process: str) -> None:
        self.gone.append(process)

    def send(self, process: str, actor: str, message: Message) -> None:
        self.sent.append((process, actor, message))

    def admit(self, peer_id: str) -> None:
        raise AssertionError("root admits no machine")

    def taken(self, kind: type[Message]) -> list[tuple[str, str, Message]]:
        """What was sent of this kind since the last look."""
        taken = [each for each in self.sent if isinstance(each[2], kind)]
        self.sent = [each for each in self.sent if not isinstance(each[2], kind)]
        return taken


class Killer:
    """A launcher that only notes which processes it should kill, and knows what they hang in."""

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.steps: dict[str, FailedStep] = {}

    def kill(self, process: str, reason: str) -> None:
        self.killed.append(process)

    def failed_step(self, process: str) -> FailedStep | None:
        return self.steps.get(process)

    def look(self, process: str) -> None:
        """A system that tells nothing."""


class World:
    """Root with two processes: an engine with stage 0, and a stage of its own."""

    def __init__(self, limits: SizeLimits = LIMITS) -> None:
        self.links = Links()
        self.now = 0.0
        directory = Directory("front", self.links)
        directory.route({"admission": "edge", "metrics": "edge"})
        self.root = RootActor(directory, limits, replica_actors(2), clock=lambda: self.now)
        self.killer = Killer()
        self.root.launcher = self.killer
        self.start("engine", 1)
        self.start("stage1", 1)

    def start(self, role: str, incarnation: int) -> None:
        actors = ["stage0", "kv", "batching"] if role == "engine" else ["stage1"]
        dials = [] if role == "engine" else ["engine"]
        process = f"{role}.{incarnation}"
        self.root.process_started(HostedActors(role, process, actors, f"ipc://{process}", dials))
        self.root.receive(Hello(process, 1, PROTOCOL_VERSION))

    def join(self) -> None:
        for actor in ("kv", "batching"):
            self.root.receive(Ready(actor))

    def open(self, stage: int, num_blocks: int = 100, capabilities: tuple[str, ...] = ("batch",)) -> None:
        capacity = StageCapacity({16: num_blocks}, 8, 128, "float32", 0, 8, capabilities=list(capabilities))
        self.root.receive(Opened(stage, capacity))

    def come_up(self) -> None:
        self.join()
        self.open(0)
        self.open(1, num_blocks=40)
        for actor in ("stage0", "kv", "batching", "stage1"):
            self.root.receive(Allocated(actor, self.root.epoch))

    def pass_time(self, seconds: float, *beats: Beat) -> None:
        """The timer's ticks, and the same beats before each."""
        for _ in range(int(2 * seconds)):
            self.now += 0.5
            for beat in beats:
                self.root.receive(beat)
            self.root.check_processes()


def test_nothing_starts_before_every_actor_is_there() -> None:
    world = World()
    world.open(0)
    world.open(1, num_blocks=40)
    assert world.links.taken(Start) == [], "kv and batching are not there yet"
    world.join()
    starts = world.links.taken(Start)
    assert [(process, actor) for process, actor, _ in starts] == [
        ("engine.1", "stage0"),
        ("engine.1", "batching"),  # which tells kv
        ("stage1.1", "stage1"),
    ]
    num_blocks = {start.size.num_blocks for _, _, start in starts if isinstance(start, Start)}
    assert num_blocks == {40}, "the smallest stage decides"


def test_a_later_process_is_told_where_to_dial_the_earlier_one() -> None:
    world = World()
    world.come_up()
    endpoints = {process: start.endpoints for process, _, start in world.links.taken(Start) if isinstance(start, Start)}
    assert endpoints == {"engine.1": {}, "stage1.1": {"engine.1": "ipc://engine.1"}}


@pytest.mark.parametrize(("names", "expected"), [(["cpu", "cpu"], 1), (["cpu", "cuda:0"], 2)])
def test_batching_is_told_how_many_stages_compute_side_by_side(names: list[str], expected: int) -> None:
    world = World()
    world.root.settle = lambda answers: [
        Placement(each.stage, "", 0.0, computes_on=name) for each, name in zip(answers, names, strict=True)
    ]
    for stage, process in enumerate(("engine.1", "stage1.1")):
        world.root.receive(Probed(process, [StageAnswer(stage)]))
    world.come_up()
    starts = [start for _, _, start in world.links.taken(Start) if isinstance(start, Start)]
    assert {start.num_side_by_side for start in starts} == {expected}


def test_requests_flow_only_when_all_have_allocated() -> None:
    world = World()
    world.join()
    world.open(0)
    world.open(1)
    for actor in ("stage0", "kv", "batching"):
        world.root.receive(Allocated(actor, 1))
    assert world.links.taken(ReplicaUp) == []
    world.root.receive(Allocated("stage1", 1))
    assert len(world.links.taken(ReplicaUp)) == 1


def test_a_dead_process_takes_the_replica_down_until_a_new_one_has_opened() -> None:
    world = World()
    world.come_up()
    world.links.sent.clear()
    world.root.process_exited("stage1.1", "was killed by signal 9")
    assert len(world.links.taken(ReplicaDown)) == 1
    assert world.links.gone == ["stage1.1"]
    world.start("stage1", 2)
    assert world.links.taken(Start) == []
    world.open(1)
    assert {start.epoch for _, _, start in world.links.taken(Start) if isinstance(start, Start)} == {2}


def test_answers_to_an_epoch_that_is_over_do_not_count() -> None:
    world = World()
    world.come_up()
    world.root.receive(ChildFailed("kv", "broken"))
    world.links.taken(ReplicaUp)
    world.root.receive(Ready("kv"))
    assert world.root.epoch == 2
    for actor in ("stage0", "kv", "batching", "stage1"):
        world.root.receive(Allocated(actor, 1))
    assert world.links.taken(ReplicaUp) == []


def test_a_hung_process_takes_the_replica_down_before_its_end() -> None:
    world = World()
    world.come_up()
    world.pass_time(0.5, Beat("engine.1", 7, busy_s=30.0, expected_s=10.0))
    world.pass_time(0.5, Beat("engine.1", 7, busy_s=299.0, expected_s=0.0))
    assert world.killer.killed == [], "the first step of a shape may compile for long"
    assert world.links.taken(ReplicaDown) == []

    world.pass_time(0.5, Beat("engine.1", 7, busy_s=10.5, expected_s=0.1))
    assert world.killer.killed == ["engine.1"]
    assert len(world.links.taken(ReplicaDown)) == 1
    assert world.links.gone == ["engine.1"]
    world.root.process_exited("engine.1", "was killed by signal 9")
    assert world.links.taken(ReplicaDown) == [], "its end, much later, is no news"
    world.links.sent.clear()
    world.start("engine", 2)
    world.join()
    world.open(0)
    assert {process for process, _, _ in world.links.taken(Start)} == {"engine.2", "stage1.1"}


def test_a_silent_process_is_killed_when_requests_may_flow_and_not_while_it_loads() -> None:
    world = World()
    world.pass_time(60.0, Beat("engine.1", 0, 0.0, 0.0))
    assert world.killer.killed == []
    world.come_up()
    world.pass_time(15.0, Beat("engine.1", 0, 0.0, 0.0))
    assert world.killer.killed == ["stage1.1"]


def test_a_process_that_cannot_be_reached_is_replaced() -> None:
    world = World()
    world.come_up()
    world.root.receive(ChildFailed(f"{LINK}engine.1", "cannot be reached by stage1.1"))
    world.root.lost("stage1.1", "cannot be reached")
    world.root.lost("stage1.1", "cannot be reached")
    assert world.killer.killed == ["engine.1", "stage1.1"]
    world.root.process_exited("engine.1", "ended with exit code 3", is_own_doing=True)
    world.root.check_processes()
    assert world.links.gone == ["engine.1"], "how it ended tells more, so its end is waited for"
    world.now += 0.6
    world.root.check_processes()
    assert world.links.gone == ["engine.1", "stage1.1"], "but it may never come"


def test_a_process_that_ends_before_it_begins_is_not_started_again() -> None:
    world = World()
    world.root.process_started(HostedActors("stage2", "stage2.1", ["stage2"], "ipc://stage2.1"))
    world.root.process_exited("stage2.1", "ended with exit code 1", is_own_doing=True)
    assert "stage2.1 ended with exit code 1 before it could begin" in str(world.root.failure)


@pytest.mark.parametrize("is_own_doing", [False, True])
def test_a_process_that_is_ended_or_that_has_begun_is_started_again(is_own_doing: bool) -> None:
    world = World()
    process = "stage1.1" if is_own_doing else "stage2.1"
    world.root.process_started(HostedActors("stage2", "stage2.1", ["stage2"], "ipc://stage2.1"))
    world.root.process_exited(process, "ended", is_own_doing=is_own_doing)
    assert world.root.failure is None


def test_what_cannot_start_fails_for_good_the_first_time_and_is_tried_again_later() -> None:
    first, later = World(), World()
    first.root.receive(ChildFailed("stage1", "there is no such device", is_final=True))
    assert "there is no such device" in str(first.root.failure)
    later.come_up()
    later.root.process_exited("stage1.1", "was killed by signal 9")
    later.start("stage1", 2)
    later.root.receive(ChildFailed("stage1", "its memory is not free yet", is_final=True))
    assert later.root.failure is None
    assert later.killer.killed == ["stage1.2"]


def test_what_does_not_fit_fails_for_good() -> None:
    world = World(asking_for(1000))
    world.join()
    world.open(0)
    world.open(1)
    assert isinstance(world.root.failure, HistrioError)
    assert "1000" in str(world.root.failure)
    (_, _, down) = world.links.taken(ReplicaDown)[0]
    assert isinstance(down, ReplicaDown)
    assert down.final


def test_an_engine_without_a_stage_is_started_again_like_any_other() -> None:
    world = World()
    world.come_up()
    world.root.process_exited("engine.1", "was killed by signal 9")
    world.start("engine", 2)
    world.open(0)
    world.links.sent.clear()
    assert world.links.taken(Start) == []
    world.join()
    assert {process for process, _, _ in world.links.taken(Start)} == {"engine.2", "stage1.1"}


def test_what_a_stage_cannot_is_said_when_the_replica_comes_up(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.join()
    world.open(0, capabilities=("rewind", "batch"))
    world.open(1, capabilities=("rewind",))
    with caplog.at_level(logging.INFO):
        for actor in ("stage0", "kv", "batching", "stage1"):
            world.root.receive(Allocated(actor, 1))
    assert "stage1 cannot batch: one sequence runs at a time" in caplog.messages
    assert not any("rewind" in message for message in caplog.messages), "a control: both can"


def test_an_engine_is_a_whole_replica() -> None:
    links = Links()
    directory = Directory("front", links)
    directory.route({"admission": "edge", "metrics": "edge"})
    root = RootActor(directory, LIMITS, replica_actors(0))
    root.process_started(HostedActors("engine", "engine.1", ["batching"], "ipc://engine.1"))
    assert links.taken(Start) == []
    root.receive(EngineOpened(EngineCapacity(4, 200, 1000, "float32", ["logprobs"])))
    ((process, actor, start),) = links.taken(Start)
    assert (process, actor) == ("engine.1", "batching")
    assert isinstance(start, Start)
    assert (start.size.num_blocks, start.size.block_size, start.size.max_slots) == (1000, 1, 4)
    assert (start.size.max_sequence_length, start.size.capabilities) == (200, ["logprobs"])
    root.receive(Allocated("batching", 1))
    assert len(links.taken(ReplicaUp)) == 1

    root.process_exited("engine.1", "was killed by signal 9")
    root.process_started(HostedActors("engine", "engine.2", ["batching"], "ipc://engine.2"))
    assert links.taken(Start) == [], "the new one has not opened"
    root.receive(EngineOpened(EngineCapacity(4, 200, 1000, "float32")))
    assert [process for process, _, _ in links.taken(Start)] == ["engine.2"]


def downs(world: World) -> list[ReplicaDown]:
    return [down for _, _, down in world.links.taken(ReplicaDown) if isinstance(down, ReplicaDown)]


def fail_stage1(world: World, error: str = "ValueError: secret") -> None:
    world.come_up()
    world.root.receive(ChildFailed("stage1", error, is_request_code=True))
    world.open(1)


def test_a_failure_during_a_trial_is_the_requests_and_counts_neither_time() -> None:
    world = World()
    for request in range(1, 40):
        fail_stage1(world)
        world.come_up()
        world.root.receive(OnTrial(request))
        fail_stage1(world)
    assert [down.convicted for down in downs(world)] == [each for request in range(1, 40) for each in (0, request)]
    assert world.root.failure is None
    for _ in range(4):
        fail_stage1(world)
    assert world.root.failure is not None, "a control: without a trial they count"


def test_a_failure_while_nothing_is_up_convicts_no_request() -> None:
    world = World()
    world.come_up()
    world.root.receive(OnTrial(7))
    world.root.process_exited("stage1.1", "was killed by signal 9")
    world.start("stage1", 2)
    world.root.process_exited("stage1.2", "ended with exit code 1", is_own_doing=True)
    assert [down.convicted for down in downs(world)] == [0]


def test_a_signal_convicts_when_it_comes_twice_to_the_same_request() -> None:
    world = World()
    for incarnation, request in enumerate((7, 8, 8), 1):
        world.come_up()
        world.root.receive(OnTrial(request))
        world.root.process_exited(f"stage1.{incarnation}", "was killed by signal 9")
        world.start("stage1", incarnation + 1)
    assert [down.convicted for down in downs(world)] == [0, 0, 8]


def test_an_end_from_inside_convicts_if_the_failure_before_came_from_inside_too() -> None:
    world = World()
    incarnation = 1
    for request, is_own_doing in ((0, False), (7, True), (0, True), (8, True), (9, False)):
        world.come_up()
        world.root.receive(OnTrial(request))
        world.root.process_exited(f"stage1.{incarnation}", "killed by signal 6", is_own_doing=is_own_doing)
        incarnation += 1
        world.start("stage1", incarnation)
    assert [down.convicted for down in downs(world)] == [0, 0, 0, 8, 0]


def test_suspicion_ends_when_all_suspects_have_been_tried() -> None:
    for has_settled, convicted in ((True, 0), (False, 7)):
        world = World()
        fail_stage1(world)
        world.come_up()
        if has_settled:
            world.root.receive(OnTrial(0))
        world.root.process_exited("stage1.1", "killed by signal 9")
        world.start("stage1", 2)
        world.come_up()
        world.root.receive(OnTrial(7))
        world.root.process_exited("stage1.2", "killed by signal 6", is_own_doing=True)
        assert downs(world)[-1].convicted == convicted


def test_a_device_that_fails_convicts_when_it_does_so_in_two_trials_of_a_request() -> None:
    world = World()
    for request in (7, 8, 8):
        world.come_up()
        world.root.receive(OnTrial(request))
        world.root.receive(ChildFailed("stage1", "RuntimeError: the device"))
        world.open(1)
    assert [down.convicted for down in downs(world)] == [0, 0, 8]


def test_a_step_that_raises_again_convicts_the_request_that_is_alone_in_it() -> None:
    world = World()
    for request, raises_again in ((7, True), (8, False)):
        world.come_up()
        world.root.receive(OnTrial(request))
        step = FailedStep(9, [FailedRow(request, 4, 5)], raises_again=raises_again)
        world.root.receive(ChildFailed("stage1", "RuntimeError", failed_step=step))
        world.open(1)
    assert [down.convicted for down in downs(world)] == [7, 0], "a control: the device failed for a moment"


def test_those_whose_rows_raise_alone_end_at_once_and_count_neither_time() -> None:
    world = World()
    for request in range(1, 20):
        world.come_up()
        step = FailedStep(9, [FailedRow(request, 4, 5), FailedRow(77, 2, 3)], culprits=[request])
        world.root.receive(ChildFailed("stage1", "RuntimeError", failed_step=step))
        world.open(1)
    assert [(down.culprits, down.suspects) for down in downs(world)] == [([each], []) for each in range(1, 20)]
    assert world.root.failure is None


def test_only_those_in_the_failed_step_are_suspected() -> None:
    world = World()
    world.come_up()
    step = FailedStep(9, [FailedRow(3, 4, 5), FailedRow(4, 0, 3)])
    world.root.receive(ChildFailed("stage1", "RuntimeError", failed_step=step))
    world.open(1)
    world.come_up()
    world.root.receive(ChildFailed("stage1", "RuntimeError"))
    assert [down.suspects for down in downs(world)] == [[3, 4], None]


def test_a_process_that_ends_or_hangs_in_a_step_names_the_code_and_the_rows_of_it() -> None:
    world = World()
    step = FailedStep(9, [FailedRow(3, 4, 5)], "sampler 'dice' (games)", is_request_code=True)
    world.come_up()
    world.root.process_exited("stage1.1", "killed by signal 9 (SIGKILL)", step=step)
    world.start("stage1", 2)
    world.come_up()
    world.root.process_exited("stage1.2", "killed by signal 9 (SIGKILL)", step=FailedStep(0, [], "drafter 'x' (y)"))
    told = downs(world)
    assert [(down.suspects, down.code) for down in told] == [([3], step.code), (None, "drafter 'x' (y)")]
    assert told[0].reason == "process stage1.1 killed by signal 9 (SIGKILL), in sampler 'dice' (games)"


def test_a_failure_where_the_request_has_got_on_may_be_chance_but_not_twice() -> None:
    world = World()
    fail_stage1(world)
    for request in (8, 8, 9):
        world.come_up()
        world.root.receive(OnTrial(request))
        world.root.receive(OnTrial(request, has_got_on=request == 8))
        world.root.receive(ChildFailed("stage1", "RuntimeError: a bit fell over", is_request_code=True))
        world.open(1)
    assert [down.convicted for down in downs(world)] == [0, 0, 8, 9], "the last, a control, failed where it had failed"


def test_admission_hears_no_exception_text() -> None:
    world = World()
    for _ in range(4):
        fail_stage1(world)
    assert world.root.failure is not None
    assert [down.final for down in downs(world)][-1]
    assert not any("secret" in down.reason for down in downs(world))
    assert "secret" not in str(world.root.failure)


def test_what_fails_before_the_replica_was_ever_up_fails_at_once() -> None:
    world = World()
    world.root.receive(ChildFailed("stage1", "OSError: no such device", ends_process=True))
    assert "stage1 cannot be started: OSError: no such device" in str(world.root.failure)


def test_a_process_that_ends_for_its_actor_counts_once() -> None:
    world = World()
    for incarnation in range(1, 4):
        world.come_up()
        world.root.receive(ChildFailed("stage1", "MemoryError: no memory", ends_process=True))
        world.root.process_exited(f"stage1.{incarnation}", "ended with exit code 1", is_own_doing=True)
        world.start("stage1", incarnation + 1)
    assert world.root.failure is None
    world.come_up()
    world.root.receive(ChildFailed("stage1", "MemoryError: no memory", ends_process=True))
    assert world.root.failure is not None, "a control: the fourth is one too many"
