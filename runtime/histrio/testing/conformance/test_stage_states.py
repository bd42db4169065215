"""Hidden states for vectors of texts: each depends on its own sequence alone, however that is cut into steps."""

from __future__ import annotations

import numpy as np

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow, Logits, StageChain
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.subject import StageSubject, prompt

pytestmark = needs(Capability.HIDDEN_STATES)


def states_of(chain: StageChain, rows: list[ChainRow]) -> Logits:
    """[pooled positions, hidden] of one step."""
    found = chain.finish(chain.start(rows)).states
    assert found is not None, "a row wants hidden states, and none came"
    return found


def whole(subject: StageSubject, ids: list[int]) -> Logits:
    """[tokens, hidden] of one sequence alone, computed in one step by the whole model."""
    found = states_of(subject.reference, [ChainRow(0, ids, 0, len(ids))])
    subject.reference.leave(0)
    assert len(found) == len(ids), f"{len(found)} states for {len(ids)} positions"
    return found


def texts(subject: StageSubject) -> list[list[int]]:
    """Prompts of different lengths; the longest spans several blocks."""
    lengths = [2 * subject.block_size + 3, 5, subject.block_size]
    return [prompt(subject.model.vocab_size, length, seed=length) for length in lengths]


def test_states_of_chunks_equal_those_of_one_step(subject: StageSubject) -> None:
    ids = texts(subject)[0]
    chain = subject.middle()
    chunks = [ids[start : start + 7] for start in range(0, len(ids), 7)]
    found = np.concatenate([states_of(chain, [ChainRow(0, chunk, 0, len(chunk))]) for chunk in chunks])

    assert_same(found, whole(subject, ids), "chunks of 7 tokens")
    assert_differs(found, whole(subject, [ids[1], ids[0], *ids[2:]]), "two tokens in the other order")


def test_states_of_every_split_equal_the_whole(subject: StageSubject, cuts: tuple[int, ...]) -> None:
    ids = texts(subject)[0]
    found = states_of(subject.chain(cuts), [ChainRow(0, ids, 0, len(ids))])

    assert_same(found, whole(subject, ids), f"split at {cuts}")
    assert_differs(found[::-1], whole(subject, ids), "positions in the other order")


@needs(Capability.BATCH)
def test_states_of_a_batch_equal_those_alone(subject: StageSubject) -> None:
    """Also beside rows that sample, and of as many positions as each row wants."""
    longest, short, third = texts(subject)
    trace = subject.trace(6)
    chain = subject.middle()
    rows = [ChainRow(0, short, 0, 5), ChainRow(1, trace.prompt), ChainRow(2, longest, 0, 1), ChainRow(3, third, 0, 0)]
    taken = chain.finish(chain.start(rows))
    expected = np.concatenate([whole(subject, short), whole(subject, longest)[-1:]])

    assert_same(taken.states, expected, "rows that want 5, 0, 1 and 0 states")
    assert_same(taken.logits, trace.logits[:1], "the row that samples between them")
    assert_differs(taken.states, np.roll(expected, 1, axis=0), "the order of states")


def test_a_step_that_wants_none_gives_no_states(subject: StageSubject) -> None:
    chain = subject.middle()
    assert chain.finish(chain.start([ChainRow(0, [5, 6, 7])])).states is None
