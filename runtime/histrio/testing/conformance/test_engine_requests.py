"""What an engine does with requests: streams, ends, batches, aborts, continues."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import Capability
from histrio.errors import RequestError
from histrio.messages import Generate, RequestState
from histrio.testing.conformance.engine_driver import EngineSubject, Run
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.reference import Reference, reference_for
from histrio.testing.conformance.subject import prompt

_NUM_TOKENS = 16
_MOST_LOGPROB_ERROR = 1e-3


def prompts(engine: EngineSubject, count: int) -> list[list[int]]:
    """Prompts of different lengths."""
    return [prompt(engine.model.vocab_size, 3 + 5 * seed % 40, seed) for seed in range(count)]


def judged(engine: EngineSubject) -> Reference:
    """The judge of the engine's model; skips the test where there is none."""
    found = reference_for(engine.model, engine.kit.judge)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def first_new_token(run: Run) -> int:
    """Index of a token, not the first one, that the run has not said before."""
    return next(index for index in range(1, len(run.ids)) if run.ids[index] not in run.ids[:index])


def test_engine_tokens_equal_the_reference(engine: EngineSubject) -> None:
    judge = judged(engine)
    one, two = prompts(engine, 2)

    assert engine.run(one, _NUM_TOKENS).ids == judge.greedy(one, _NUM_TOKENS)
    assert engine.run(two, _NUM_TOKENS).ids != judge.greedy(one, _NUM_TOKENS), "a control: another prompt"


def test_a_greedy_request_says_the_same_every_time(engine: EngineSubject) -> None:
    one, two = prompts(engine, 2)
    first = engine.run(one, _NUM_TOKENS)

    assert engine.run(one, _NUM_TOKENS).ids == first.ids
    assert engine.run(two, _NUM_TOKENS).ids != first.ids, "a control: another prompt"


def test_tokens_come_as_they_are_made(engine: EngineSubject) -> None:
    run = engine.run(prompts(engine, 1)[0], _NUM_TOKENS)

    assert run.num_rows > _NUM_TOKENS // 4
    assert len(run.ids) == _NUM_TOKENS
    assert run.state is RequestState.FINISHED_MAX_LENGTH


def test_requests_at_a_time_equal_single_ones(engine: EngineSubject) -> None:
    """More than the engine runs at a time, of different lengths; those that wait are served, too."""
    asked = prompts(engine, engine.driver.capacity.max_requests + 3)
    alone = [engine.run(ids, 4 + index).ids for index, ids in enumerate(asked)]
    runs = [engine.driver.submit(ids, 4 + index, sampling=engine.greedy) for index, ids in enumerate(asked)]
    engine.driver.wait(*runs)

    assert [run.ids for run in runs] == alone
    assert runs[0].ids != runs[1].ids[:4], "a control: prompts give tokens of their own"


@pytest.mark.parametrize(
    ("field", "state"), [("stop_ids", RequestState.FINISHED_STOP), ("eos_ids", RequestState.FINISHED_EOS)]
)
def test_an_id_that_ends_a_request_is_its_last(engine: EngineSubject, field: str, state: RequestState) -> None:
    ids = prompts(engine, 1)[0]
    whole = engine.run(ids, _NUM_TOKENS)
    index = first_new_token(whole)
    ended = engine.run(ids, _NUM_TOKENS, **{field: [whole.ids[index]]})
    never_said = next(token for token in range(engine.model.vocab_size) if token not in whole.ids)

    assert ended.ids == whole.ids[: index + 1]
    assert ended.state is state
    assert engine.run(ids, _NUM_TOKENS, **{field: [never_said]}).ids == whole.ids, "a control: an id that never comes"


def test_the_models_own_eos_ends_nothing_by_itself(engine: EngineSubject) -> None:
    own = set(read_model_config(engine.model.folder).eos_ids)
    runs = [engine.driver.submit(ids, 48, sampling=engine.greedy) for ids in prompts(engine, 32)]
    engine.driver.wait(*runs)
    assert [len(run.ids) for run in runs] == [48] * len(runs)
    assert {run.state for run in runs} == {RequestState.FINISHED_MAX_LENGTH}
    if not any(own & set(run.ids[:-1]) for run in runs):
        pytest.skip(f"the model did not say {json.dumps(sorted(own))}")


