"""A row's result depends on that row alone: not on its neighbours, its chunks, its slot, or the order of rows."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.kit import MAX_SEQUENCE_LENGTH, needs
from histrio.testing.conformance.replay import Replay, feed, play, replay
from histrio.testing.conformance.subject import StageSubject

_CHUNK = 13


@needs(Capability.BATCH)
def test_ragged_rows_equal_single_rows(subject: StageSubject) -> None:
    traces = subject.traces(subject.num_rows)
    chain = subject.middle()
    results = play(chain, [Replay(trace, slot) for slot, trace in enumerate(traces)])

    for index, (got, trace) in enumerate(zip(results, traces, strict=True)):
        assert_same(got, trace.logits, f"row {index} of {len(traces)}")
    assert_differs(results[0], traces[1].logits, "the result of another row")


@needs(Capability.BATCH)
def test_rows_join_and_leave_at_any_step(subject: StageSubject) -> None:
    """Prompts come in chunks beside the decoding of others; slots and blocks that were left are taken again."""
    traces = subject.traces(subject.num_rows)
    chain = subject.middle()
    last = subject.num_rows - 1
    for _ in range(2):
        replays = [Replay(trace, last - index, _CHUNK) for index, trace in enumerate(traces)]
        results = play(chain, replays, joining=True)
        for index, (got, trace) in enumerate(zip(results, traces, strict=True)):
            assert_same(got, trace.logits, f"row {index}, which joined at step {index + 1}")


@needs(Capability.BATCH)
def test_swapped_rows_would_be_seen(subject: StageSubject) -> None:
    """The control of all tests of batches: two rows get each other's token, once."""
    one, two = subject.trace(5, seed=1), subject.trace(9, seed=2)
    chain = subject.middle()
    chain.step([ChainRow(0, one.prompt), ChainRow(1, two.prompt)])
    right = chain.step([ChainRow(0, one.tokens[:1]), ChainRow(1, two.tokens[:1])])
    assert_same(right, np.stack([one.logits[1], two.logits[1]]), "two rows")

    chain.restart()
    chain.step([ChainRow(0, one.prompt), ChainRow(1, two.prompt)])
    swapped = chain.step([ChainRow(0, two.tokens[:1]), ChainRow(1, one.tokens[:1])])
    assert_differs(swapped, np.stack([one.logits[1], two.logits[1]]), "a swapped token")


@needs(Capability.BATCH)
def test_the_order_of_rows_does_not_matter(subject: StageSubject) -> None:
    traces = subject.traces(min(4, subject.num_rows))
    permutation = list(reversed(range(len(traces))))
    chain = subject.middle()
    results = play(chain, [Replay(traces[index], slot) for slot, index in enumerate(permutation)])
    chain.step([ChainRow(slot, trace.prompt) for slot, trace in enumerate(traces)])
    logits = chain.step([ChainRow(slot, traces[slot].tokens[:1]) for slot in permutation])

    for got, index in zip(results, permutation, strict=True):
        assert_same(got, traces[index].logits, f"row {index} as another row of the step")
    assert_same(logits, np.stack([traces[slot].logits[1] for slot in permutation]), "rows in another order than before")
    assert_differs(logits, np.stack([trace.logits[1] for trace in traces]), "the order itself")


@needs(Capability.BATCH)
def test_prefill_and_decode_share_a_step(subject: StageSubject) -> None:
    decoding, entering = subject.trace(6, seed=3), subject.trace(2 * subject.block_size + 2, seed=4)
    chain = subject.middle()
    first, second = Replay(decoding, 0), Replay(entering, 1, subject.block_size - 1)
    feed(chain, [first])
    feed(chain, [first, second])
    feed(chain, [second, first])
    feed(chain, [first])
    results = play(chain, [first, second])

    assert_same(results[0], decoding.logits, "decoding beside a prompt")
    assert_same(results[1], entering.logits, "a prompt beside decoding")
    assert_differs(results[0], subject.trace(6, seed=5).logits, "another prompt")


