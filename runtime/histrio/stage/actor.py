"""Stage: one backend, one device, a range of layers. Runs on the thread that owns the device and may block it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from histrio.actors.failed_step import blamed, note_failed_step
from histrio.actors.mailbox import FAILURES, Actor
from histrio.actors.refs import BATCHING, METRICS, ROOT, Tell, ToStage, refuse, stage_ref
from histrio.contracts.backend import (
    ArrayNamespace,
    GivesBack,
    OpenedStage,
    Progress,
    RunningStage,
    StageSpec,
    StepBatch,
)
from histrio.errors import request_code_of
from histrio.messages import (
    Allocated,
    Close,
    Copy,
    FailedStep,
    Loading,
    Open,
    Opened,
    Prepare,
    Prepared,
    Start,
    Stats,
    Step,
    StepResult,
    Stop,
    Tensor,
)
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.slots import DrawnTokens, SlotTable
from histrio.system.flight_record import Code, begin_step, end_step, seat
from histrio.system.heap import release_free_memory

__all__ = ["Activity", "StageActor"]

_FOLLOW = 0.2
_STATS_EVERY_S = 1.0

OpenStage: TypeAlias = Callable[[StageSpec, Progress], OpenedStage]
"""`BackendFactory.open`."""


class Activity:
    """What the device is doing, for the heartbeat: written by the stage's thread, read by the I/O thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[tuple[int, int], float] = {}
        self._shape = (0, 0)
        self.step = 0
        self.since = 0.0
        """Clock at the begin of the running step; 0 when idle."""
        self.total_s = 0.0
        """Seconds of all steps so far."""
        self.latency_s = 0.0
        """Seconds of a step: a moving average that follows the newest step by a fifth."""

    @property
    def busy_s(self) -> float:
        """Seconds the running step has taken so far."""
        since = self.since
        return self._clock() - since if since else 0.0

    @property
    def expected_s(self) -> float:
        """What the last step of about this shape took; 0 for a shape that is new."""
        return self._expected.get(self._shape, 0.0)

    def begin(self, step: int, num_rows: int, num_tokens: int) -> None:
        """A step starts."""
        self._shape = (num_rows.bit_length(), num_tokens.bit_length())
        self.step, self.since = step, self._clock()

    def go_on(self) -> None:
        """The step takes long for a reason: count from here."""
        self.since = self._clock()

    def now(self) -> float:
        """The clock, in seconds."""
        return self._clock()

    def end(self) -> float:
        """The step is done; seconds it took."""
        took = self._clock() - self.since
        self.since = 0.0
        self._expected[self._shape] = took
        self.total_s += took
        self.latency_s += (took - self.latency_s) * (_FOLLOW if self.latency_s else 1.0)
        return took


@dataclass(frozen=True, slots=True)
class _Allocated:
    """The stage since its last `Start`."""

    running: RunningStage
    xp: ArrayNamespace
    first_slot: int
    first_block_id: int
    code: Code
    """What the flight record says while the backend computes."""


