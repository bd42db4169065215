"""A row may start again earlier: what it had computed beyond is forgotten, as drafts that were not accepted must be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.replay import Replay, Trace, play
from histrio.testing.conformance.subject import StageSubject

_NUM_DRAFTS = 3


@needs(Capability.REWIND)
def test_rewound_tokens_leave_no_trace(subject: StageSubject) -> None:
    """Back over a block's border, to a block's border, and by one token."""
    block = subject.block_size
    trace = subject.trace(2 * block + 3, seed=50)
    chain = subject.middle()
    wrong = subject.trace(2 * block + 3, seed=51).prompt
    for length in (block - 1, block, 2 * block + 2):
        chain.step([ChainRow(0, trace.prompt[:length] + wrong[length:], 0)])
        chain.rewind(0, length)
        (got,) = play(chain, [Replay(trace, 0, num_fed=length)])
        assert_same(got, trace.logits, f"rewound to {length} of {len(trace.prompt)} tokens")

    chain.step([ChainRow(0, wrong, 0)])
    (got,) = play(chain, [Replay(trace, 0, num_fed=len(wrong) - 1)])
    assert_differs(got, trace.logits, "tokens that were not taken back")


@needs(Capability.REWIND, Capability.ALL_POSITION_LOGITS)
def test_rejected_drafts_leave_no_trace(subject: StageSubject) -> None:
    trace = subject.trace(subject.block_size - 2, seed=52, num_tokens=12)
    chain = subject.middle()
    got = verified(chain, [trace], accepted=[[0], [2], [1], [3]])[0]

    assert_same(got, trace.logits[: len(got)], "a row with drafts")
    assert len(got) == 11

    chain.restart()
    chain.step([ChainRow(0, trace.prompt)])
    chain.step([ChainRow(0, drafted(trace, 0, num_right=0), 1 + _NUM_DRAFTS)])
    assert_differs(chain.step([ChainRow(0, trace.tokens[1:2])]), trace.logits[1:2], "drafts that were not taken back")


@needs(Capability.REWIND, Capability.ALL_POSITION_LOGITS, Capability.BATCH)
def test_rows_reject_their_drafts_unevenly(subject: StageSubject) -> None:
    traces = [subject.trace(length, seed=53 + length, num_tokens=12) for length in (3, subject.block_size - 1, 11)]
    chain = subject.middle()
    results = verified(chain, traces, accepted=[[0, 3, 1], [2, 0, 3], [3, 1, 0]])

    for index, (got, trace) in enumerate(zip(results, traces, strict=True)):
        assert_same(got, trace.logits[: len(got)], f"row {index} with drafts")


def verified(chain: StageChain, traces: list[Trace], accepted: list[list[int]]) -> list[npt.NDArray[np.float32]]:
    """Each row's logits up to its last accepted token; in step s, `accepted[s][r]` drafts of row r are right."""
    prefilled = chain.step([ChainRow(slot, trace.prompt) for slot, trace in enumerate(traces)])
    assert prefilled is not None, "every row sampled"
    found = [[prefilled[slot]] for slot in range(len(traces))]
    for counts in accepted:
        given = [drafted(trace, len(found[slot]) - 1, counts[slot]) for slot, trace in enumerate(traces)]
        logits = chain.step([ChainRow(slot, ids, len(ids)) for slot, ids in enumerate(given)])
        assert logits is not None, "every position was sampled"
        for slot, rows in enumerate(np.split(logits, len(traces))):
            found[slot] += list(rows[: 1 + counts[slot]])
            chain.rewind(slot, chain.lengths[slot] - (_NUM_DRAFTS - counts[slot]))
    return [np.stack(rows) for rows in found]


def drafted(trace: Trace, index: int, num_right: int) -> list[int]:
    """The trace's token and `_NUM_DRAFTS` drafts after it, of which the first `num_right` are what it says next."""
    right = trace.tokens[index : index + 1 + num_right]
    return (
        right
        + [token ^ 1 for token in (trace.tokens + [2] * _NUM_DRAFTS)[index + 1 + num_right :]][
            : _NUM_DRAFTS - num_right
        ]
    )
