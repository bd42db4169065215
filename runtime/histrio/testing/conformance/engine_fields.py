"""What an engine backend makes of each request field that it may honour: what it says it does, or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.honours import require_honoured
from histrio.contracts.request_fields import FieldTable
from histrio.errors import RequestError
from histrio.messages import WHOLE_VOCABULARY, Ask
from histrio.testing.conformance.engine_driver import EngineSubject, Run
from histrio.testing.conformance.subject import prompt

__all__ = ["FIELDS", "check_honoured", "is_honoured"]

FIELDS: dict[str, Ask] = {
    "priority": Ask(priority=1),
    "cache_salt": Ask(cache_salt="one"),
    "max_speculation": Ask(max_speculation=0),
    "seed": Ask(seed=7),
    "logprobs": Ask(num_logprobs=0),
    "top_logprobs": Ask(num_logprobs=2),
    "vocabulary_logprobs": Ask(num_logprobs=WHOLE_VOCABULARY),
    "prompt_logprobs": Ask(num_prompt_logprobs=0),
    "logprob_token_ids": Ask(logprob_token_ids=[3]),
}
"""Flag of `Honours` → a request that gives this field alone."""
_REFUSED_AS = {"top_logprobs": "logprobs", "vocabulary_logprobs": "logprobs"}
"""The most likely tokens, or all, are a number beside the log probabilities, so a refusal names these."""
_NUM_TOKENS = 16


def is_honoured(factory: EngineFactory, field: str) -> bool:
    """Whether requests with the field are taken. Fails where they are neither taken nor refused by name with 400."""
    table = FieldTable.of_engine(factory)
    require_honoured(Ask(), table.honours, table.honoured_by)
    if getattr(table.honours, field):
        require_honoured(FIELDS[field], table.honours, table.honoured_by)
        return True

    with pytest.raises(RequestError, match=factory.name) as caught:
        require_honoured(FIELDS[field], table.honours, table.honoured_by)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "unsupported_parameter",
        _REFUSED_AS.get(field, field),
    )
    return False


def check_honoured(engine: EngineSubject, field: str) -> None:
    """Fails where the engine ignores a field that it says it honours."""
    _CHECKS[field](engine)


def _priority(engine: EngineSubject) -> None:
    """Every slot is taken and two requests wait; one of a lower number that comes later enters before the last."""
    running = [_start(engine, seed, 48) for seed in range(engine.driver.capacity.max_requests)]
    waiting = [_start(engine, 100 + seed, 48, Ask(engine.greedy, priority=100)) for seed in range(2)]
    first = _start(engine, 200, 4, Ask(engine.greedy, priority=0))
    engine.driver.wait(first, num_tokens=1)
    assert not waiting[1].ids, "one that should wait for it was served before it"
    engine.driver.wait(first, *waiting, *running)


def _cache_salt(engine: EngineSubject) -> None:
    ids = prompt(engine.model.vocab_size, 96, 3)
    runs = [engine.run(ids, _NUM_TOKENS, cache_salt=salt) for salt in ("one", "two", "")]
    assert [run.extras.num_cached_tokens for run in runs] == [0, 0, 0], "a prefix was shared across salts"


def _max_speculation(engine: EngineSubject) -> None:
    ids = prompt(engine.model.vocab_size, 4, 5) * 8
    assert engine.run(ids, _NUM_TOKENS, max_speculation=0).extras.num_drafted == 0


def _seed(engine: EngineSubject) -> None:
    ids = prompt(engine.model.vocab_size, 8, 6)
    one, again, other = (engine.run(ids, _NUM_TOKENS, sampling={}, seed=seed).ids for seed in (1, 1, 2))
    assert one == again
    assert one != other, "a control: another seed"


def _logprobs(engine: EngineSubject) -> None:
    run = engine.run(prompt(engine.model.vocab_size, 8, 7), _NUM_TOKENS, sampling={**engine.greedy, "logprobs": True})
    assert len(run.extras.logprobs) == len(run.ids)


def _top_logprobs(engine: EngineSubject) -> None:
    """As many as asked for, the most likely first; a greedy token is the first of its own."""
    sampling = engine.greedy | {"logprobs": True}
    run = engine.run(prompt(engine.model.vocab_size, 8, 7), _NUM_TOKENS, sampling=sampling, num_logprobs=2)
    tops = [each.top for each in run.extras.logprobs]
    assert [len(top) for top in tops] == [2] * _NUM_TOKENS
    assert [top[0][0] for top in tops] == run.ids
    assert [top[0][1] for top in tops] == pytest.approx([each.logprob for each in run.extras.logprobs], abs=1e-3)
    assert all(first >= second for (_, first), (_, second) in tops)


def _vocabulary_logprobs(engine: EngineSubject) -> None:
    """One number for each token, of which all together are certain, and a greedy token has the largest."""
    sampling = engine.greedy | {"logprobs": True}
    ids = prompt(engine.model.vocab_size, 8, 7)
    run = engine.run(ids, _NUM_TOKENS, sampling=sampling, num_logprobs=WHOLE_VOCABULARY)
    values = [np.frombuffer(each.packed, "<f4") for each in run.extras.logprobs]
    assert [len(each) for each in values] == [engine.model.vocab_size] * _NUM_TOKENS
    assert [int(each.argmax()) for each in values] == run.ids
    assert [float(np.exp(each.astype(np.float64)).sum()) for each in values] == pytest.approx([1.0] * _NUM_TOKENS)


def _prompt_logprobs(engine: EngineSubject) -> None:
    ids = prompt(engine.model.vocab_size, 8, 8)
    assert len(engine.run(ids, 1, num_prompt_logprobs=0).extras.prompt_logprobs) == len(ids) - 1


def _logprob_token_ids(engine: EngineSubject) -> None:
    sampling = engine.greedy | {"logprobs": True}
    ids = prompt(engine.model.vocab_size, 8, 9)
    run = engine.run(ids, _NUM_TOKENS, sampling=sampling, num_logprobs=0, logprob_token_ids=[5, 3])
    assert all({token for token, _ in each.top} == {3, 5} for each in run.extras.logprobs)


def _start(engine: EngineSubject, seed: int, num_tokens: int, ask: Ask | None = None) -> Run:
    ids = prompt(engine.model.vocab_size, 5, seed)
    return engine.driver.submit_ask(ids, num_tokens, ask or Ask(engine.greedy))


_CHECKS: dict[str, Callable[[EngineSubject], None]] = {
    "priority": _priority,
    "cache_salt": _cache_salt,
    "max_speculation": _max_speculation,
    "seed": _seed,
    "logprobs": _logprobs,
    "top_logprobs": _top_logprobs,
    "vocabulary_logprobs": _vocabulary_logprobs,
    "prompt_logprobs": _prompt_logprobs,
    "logprob_token_ids": _logprob_token_ids,
}
