"""What SGLang's engine must do with sampling fields, aborts and its cache. `test_sglang_engine.py` runs this where
SGLang is; ends, streams and logprobs of greedy requests are tested by the conformance kit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from histrio.config.settings import SizeSettings
from histrio.contracts.backend import StageSpec
from histrio.errors import RequestError
from histrio.messages import RequestState, TokenRow
from histrio.testing.conformance.engine_driver import EngineDriver
from histrio.testing.conformance.kit import KitModel
from histrio.testing.models import VOCAB_SIZE, write_model
from histrio_sglang.engine import SglangEngine
from histrio_sglang.engine_factory import SglangEngineFactory

pytestmark = pytest.mark.timeout(120)

PROMPT = [17, 4, 99, 31, 8]
NUM_TOKENS = 24
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> KitModel:
    return KitModel("llama", write_model("llama", tmp_path_factory.mktemp("model")), 3, VOCAB_SIZE)


@pytest.fixture(scope="module")
def driver(model: KitModel) -> Iterator[EngineDriver]:
    opened = EngineDriver(SglangEngineFactory(), model, {})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def judge(model: KitModel) -> Any:
    return AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)


def answer(driver: EngineDriver, **sampling: Any) -> list[int]:
    run = driver.submit(PROMPT, NUM_TOKENS, sampling=sampling)
    driver.wait(run)
    assert run.state is RequestState.FINISHED_MAX_LENGTH, run.reason
    return run.ids


def plain_loop(judge: Any, *, presence: float = 0.0, frequency: float = 0.0, bias: dict[int, float]) -> list[int]:
    """Greedy tokens with penalties of the answer and with biases, written down from their definitions."""
    ids = list(PROMPT)
    added = torch.zeros(VOCAB_SIZE)
    for token, value in bias.items():
        added[token] = value
    while len(ids) < len(PROMPT) + NUM_TOKENS:
        with torch.no_grad():
            logits = judge(torch.tensor([ids])).logits[0, -1]
        counts = torch.bincount(torch.tensor(ids[len(PROMPT) :], dtype=torch.int64), minlength=VOCAB_SIZE)
        ids.append(int((logits - presence * (counts > 0) - frequency * counts + added).argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        ({"presence_penalty": 1.5}, {"presence": 1.5, "bias": {}}),
        ({"frequency_penalty": -0.7}, {"frequency": -0.7, "bias": {}}),
        ({"logit_bias": {"40": 4.0, "41": 3.5}}, {"bias": {40: 4.0, 41: 3.5}}),
    ],
)
def test_penalties_and_biases_do_what_their_definitions_say(
    driver: EngineDriver, judge: Any, fields: dict[str, Any], plain: dict[str, Any]
) -> None:
    assert answer(driver, **GREEDY, **fields) == plain_loop(judge, **plain)
    assert answer(driver, **GREEDY) == plain_loop(judge, bias={})
    assert answer(driver, **GREEDY) != plain_loop(judge, **plain), "a control: without the field"


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_truncation_to_one_token_is_greedy(driver: EngineDriver, fields: dict[str, Any]) -> None:
    greedy = answer(driver, **GREEDY)
    assert answer(driver, temperature=1.5, **fields) == greedy
    assert answer(driver, temperature=1.5) != greedy, "a control: without it the draws are random"


def test_a_bias_of_a_token_that_is_not_there_is_refused(driver: EngineDriver) -> None:
    with pytest.raises(RequestError, match=f"no token {VOCAB_SIZE}"):
        driver.submit(PROMPT, 4, sampling={"logit_bias": {str(VOCAB_SIZE): 1.0}})
    assert answer(driver, **GREEDY, logit_bias={str(VOCAB_SIZE - 1): 100.0}) == [VOCAB_SIZE - 1] * NUM_TOKENS


def test_logprobs_are_of_the_distribution_before_temperature(driver: EngineDriver, judge: Any) -> None:
    run = driver.submit(PROMPT, NUM_TOKENS, sampling={"temperature": 0.5, "top_k": 5, "logprobs": True})
    driver.wait(run)
    with torch.no_grad():
        logits = judge(torch.tensor([PROMPT + run.ids])).logits[0, len(PROMPT) - 1 : -1]
    plain, colder = (
        torch.log_softmax(logits / temperature, -1)[range(NUM_TOKENS), run.ids] for temperature in (1, 0.5)
    )
    got = torch.tensor(run.logprobs)
    assert (got - plain).abs().max() < 1e-4
    assert (got - colder).abs().max() > 1e-2, "a control: those that were drawn from"


def test_a_greedy_answer_goes_on_wherever_it_was_cut(driver: EngineDriver) -> None:
    whole = answer(driver, **GREEDY)
    for cut in (1, 7, NUM_TOKENS - 1):
        run = driver.submit(PROMPT + whole[:cut], NUM_TOKENS - cut, sampling=GREEDY)
        driver.wait(run)
        assert run.ids == whole[cut:]
    other = driver.submit([*PROMPT, *whole[:6], whole[6] ^ 1], NUM_TOKENS - 7, sampling=GREEDY)
    driver.wait(other)
    assert other.ids != whole[7:], "a control: after another token"


def test_prefixes_are_shared_within_a_salt_only(driver: EngineDriver) -> None:
    ids = list(range(3, 103))
    cached = [num_cached_tokens(driver, ids, salt) for salt in ("one", "one", "two", "")]
    assert cached[0] == cached[2] == cached[3] == 0
    assert cached[1] >= 64, "a control: it does share"


def num_cached_tokens(driver: EngineDriver, ids: list[int], salt: str) -> int:
    seen: list[int] = []
    take = driver._take

    def take_and_note(row: TokenRow) -> None:
        seen.append(row.extras.num_cached_tokens if row.extras else 0)
        take(row)

    driver._take = take_and_note  # type: ignore[method-assign]
    driver.wait(driver.submit(ids, 2, sampling=GREEDY, cache_salt=salt))
    driver._take = take  # type: ignore[method-assign]
    return seen[0]


def test_sglang_forgets_what_was_aborted(driver: EngineDriver) -> None:
    engine = driver.engine
    assert isinstance(engine, SglangEngine)
    known = engine._engine.tokenizer_manager.rid_to_state
    stays, goes = (driver.submit(PROMPT, 200, sampling=GREEDY) for _ in range(2))
    driver.wait(stays, goes, num_tokens=1)
    assert len(known) == 2
    driver.abort(goes)
    driver.wait(driver.submit(PROMPT, 4, sampling=GREEDY))
    assert [int(name) for name in known] == [stays.command.request], "a control: the other one still runs"
    driver.wait(stays)


def test_a_request_with_stop_ids_but_without_the_models_own_ends_there(driver: EngineDriver) -> None:
    """`ignore_eos` makes SGLang forget all ids that end an answer."""
    whole = answer(driver, **GREEDY)
    stop = next(token for index, token in enumerate(whole) if index > 2 and token not in whole[:index])
    for eos_ids in ([], [VOCAB_SIZE - 1]):
        run = driver.submit(PROMPT, NUM_TOKENS, sampling=GREEDY, stop_ids=[stop], eos_ids=eos_ids)
        driver.wait(run)
        assert run.ids == whole[: whole.index(stop) + 1]
        assert run.state is RequestState.FINISHED_STOP


def test_a_failure_that_sglang_reports_is_told_once(driver: EngineDriver) -> None:
    """The last law: it breaks the engine."""
    os.kill(os.getpid(), signal.SIGQUIT)
    os.kill(os.getpid(), signal.SIGQUIT)
    told = driver._events.told.get(timeout=45)
    assert told == "a process of SGLang failed; what it wrote before says why"
    driver.close()
    assert driver._events.told.empty()


def test_what_does_not_fit_is_refused_before_anything_starts(model: KitModel) -> None:
    engine = SglangEngine()
    spec: StageSpec = model.spec(sizes=SizeSettings(num_cache_blocks=10**12), device="cpu")
    with pytest.raises(Exception, match=r"blocks of 16 tokens need .* GiB"):
        engine.open(spec, None)  # type: ignore[arg-type]
    engine.close()
