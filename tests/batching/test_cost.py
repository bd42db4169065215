"""The cost model finds the rates of an imagined device, follows it when it changes, and shrugs off stalls."""

from __future__ import annotations

import random

import pytest

from histrio.batching.speculation.cost import CostModel, attended_pairs


def device(num_tokens: int, num_pairs: float, slow: float = 1.0) -> float:
    return slow * (0.004 + 0.001 * num_tokens + 2e-7 * num_pairs)


def train(model: CostModel, num_steps: int, slow: float = 1.0, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(num_steps):
        num_tokens = rng.choice([1, 4, 8, 60, 250, 500])
        pairs = attended_pairs(rng.randrange(0, 20_000), num_tokens)
        model.observe(num_tokens, pairs, device(num_tokens, pairs, slow) * rng.uniform(0.95, 1.05))


def error(model: CostModel, num_tokens: int, start: int, slow: float = 1.0) -> float:
    pairs = attended_pairs(start, num_tokens)
    return abs(model.predict(num_tokens, pairs) / device(num_tokens, pairs, slow) - 1)


def test_pairs_are_counted_as_causal_attention_has_them() -> None:
    assert attended_pairs(0, 3) == 1 + 2 + 3
    assert attended_pairs(10, 2) == 11 + 12


def test_it_learns_the_rates_of_a_device() -> None:
    model = CostModel()
    assert not model.is_trusted
    train(model, 200)
    assert model.is_trusted
    assert max(error(model, 8, 5_000), error(model, 500, 100), error(model, 500, 18_000)) < 0.1
    assert error(model, 500, 18_000, slow=3.0) > 0.5, "a control: another device"


def test_it_follows_a_device_that_slows_down() -> None:
    model = CostModel()
    train(model, 200)
    train(model, 600, slow=3.0, seed=1)
    assert max(error(model, 8, 5_000, 3.0), error(model, 500, 18_000, 3.0)) < 0.3


def test_one_stall_changes_little() -> None:
    model = CostModel()
    train(model, 200)
    before = model.predict(8, 1000)
    model.observe(8, 1000, 100 * device(8, 1000))
    assert model.predict(8, 1000) < 2 * before


@pytest.mark.parametrize("start", [0, 1000, 30_000])
def test_a_chunk_is_as_large_as_its_time_allows(start: int) -> None:
    model = CostModel()
    train(model, 300)
    num_tokens = model.tokens_within(0.2, start)
    gained = model.predict(num_tokens, attended_pairs(start, num_tokens)) - model.predict(0, 0)
    assert gained == pytest.approx(0.2, rel=0.02)
    assert model.tokens_within(0.0, start) == 0


def test_later_chunks_of_a_long_prompt_are_smaller() -> None:
    model = CostModel()
    train(model, 300)
    sizes = [model.tokens_within(0.2, start) for start in (0, 8_000, 30_000)]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2] > 0


def test_hours_of_decoding_do_not_spoil_what_it_knows_of_prompts() -> None:
    model = CostModel()
    train(model, 200)
    rng = random.Random(3)
    for step in range(20_000):
        pairs = 8 * (500 + step % 400)
        model.observe(8, pairs, device(8, pairs) * rng.uniform(0.9, 1.1))
    assert error(model, 8, 5_000) < 0.3
    assert 0.2 < model.predict(500, attended_pairs(0, 500)) / device(500, attended_pairs(0, 500)) < 5
    train(model, 5, seed=4)
    assert error(model, 500, 100) < 0.2


def decode(model: CostModel, num_steps: int, num_rows: int, num_drafts: int, slow: float = 1.0) -> None:
    for _ in range(num_steps):
        tokens = num_rows + num_drafts
        model.observe(tokens, 500 * tokens, device(tokens, 500 * tokens, slow), num_drafts)


def test_what_drafts_cost_besides_is_learned_for_each_number_of_rows() -> None:
    model = CostModel()
    train(model, 200)
    decode(model, 40, 32, 0)
    decode(model, 40, 32, 8, slow=1.4)
    assert model.surcharge(32) == pytest.approx(0.4, abs=0.1)
    assert model.surcharge(1) == 0, "a control: nothing is known of one row"
    before = model.predict(500, 0)
    decode(model, 40, 32, 8, slow=1.4)
    assert model.predict(500, 0) == before, "drafts do not change what is known of prompts"


def test_what_drafts_cost_is_forgotten_in_time() -> None:
    model = CostModel()
    train(model, 200)
    decode(model, 40, 32, 0)
    decode(model, 40, 32, 8, slow=1.4)
    decode(model, 300, 32, 0)
    assert model.surcharge(32) > 0.2, "a control: not at once"
    decode(model, 2700, 32, 0)
    assert model.surcharge(32) < 0.05


def test_a_prediction_that_is_wrong_for_all_steps_of_a_size_is_no_surcharge() -> None:
    model = CostModel()
    train(model, 200)
    decode(model, 40, 32, 0, slow=1.3)
    decode(model, 40, 32, 8, slow=1.3)
    assert model.surcharge(32) < 0.1


def test_it_knows_when_steps_with_prompts_take_longer_than_it_says() -> None:
    model = CostModel()
    for index in range(60):
        model.observe(64, attended_pairs(100, 64), device(64, attended_pairs(100, 64)))
        model.observe(256 + index, attended_pairs(1000, 256 + index), device(256, attended_pairs(1000, 256)))
    assert model.lag < 1.2
    pairs = attended_pairs(1000, 256)
    for _ in range(6):
        model.observe(256, pairs, 2 * model.predict(256, pairs))
    assert 1.5 < model.lag < 2
    for _ in range(40):
        model.observe(256, pairs, model.predict(256, pairs))
    assert model.lag < 1.1, "and it forgets"