class StageActor(Actor[ToStage]):
    """Turns steps into batches for the backend, samples on the last stage, passes everything else on in order."""

    def __init__(
        self, index: int, spec: StageSpec, open_stage: OpenStage, tell: Tell, last_stage: LastStage | None
    ) -> None:
        """`index` counts from 0 along the model's layers; the last stage has the `last_stage`."""
        assert (last_stage is not None) == spec.is_last, "the last stage samples, no other"
        self._index = index
        self._name = stage_ref(index)
        self._next = stage_ref(index + 1)
        """Takes what this stage hands on, unless this is the last one: then batching does."""
        self._spec = spec
        self._open_stage = open_stage
        self._tell = tell
        self._last_stage = last_stage
        self._epoch = 0
        self._is_closed = False
        self._opened: OpenedStage | None = None
        self._allocated: _Allocated | None = None
        self._table = SlotTable(0, 0)
        self._drawn = DrawnTokens(0)
        self.activity = Activity()
        self._stats_due = 0.0

    def start(self) -> None:
        """Open the stage, which may take minutes; raises what the backend raises."""
        self._opened = self._open_stage(self._spec, self._progress)
        self._tell(ROOT, Opened(self._index, self._opened.capacity))

    def receive(self, message: ToStage) -> None:
        """Carry out one command, or run one step."""
        if self._is_closed:
            return

        match message:
            case Start():
                self._start(message)
            case Stop():
                self._stop()
            case Step() | Open() | Close() | Copy() | Prepare():
                if self._allocated is not None:
                    self._follow(message, self._allocated)
                # else: of a chain that no longer exists, for this stage has taken the place of one that failed
            case _:
                refuse("a stage", message)

    def _follow(self, message: Step | Open | Close | Copy | Prepare, stage: _Allocated) -> None:
        match message:
            case Step():
                self._step(message, stage)
            case Open():
                self._open(message, stage)
            case Close(slot):
                stage.running.close_slot(slot + stage.first_slot)
                if self._last_stage is not None:
                    self._last_stage.close(slot)
                self._forward(message)
            case Copy(src, dst):
                first = stage.first_block_id
                stage.running.copy([block + first for block in src], [block + first for block in dst])
                self._forward(message)
            case Prepare():
                self._prepare(message)

    def flush(self) -> None:
        """Tell metrics what steps take, at most once a second."""
        if self._allocated is not None and self.activity.now() >= self._stats_due:
            self._report()

    def idle(self) -> None:
        """Steps of many shapes leave a scattered heap behind; give it back while no step waits."""
        if self._last_stage is not None:
            self._last_stage.idle()
        if self._allocated is not None and isinstance(self._allocated.running, GivesBack):
            self._allocated.running.give_back()
        release_free_memory()
        self._report()

    def _report(self) -> None:
        activity, spec = self.activity, self._spec
        self._stats_due = activity.now() + _STATS_EVERY_S
        latency_s = activity.latency_s / max(spec.last_layer - spec.first_layer, 1)
        values = {
            f"{self._name}_busy_seconds_total": activity.total_s,
            f'layer_latency_seconds{{stage="{self._index}"}}': latency_s,
        }
        self._tell(METRICS, Stats(self._epoch, values))

    def _progress(self, fraction: float, text: str) -> None:
        self._tell(ROOT, Loading(self._index, fraction, text))

    def _start(self, start: Start) -> None:
        assert self._opened is not None, "a stage opens before it starts"
        self._epoch = start.epoch
        size, capacity = start.size, self._opened.capacity
        running = self._opened.allocate(size)
        code = Code(f"backend ({type(running).__module__})", is_request_code=False)
        self._allocated = _Allocated(running, self._opened.xp, capacity.first_slot, capacity.first_block_id, code)
        max_blocks = -(-size.max_sequence_length // size.block_size)
        self._table = SlotTable(size.max_slots, max_blocks, capacity.first_slot, capacity.first_block_id)
        self._drawn = DrawnTokens(size.max_slots)
        if self._last_stage is not None:
            self._last_stage.forget_prepared()
        self._tell(ROOT, Allocated(self._name, start.epoch))

    def _stop(self) -> None:
        self._is_closed = True
        if self._last_stage is not None:
            self._last_stage.shutdown()
        if self._opened is not None:
            self._opened.close()

    def _open(self, command: Open, stage: _Allocated) -> None:
        self._table.open(command.slot, command.num_cached_tokens, command.request, command.ask.second_at)
        seat(command.slot + stage.first_slot, command.request)
        if self._last_stage is not None:
            self._last_stage.open(command)
        self._forward(command)

    def _prepare(self, command: Prepare) -> None:
        """Compile the grammar on another thread, which tells batching when it is done."""
        if self._last_stage is None:
            self._forward(command)
            return

        answer = Prepared(command.request, self._epoch)
        self._last_stage.prepare(command, lambda: self._tell(BATCHING, answer))

    def _forward(self, command: Open | Close | Copy | Prepare) -> None:
        """Pass a command on to the next stage, so that it cannot overtake a step."""
        if self._last_stage is None:
            self._tell(self._next, command)

    def _step(self, step: Step, stage: _Allocated) -> None:
        if step.epoch != self._epoch:
            return  # from a chain that no longer exists

        self.activity.begin(step.step, len(step.rows), sum(row.num_tokens for row in step.rows))
        batch = self._table.batch(step)
        if self._last_stage is not None and batch.token_ids is not None:
            self._drawn.fill_in(batch.token_ids, step)
        try:
            hidden, result = self._computed(step, batch, stage)
        except FAILURES as error:
            note_failed_step(error, self._failed_step(error, step, batch, stage))
            end_step()
            raise
        end_step()
        busy_s = step.busy_s + self.activity.end()
        if result is None:
            self._tell(self._next, msgspec.structs.replace(step, ids=[], hidden=hidden, busy_s=busy_s))
            return

        self._drawn.note(step, result)
        self._tell(BATCHING, msgspec.structs.replace(result, busy_s=busy_s))

    def _computed(self, step: Step, batch: StepBatch, stage: _Allocated) -> tuple[list[Tensor], StepResult | None]:
        """The hidden states for the next stage, or on the last stage the result for each sequence."""
        begin_step(step.step, batch.slots, batch.starts, batch.num_tokens)
        if self._last_stage is not None:
            self._last_stage.begin(step)
        with stage.code:
            output = stage.running.step(batch)
        if self._last_stage is None:
            return output.hidden, None

        return output.hidden, self._last_stage.draw(stage.xp, output, step)

    def _failed_step(self, error: BaseException, step: Step, batch: StepBatch, stage: _Allocated) -> FailedStep:
        """Look for the rows that are to blame. What is computed once more for that changes nothing that is used again:
        this stage has failed, and another one begins anew."""

        def compute_alone(index: int) -> None:
            self.activity.go_on()
            self._computed(step.row(index), batch.row(index), stage)

        code = request_code_of(error)
        failed = FailedStep(step.step, self._table.failed_rows(step), code, is_request_code=bool(code))
        return blamed(error, failed, compute_alone, self.activity.now)
