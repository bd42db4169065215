"""The whole model says what an implementation says that is not the backend's own."""

from __future__ import annotations

import pytest

from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.reference import reference_for
from histrio.testing.conformance.subject import StageSubject

_NUM_TOKENS = 16


def test_greedy_tokens_equal_the_reference(subject: StageSubject) -> None:
    judge = reference_for(subject.model, subject.kit.judge)
    if isinstance(judge, str):
        pytest.skip(judge)
    for seed, length in enumerate([1, 7, 2 * subject.block_size + 5]):
        trace = subject.trace(length, seed=seed, num_tokens=_NUM_TOKENS)
        expected = judge.logits(trace.ids[:-1])[length - 1 :]
        assert_same(trace.logits, expected, f"a prompt of {length} tokens")
        assert trace.tokens == judge.greedy(trace.prompt, _NUM_TOKENS)

        changed = [(trace.prompt[0] + 1) % subject.model.vocab_size, *trace.ids[1:-1]]
        assert_differs(trace.logits, judge.logits(changed)[length - 1 :], "another first token")
