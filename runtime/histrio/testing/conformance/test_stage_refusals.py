"""What a stage cannot do it refuses before anything is written, so that the rows go on as if it had not been asked."""

from __future__ import annotations

import pytest

from histrio.contracts.backend import Capability
from histrio.errors import BackendError
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.replay import Replay, Trace, feed, play
from histrio.testing.conformance.subject import StageSubject


def skip_if_declared(subject: StageSubject, capability: Capability) -> None:
    """What a backend can do it need not refuse."""
    if capability in subject.capabilities:
        pytest.skip(f"{capability} is declared: nothing to refuse")


def begun(subject: StageSubject) -> tuple[StageChain, Replay, Trace]:
    """A chain with one sequence in its midst."""
    trace = subject.trace(subject.block_size + 3, seed=60)
    chain, running = subject.chain(), Replay(trace, 0)
    feed(chain, [running])
    return chain, running, trace


def assert_goes_on(subject: StageSubject, chain: StageChain, running: Replay) -> None:
    """The sequence says what it says undisturbed."""
    (got,) = play(chain, [running])
    assert_same(got, running.trace.logits, "the row after a refused step")
    assert_differs(got, subject.trace(subject.block_size + 3, seed=61).logits, "another prompt")


def test_several_positions_are_refused_where_not_declared(subject: StageSubject) -> None:
    skip_if_declared(subject, Capability.ALL_POSITION_LOGITS)
    chain, running, trace = begun(subject)
    with pytest.raises(BackendError):
        chain.step([ChainRow(0, trace.tokens[:2], 2)])
    assert_goes_on(subject, chain, running)


def test_a_rewind_is_refused_where_not_declared(subject: StageSubject) -> None:
    skip_if_declared(subject, Capability.REWIND)
    chain, running, trace = begun(subject)
    chain.rewind(0, 2)
    with pytest.raises(BackendError):
        chain.step([ChainRow(0, [trace.prompt[2] ^ 1])])
    chain.lengths[0] = len(trace.prompt)
    assert_goes_on(subject, chain, running)
