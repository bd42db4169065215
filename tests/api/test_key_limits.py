"""What a key may take: buckets on a virtual clock, against a count of what was taken in every minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histrio_api.keys.bucket import Bucket
from histrio_api.keys.key import ApiKey, hash_of
from histrio_api.keys.limits import KeyLimits, RateLimited


@dataclass
class Clock:
    """Moves when told."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def limits(clock: Clock, **given: Any) -> KeyLimits:
    return KeyLimits(ApiKey(name="a", hash=hash_of(b"a"), **given), clock)


@given(
    per_minute=st.integers(1, 500),
    asked=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), min_size=1, max_size=25),
)
def test_within_any_time_no_more_is_taken_than_was_there_and_came_back(
    per_minute: int, asked: list[tuple[float, int]]
) -> None:
    bucket, now_s, taken = Bucket(per_minute, 0.0), 0.0, []
    for pause_s, amount in asked:
        now_s += pause_s
        if amount <= per_minute and not bucket.wait_s(amount, now_s):
            bucket.take(amount, now_s)
            taken.append((now_s, amount))
    for first, (start_s, _) in enumerate(taken):
        for last in range(first, len(taken)):
            within = sum(amount for _, amount in taken[first : last + 1])
            assert within <= per_minute * (1 + (taken[last][0] - start_s) / 60) + 1e-6


@given(per_minute=st.integers(1, 10_000), taken=st.integers(1, 10_000), amount=st.integers(1, 10_000))
def test_after_the_time_that_is_said_it_may_be_taken_and_not_before(per_minute: int, taken: int, amount: int) -> None:
    bucket = Bucket(per_minute, 0.0)
    bucket.take(taken, 0.0)
    wait_s = bucket.wait_s(amount, 0.0)
    assert bucket.wait_s(amount, wait_s + 1e-6) == 0
    assert not wait_s or bucket.wait_s(amount, wait_s * 0.99) > 0, "a control"


def test_more_than_a_bucket_can_hold_is_given_once_it_is_full_and_paid_for_afterwards() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(150, 0.0)
    assert (bucket.level(0.0), bucket.full_s(0.0)) == (0, 150)
    assert bucket.wait_s(1, 80.0) == 11
    bucket.take(-1000, 80.0)
    assert bucket.level(80.0) == 60, "it holds no more than that"


def test_requests_of_a_minute_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    key = limits(clock, requests_per_minute=3)
    for _ in range(3):
        key.take_request()
    with pytest.raises(RateLimited, match="3 requests per minute; try again in 20 s") as caught:
        key.take_request()
    assert (caught.value.status, caught.value.type, caught.value.retry_after_s) == (429, "requests", 20)
    clock.now_s += 19.9
    with pytest.raises(RateLimited):
        key.take_request()
    clock.now_s += 0.2
    key.take_request()


def test_tokens_are_reserved_and_what_was_not_needed_comes_back() -> None:
    clock = Clock()
    key = limits(clock, tokens_per_minute=100)
    held = key.reserve(90)
    with pytest.raises(RateLimited, match="10 are left") as caught:
        key.reserve(20)
    assert (caught.value.type, caught.value.retry_after_s) == ("tokens", 6)
    assert key.headers()["x-ratelimit-remaining-tokens"] == "10"
    held.settle(15)
    held.settle(90)
    assert key.headers()["x-ratelimit-remaining-tokens"] == "85", "settled once"
    key.reserve(85)


def test_an_answer_that_took_more_than_was_reserved_is_paid_for() -> None:
    clock = Clock()
    key = limits(clock, tokens_per_minute=60)
    key.reserve(10).settle(80)
    with pytest.raises(RateLimited, match="try again in 21 s"):
        key.reserve(1)
    clock.now_s += 21
    key.reserve(1)


def test_only_so_many_requests_run_at_a_time() -> None:
    key = limits(Clock(), concurrent_requests=2)
    first, _ = key.reserve(1), key.reserve(1)
    with pytest.raises(RateLimited, match="2 requests at the same time"):
        key.reserve(1)
    first.settle(1)
    key.reserve(1)


def test_new_limits_count_from_now_and_what_stays_goes_on() -> None:
    key = limits(Clock(), requests_per_minute=5, tokens_per_minute=100)
    key.take_request()
    held = key.reserve(40)
    key.change(ApiKey(name="a", hash=hash_of(b"a"), requests_per_minute=5, tokens_per_minute=200))
    left = key.headers()
    assert (left["x-ratelimit-remaining-requests"], left["x-ratelimit-remaining-tokens"]) == ("4", "200")
    held.settle(0)
    assert key.headers()["x-ratelimit-remaining-tokens"] == "200", "no bucket holds more than its minute"


def test_headers_say_how_long_as_openai_does() -> None:
    key = limits(Clock(), requests_per_minute=600, tokens_per_minute=60)
    key.take_request()
    assert key.headers()["x-ratelimit-reset-requests"] == "100ms"
    for num_tokens, text in ((1, "1s"), (6, "7s"), (53, "1m0s"), (90, "2m30s")):
        key.reserve(num_tokens) if num_tokens < 90 else key.settle(-num_tokens)
        assert key.headers()["x-ratelimit-reset-tokens"] == text
    assert limits(Clock()).headers() == {}, "a control: what has no limit has no header"
