"""What a message costs on its way into frames and out of them: decode steps, results, and activations of both sizes.

CPU time of the thread that does it. Tensors below 64 KiB are copied, larger ones only referenced.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.messages import Message, RequestState, Row, Step, StepResult, Tensor, TokenRow, Tokens
from histrio.net.wire import decode, encode

NUM_ROWS = 16
HIDDEN_SIZE = 1024

pytestmark = pytest.mark.benchmark(timer=time.thread_time)


def decode_step(hidden: list[Tensor]) -> Step:
    """One token for each of the rows, at position 500, a new block for one of them."""
    rows = [Row(slot, 500, 1, 1, [77] if slot == 0 else []) for slot in range(NUM_ROWS)]
    return Step(1000, 1, rows, list(range(1000, 1000 + NUM_ROWS)), hidden)


def activations(num_tokens: int) -> Tensor:
    """What stage 0 hands to stage 1."""
    values = np.ones((num_tokens, HIDDEN_SIZE), np.float16)
    return Tensor("float16", values.shape, values)


MESSAGES: dict[str, Message] = {
    "decode_step": decode_step([]),
    "decode_step_32_KiB": decode_step([activations(NUM_ROWS)]),
    "prefill_step_4_MiB": Step(1, 1, [Row(0, 0, 2048, 1, list(range(128)))], [], [activations(2048)]),
    "step_result": StepResult(1000, 1, list(range(1000, 1000 + NUM_ROWS)), 0.01),
    "tokens": Tokens(1, [TokenRow(request, [1000], RequestState.DECODING) for request in range(NUM_ROWS)]),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_encode(benchmark: BenchmarkFixture, name: str) -> None:
    message = MESSAGES[name]

    frames = benchmark(encode, "stage1", message)

    benchmark.extra_info["header_bytes"] = len(frames[0])
    assert decode(frames)[0] == "stage1"


@pytest.mark.parametrize("name", MESSAGES)
def test_decode(benchmark: BenchmarkFixture, name: str) -> None:
    frames = encode("stage1", MESSAGES[name])

    _, message = benchmark(decode, frames)

    assert type(message) is type(MESSAGES[name])
