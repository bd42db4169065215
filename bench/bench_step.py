"""A whole step without processes: batching, kv, stage and sampler, from one `StepResult` to the next.

The *null* device answers prepared logits at once, so that what remains is the runtime's own cost: applying a result,
scheduling, block tables, sampling and messages. With *torch* the clock stands still while the model's kernels run, from
the embedding to the logits; `indices` also counts how long the backend takes to turn block tables into indices, which
it does when the first layer asks. The *toy* device is measured as a whole. All in CPU time of this thread.

With *grammars* every row has one: their masks are computed by a thread of its own, whose time does not count, and
applied here. With *drafts* four are verified for every row, and all come true: divide by the tokens to compare.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor, Dispatcher
from histrio.actors.refs import ADMISSION, BATCHING, KV, METRICS, ROOT, M, Ref, stage_ref
from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.config.settings import SizeSettings, SpeculationSettings
from histrio.contracts.backend import (
    ArrayNamespace,
    Capability,
    Progress,
    StageCapacity,
    StageOutput,
    StageSpec,
    StepBatch,
)
from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.kv.actor import KvActor
from histrio.messages import Ask, Generate, GrammarSpec, Message, ReplicaSize, Start, Step, StepResult, Tokens
from histrio.net.wire import decode, encode
from histrio.stage.actor import OpenStage, StageActor
from histrio.stage.sampling.grammar_table import GrammarTable
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio.testing.models import EOS_ID, write_tokenizer
from histrio.testing.scripted_drafter import ScriptedDrafter
from histrio.testing.toy import ToyStage, write_toy_model
from histrio.testing.wait import eventually
from histrio_grammars.backend import Llguidance
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

VOCAB = 258
FIRST_STAGE = stage_ref(0)
PROMPT_TOKENS = 500
MAX_SEQUENCE_LENGTH = 4096
BLOCK_SIZE = 16
NUM_DRAFTS = 4
LETTER = 64
"""Token of the letter a."""
VERIFYING: list[str] = [Capability.REWIND, Capability.ALL_POSITION_LOGITS]


class _Clock:
    """CPU time of this thread without that of a device."""

    def __init__(self) -> None:
        self._device_s = 0.0
        self._since: float | None = None

    def now(self) -> float:
        return time.thread_time() - self._device_s

    def device_starts(self, *_: Any) -> None:
        self._since = time.thread_time()

    def device_stops(self, *_: Any) -> None:
        if self._since is not None:
            self._device_s += time.thread_time() - self._since
            self._since = None


CLOCK = _Clock()

SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
}


class NullStage:
    """A device that takes no time: the same logits for every row."""

    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        self.xp: ArrayNamespace = NumpyArrays()
        self.capacity = StageCapacity(
            {BLOCK_SIZE: 2**20}, spec.sizes.max_batch_size, spec.sizes.max_num_tokens_per_batch, "float32", 0, 0
        )
        self._row = np.random.default_rng(1).standard_normal(VOCAB).astype(np.float32)
        self._row[LETTER] = 10.0  # a byte that grammars allow, and that is drafted

    def allocate(self, size: ReplicaSize) -> NullStage:
        """No blocks."""
        return self

    def step(self, batch: StepBatch) -> StageOutput:
        """Logits of the right shape."""
        return StageOutput([], np.broadcast_to(self._row, (int(batch.num_sampled.sum()), VOCAB)))

    def copy(self, src: list[int], dst: list[int]) -> None:
        """No blocks."""

    def close_slot(self, slot: int) -> None:
        """No slots."""

    def close(self) -> None:
        """Nothing to free."""


class _InlineDispatcher(Dispatcher):
    """Runs its handlers when told to, on the calling thread."""

    def _wake(self) -> None:
        pass

    def _flush_later(self, name: str, actor: Actor[Any], pause_s: float) -> None:
        raise AssertionError(f"{name} waits for nothing here")

    def run_until_idle(self) -> None:
        while self._turn(256):
            pass


class _Sink(Actor[Message]):
    """Root, admission and metrics: counts tokens and forgets everything else."""

    def __init__(self) -> None:
        self.num_tokens = 0

    def receive(self, message: Message) -> None:
        if isinstance(message, Tokens):
            self.num_tokens += sum(len(row.ids) for row in message.rows)


class _Line:
    """One replica on one thread, held before each `StepResult`; optionally steps and tokens go over the wire."""

    def __init__(
        self,
        open_stage: OpenStage,
        model: str,
        num_rows: int,
        *,
        is_wired: bool = False,
        num_layers: int = 2,
        grammars: GrammarTable | None = None,
        has_drafts: bool = False,
    ) -> None:
        self._dispatcher = _InlineDispatcher(self._failed)
        self._directory = Directory("bench")
        self._is_wired = is_wired
        self._held: StepResult | None = None
        self.sink = _Sink()
        self.num_steps = 0
        """Since all requests decode."""
        spec = StageSpec(
            model,
            0,
            num_layers,
            num_layers,
            device="cpu",
            sizes=SizeSettings(max_batch_size=num_rows),
            max_sequence_length=MAX_SEQUENCE_LENGTH,
        )
        last_stage = LastStage(SamplerChain([Temperature, TopK, TopP], num_rows), grammars)
        speculation = SpeculationSettings(speculation_length=NUM_DRAFTS, adaptive=False)
        settings = BatchingSpec(speculation=speculation)
        make_drafter = (lambda: ScriptedDrafter(lambda ids, num_tokens: [ids[-1]] * num_tokens)) if has_drafts else None
        actors: dict[str, Actor[Any]] = {
            BATCHING: BatchingActor(self._tell, settings, make_drafter=make_drafter),
            KV: KvActor(self._tell),
            FIRST_STAGE: StageActor(0, spec, open_stage, self._tell, last_stage),
            **dict.fromkeys((ROOT, ADMISSION, METRICS), self.sink),
        }
        for name, actor in actors.items():
            self._directory.host(name, self._dispatcher, actor)
        actors[FIRST_STAGE].start()
        actors[BATCHING].start()
        num_blocks = num_rows * MAX_SEQUENCE_LENGTH // BLOCK_SIZE
        start = Start(1, ReplicaSize(num_blocks, BLOCK_SIZE, num_rows, 2048, MAX_SEQUENCE_LENGTH, VERIFYING))
        for ref in (FIRST_STAGE, KV, BATCHING):
            self._directory.tell(Ref[Start](ref), start)

    def begin(self, num_rows: int, sampling: dict[str, Any], grammar: GrammarSpec | None = None) -> None:
        """Send requests and run until all of them decode."""
        for request in range(num_rows):
            ids = [(request + token) % VOCAB for token in range(PROMPT_TOKENS)]
            command = Generate(
                request, ids, PROMPT_TOKENS, MAX_SEQUENCE_LENGTH, Ask(sampling, grammar=grammar), seed=request
            )
            self._directory.tell(BATCHING, command)
        eventually(self._has_begun)  # a grammar is compiled on another thread first
        gained = 0
        while gained < num_rows:
            before = self.sink.num_tokens
            self.step()
            gained = self.sink.num_tokens - before
        self.num_steps = 0

    def _has_begun(self) -> bool:
        self._dispatcher.run_until_idle()
        return self._held is not None

    def step(self) -> None:
        """From one `StepResult` to the next."""
        assert self._held is not None, "no step is running"
        result, self._held = self._held, None
        self.num_steps += 1
        self._directory.tell(BATCHING, result)
        self._dispatcher.run_until_idle()

    def _tell(self, actor: Ref[M], message: M, /) -> None:
        if self._is_wired and isinstance(message, Step | StepResult | Tokens):
            name, arrived = decode(encode(actor, message))
        else:
            name, arrived = actor, message
        if isinstance(arrived, StepResult):
            self._held = arrived
        else:
            told: Ref[Message] = Ref(name)  # a subscript in the call would cost as much as some steps
            self._directory.tell(told, arrived)

    def _failed(self, name: str, error: BaseException, _message: Message | None) -> None:
        raise RuntimeError(f"{name} failed") from error


@pytest.mark.parametrize("is_wired", [False, True], ids=["call", "wire"])
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_runtime_cost_of_a_decode_step(
    benchmark: BenchmarkFixture, num_rows: int, sampling: str, is_wired: bool
) -> None:
    line = _Line(NullStage, "", num_rows, is_wired=is_wired)
    line.begin(num_rows, SAMPLING[sampling])
    before = line.sink.num_tokens

    benchmark.pedantic(line.step, rounds=500, warmup_rounds=20)

    assert line.sink.num_tokens == before + line.num_steps * num_rows


@pytest.mark.parametrize("has_drafts", [False, True], ids=["plain", "drafts"])
@pytest.mark.parametrize("has_grammars", [False, True], ids=["free", "grammars"])
def test_runtime_cost_of_64_rows(
    benchmark: BenchmarkFixture, tmp_path: Path, has_grammars: bool, has_drafts: bool
) -> None:
    write_tokenizer(tmp_path)
    table = GrammarTable(GrammarKinds([Llguidance()]), VocabularySpec(str(tmp_path), VOCAB, (EOS_ID,)))
    line = _Line(NullStage, "", 64, grammars=table, has_drafts=has_drafts)
    line.begin(64, SAMPLING["greedy"], GrammarSpec("regex", "[a-z]*") if has_grammars else None)
    for _ in range(20):
        line.step()
    before, line.num_steps = line.sink.num_tokens, 0

    benchmark.pedantic(line.step, rounds=400)

    table.shutdown()
    assert line.sink.num_tokens == before + line.num_steps * 64 * (1 + NUM_DRAFTS * has_drafts)


def test_whole_decode_step_of_16_rows_on_the_toy_backend(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    line = _Line(ToyStage, str(write_toy_model(tmp_path / "toy", num_layers=2)), 16)
    line.begin(16, SAMPLING["greedy"])
    before = line.sink.num_tokens

    benchmark.pedantic(line.step, rounds=300, warmup_rounds=20)

    assert line.sink.num_tokens == before + line.num_steps * 16


@pytest.mark.benchmark(timer=CLOCK.now)
@pytest.mark.parametrize("has_indices", [False, True], ids=["until_kernels", "indices"])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_runtime_cost_of_a_decode_step_of_16_rows_on_torch(
    benchmark: BenchmarkFixture, tmp_path: Path, sampling: str, has_indices: bool
) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from histrio_torch.backend import TorchStage, open_stage
    from histrio_torch.testing import NUM_LAYERS, make_model

    make_model("qwen3", tmp_path, vocab_size=VOCAB, max_position_embeddings=MAX_SEQUENCE_LENGTH)
    opened: list[TorchStage] = []

    def noted(spec: StageSpec, progress: Progress) -> TorchStage:
        opened.append(open_stage(spec, progress))
        return opened[0]

    line = _Line(noted, str(tmp_path), 16, num_layers=NUM_LAYERS)
    line.begin(16, SAMPLING[sampling])
    _stop_clock_in_kernels(opened[0]._running, has_indices)
    before = line.sink.num_tokens

    benchmark.pedantic(line.step, rounds=300, warmup_rounds=20)

    assert line.sink.num_tokens == before + line.num_steps * 16


def _stop_clock_in_kernels(running: Any, has_indices: bool) -> None:
    """The device works from the embedding to the logits, perhaps except where the backend prepares indices."""
    model, groups = running.stage.model, running.cache.groups
    model.get_input_embeddings().register_forward_pre_hook(CLOCK.device_starts)
    model.register_forward_hook(CLOCK.device_stops)

    def prepare(window: int | None) -> Any:
        CLOCK.device_stops()
        try:
            return groups(window)
        finally:
            CLOCK.device_starts()

    if has_indices:
        running.cache.groups = prepare
