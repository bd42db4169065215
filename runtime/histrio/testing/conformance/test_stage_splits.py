"""A split model is the same model, whatever goes over the wire between its stages, and whichever stage waits there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from histrio.contracts.backend import Capability
from histrio.messages import Step, Tensor
from histrio.net import wire
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.replay import Replay, Trace, replay
from histrio.testing.conformance.subject import StageSubject

_DTYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32, "int64": np.int64, "bfloat16": np.uint16}


def disturbed(tensor: Tensor) -> Tensor:
    """The tensor with the state of its last token exchanged for that of its first, or changed if it is the only one."""
    values = np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tensor.shape).copy()
    values[-1] = values[0] if len(values) > 1 else values[0] + values[0] // 2 + 1
    return Tensor(tensor.dtype, tensor.shape, values, tensor.name)


def test_every_split_equals_the_whole(subject: StageSubject, cuts: tuple[int, ...]) -> None:
    trace = subject.trace(2 * subject.block_size + 3, num_tokens=10)
    chain = subject.chain(cuts)
    logits = replay(chain, trace)
    assert_same(logits, trace.logits, f"split at {cuts}")
    assert chain.greedy(trace.prompt, len(trace.tokens)) == trace.tokens

    chain.disturb = disturbed
    assert_differs(replay(chain, trace), trace.logits, "a hidden state that was disturbed on its way")


def test_the_hidden_state_is_one_dense_tensor_per_token(subject: StageSubject, cuts: tuple[int, ...]) -> None:
    """[tokens, hidden] and unnamed, the same width at every cut; further parts have names of their own."""
    chain = subject.chain(cuts)
    flight = chain.start([ChainRow(0, subject.trace(7).prompt, 1)])
    widths = set()
    for stage in range(len(cuts)):
        tensors = chain.hosts[stage].take(flight.step.step).hidden
        names = [tensor.name for tensor in tensors]
        assert names[0] == ""
        assert len(set(names)) == len(names)
        assert all(tensor.shape[0] == 7 and memoryview(tensor.data).c_contiguous for tensor in tensors)
        widths.add((len(tensors[0].shape), tensors[0].shape[1], tensors[0].dtype))

        frames = [
            bytes(frame) for frame in wire.encode("stage", Step(flight.step.step, 0, flight.step.rows, [], tensors))
        ]
        _, arrived = wire.decode(frames)
        assert isinstance(arrived, Step)
        assert [bytes(tensor.data) for tensor in arrived.hidden] == [
            memoryview(tensor.data).tobytes() for tensor in tensors
        ]
        chain.hosts[stage + 1].step(arrived)

    assert len(widths) == 1
    assert chain.hosts[-1].take(flight.step.step).hidden == []


@needs(Capability.BATCH)
def test_two_micro_batches_in_flight_keep_apart(subject: StageSubject, cuts: tuple[int, ...]) -> None:
    traces = subject.traces(4)
    results = in_two_micro_batches(subject.chain(cuts), traces)

    for index, (got, trace) in enumerate(zip(results, traces, strict=True)):
        assert_same(got, trace.logits, f"row {index}, between the steps of the other micro-batch")
    assert_differs(results[0], traces[1].logits, "the result of another row")


def in_two_micro_batches(chain: StageChain, traces: list[Trace]) -> list[npt.NDArray[np.float32]]:
    """Rows 0, 1 and rows 2, 3 in turns: a stage computes the second micro-batch before the first one goes on."""
    replays = [Replay(trace, slot) for slot, trace in enumerate(traces)]
    micro_batches = [replays[:2], replays[2:]]
    while not all(each.is_finished for each in replays):
        flights = [chain.start([each.next_row() for each in rows]) for rows in micro_batches]
        while any(flight.next_stage < len(chain.hosts) for flight in flights):
            for flight in flights:
                chain.advance(flight)
        for flight, rows in zip(flights, micro_batches, strict=True):
            logits = chain.finish(flight).logits
            assert logits is not None, "every row sampled"
            for each, row in zip(rows, logits, strict=True):
                each.logits.append(row)
    return [each.result for each in replays]


@needs(Capability.BATCH)
def test_what_a_step_returned_is_left_alone_by_the_next(subject: StageSubject) -> None:
    if subject.model.num_layers < 2:
        pytest.skip("a model of one layer has no hidden state between stages")
    first, second = subject.traces(2)
    chain = subject.chain((1,))
    flight = chain.start([ChainRow(0, first.prompt)])
    kept = chain.hosts[0].take(flight.step.step).hidden
    before = [memoryview(tensor.data).tobytes() for tensor in kept]
    chain.start([ChainRow(1, second.prompt)])
    chain.start([ChainRow(1, second.tokens[:1])])

    assert [memoryview(tensor.data).tobytes() for tensor in kept] == before
    assert any(before[0]), "all zeros would stay all zeros"