def test_an_aborted_request_ends_and_harms_no_other(engine: EngineSubject) -> None:
    one, two, three = prompts(engine, 3)
    expected = engine.run(two, _NUM_TOKENS).ids
    long = engine.driver.submit(one, 200, sampling=engine.greedy)
    other = engine.driver.submit(two, _NUM_TOKENS, sampling=engine.greedy)
    engine.driver.wait(long, num_tokens=1)
    engine.driver.abort(long)
    engine.driver.wait(other)
    assert other.ids == expected

    engine.run(three, _NUM_TOKENS)
    num_rows = long.num_rows
    engine.run(three, 2 * _NUM_TOKENS)
    assert long.num_rows == num_rows, "it went on while two other requests ran from begin to end"


def test_a_command_beyond_the_longest_sequence_ends_alone(engine: EngineSubject) -> None:
    """Refused by `submit`, or answered with an error that says why."""
    ids = prompts(engine, 1)[0]
    expected = engine.run(ids, 4).ids
    beside = engine.driver.submit(ids, 4, sampling=engine.greedy)
    try:
        run = engine.driver.submit([5] * (engine.driver.capacity.max_sequence_length + 8), 4, sampling=engine.greedy)
    except RequestError:
        pass
    else:
        engine.driver.wait(run)
        assert run.state is RequestState.ERROR
        assert run.reason
    engine.driver.wait(beside)
    assert beside.ids == expected


def test_aborting_what_ended_or_never_was_is_harmless(engine: EngineSubject) -> None:
    ids = prompts(engine, 1)[0]
    run = engine.run(ids, 4)
    engine.driver.engine.abort(run.command.request)
    engine.driver.engine.abort(10**6)

    assert engine.run(ids, 4).ids == run.ids
    assert engine.run(prompts(engine, 2)[1], 4).ids != run.ids, "a control: another prompt"


@needs(Capability.LOGPROBS)
def test_logprobs_come_when_asked_for(engine: EngineSubject) -> None:
    ids = prompts(engine, 1)[0]
    asked = engine.run(ids, _NUM_TOKENS, sampling={**engine.greedy, "logprobs": True})

    assert engine.run(ids, _NUM_TOKENS).logprobs == []
    assert len(asked.logprobs) == len(asked.ids)
    assert all(-math.log(engine.model.vocab_size) <= value <= 0 for value in asked.logprobs), "of the likeliest token"


@needs(Capability.LOGPROBS)
def test_logprobs_equal_the_reference(engine: EngineSubject) -> None:
    judge = judged(engine)
    ids = prompts(engine, 1)[0]
    run = engine.run(ids, _NUM_TOKENS, sampling={**engine.greedy, "logprobs": True})
    logits = judge.logits((ids + run.ids)[:-1])[len(ids) - 1 :].astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    expected = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))[range(len(run.ids)), run.ids]

    assert np.abs(np.array(run.logprobs) - expected).max() < _MOST_LOGPROB_ERROR
    assert np.abs(np.array(run.logprobs)[1:] - expected[:-1]).max() > 3 * _MOST_LOGPROB_ERROR, "a control: one off"


@pytest.mark.parametrize("kind", ["greedy", "drawn"])
def test_what_can_be_continued_goes_on_with_the_same_tokens(engine: EngineSubject, kind: str) -> None:
    sampling = engine.greedy if kind == "greedy" else {}
    if not engine.factory.can_continue(sampling):
        pytest.skip(f"{kind} requests cannot be continued, it says")

    ids = prompts(engine, 1)[0]
    whole = engine.run(ids, _NUM_TOKENS, sampling=sampling, seed=11)
    for num_delivered in (1, 7):
        command = whole.command
        delivered = ids + whole.ids[:num_delivered]
        rest = engine.driver.submit_command(
            Generate(0, delivered, len(ids), command.max_total_tokens, command.ask, command.seed)
        )
        engine.driver.wait(rest)
        assert rest.ids == whole.ids[num_delivered:]
        assert rest.state is RequestState.FINISHED_MAX_LENGTH

    changed = [*ids[:-1], (ids[-1] + 1) % engine.model.vocab_size]
    assert engine.run(changed, _NUM_TOKENS, sampling=sampling, seed=11).ids != whole.ids, "a control: another prompt"


def test_an_engine_opened_again_says_the_same(engine: EngineSubject) -> None:
    one, two = prompts(engine, 2)
    expected = engine.run(one, 4).ids
    engine.driver.submit(two, 200, sampling=engine.greedy)
    engine.driver.close()
    engine.driver.close()
    engine.close()

    assert engine.run(one, 4).ids == expected
    assert engine.run(two, 4).ids != expected, "a control: another prompt"