@pytest.mark.parametrize("offset", ["one", "three", "block - 1", "block", "block + 1"])
def test_chunked_prefill_equals_one_step(subject: StageSubject, offset: str) -> None:
    block = subject.block_size
    chunk = {"one": 1, "three": 3, "block - 1": block - 1, "block": block, "block + 1": block + 1}[offset]
    trace = subject.trace(2 * block + 5, num_tokens=4)
    chain = subject.middle()

    assert_same(replay(chain, trace, chunk=chunk), trace.logits, f"chunks of {chunk} tokens")
    other = Replay(trace, 0, chunk, num_fed=1)  # the first token is missing, so all others stand one too early
    assert_differs(play(chain, [other])[0], trace.logits, "a chunk that begins one token later")


def test_a_sequence_may_be_as_long_as_asked_for(subject: StageSubject) -> None:
    longest = min(MAX_SEQUENCE_LENGTH, subject.reference.size.max_sequence_length)
    trace = subject.trace(longest - 4, num_tokens=4)
    chain = subject.middle()

    assert_same(replay(chain, trace, chunk=100), trace.logits, f"{longest} tokens")
    assert_differs(replay(chain, subject.trace(5, num_tokens=4)), trace.logits, "a short prompt")


def test_what_is_not_sampled_gives_no_logits(subject: StageSubject) -> None:
    trace = subject.trace(9)
    chain = subject.middle()

    assert chain.step([ChainRow(0, trace.prompt[:4], 0)]) is None
    assert_same(chain.step([ChainRow(0, trace.prompt[4:], 1)]), trace.logits[:1], "the chunk that ends the prompt")


@needs(Capability.BATCH)
def test_logits_come_for_sampled_rows_alone_and_in_order(subject: StageSubject) -> None:
    traces = subject.traces(3)
    chain = subject.middle()
    counts = [1, 0, 1]
    logits = chain.step([ChainRow(slot, trace.prompt, counts[slot]) for slot, trace in enumerate(traces)])

    assert_same(logits, np.stack([traces[0].logits[0], traces[2].logits[0]]), "rows 0 and 2 of three")
    assert_differs(logits, np.stack([traces[2].logits[0], traces[0].logits[0]]), "the other order")


@needs(Capability.ALL_POSITION_LOGITS)
def test_several_positions_of_a_row_give_logits(subject: StageSubject) -> None:
    trace = subject.trace(4)
    chain = subject.middle()
    logits = chain.step([ChainRow(0, trace.prompt + trace.tokens[:3], 4)])

    assert_same(logits, trace.logits[:4], "the last four positions")
    assert_differs(logits, trace.logits[1:5], "positions one further")


@needs(Capability.ALL_POSITION_LOGITS, Capability.BATCH)
def test_rows_with_none_one_and_many_positions_mix(subject: StageSubject) -> None:
    traces = [subject.trace(length, seed=length) for length in (4, 9, 3)]
    chain = subject.middle()
    rows = [
        ChainRow(0, traces[0].prompt + traces[0].tokens[:2], 3),
        ChainRow(1, traces[1].prompt, 0),
        ChainRow(2, traces[2].prompt + traces[2].tokens[:1], 2),
    ]
    expected = np.concatenate([traces[0].logits[:3], traces[2].logits[:2]])

    assert_same(chain.step(rows), expected, "3, 0 and 2 positions")
    assert_differs(chain.step([ChainRow(1, traces[1].tokens[:1])]), expected[:1], "another row")


def test_one_sequence_after_the_other_needs_no_batch(subject: StageSubject) -> None:
    chain = subject.chain()
    for trace in (subject.trace(5, seed=1), subject.trace(subject.block_size + 1, seed=2), subject.trace(1, seed=3)):
        assert_same(replay(chain, trace), trace.logits, "alone in slot 0")
    assert_differs(replay(chain, subject.trace(5, seed=1)), subject.trace(5, seed=2).logits, "another prompt")
