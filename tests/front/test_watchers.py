"""Hooks that watch: told in order, beside the service, and switched off when they fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.observed import FinishedRequest, IntervalStats
from histrio.errors import Overloaded
from histrio.front.watchers import Watchers
from histrio.messages import Ask, RequestState
from histrio.plugins.hook_calls import Implementation
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

STATS = IntervalStats(state="ready", epoch=1, interval_s=10.0, num_unfinished=0, counters={}, gauges={})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def on(hook: str, function: Callable[..., Any], *takes: str, owner: str = "mine [mine 1.0]") -> Implementation:
    return Implementation(hook, owner, function, takes)


def interval(*answers: object) -> Watchers:
    """Watchers after an interval at whose end plugins gave these answers."""
    watchers = Watchers(
        [on("on_interval", lambda answer=each: answer, owner=f"p{n} [x]") for n, each in enumerate(answers)]
    )
    watchers.tell("on_interval", stats=STATS)
    watchers.close(15)
    return watchers


def test_facts_are_told_in_order_and_only_those_that_are_taken() -> None:
    seen: list[object] = []
    watchers = Watchers(
        [
            on("on_actor_failed", lambda actor, restarts: seen.append((actor, restarts)), "actor", "restarts"),
            on("on_actor_failed", lambda: seen.append("second")),
        ]
    )
    for number in range(3):
        watchers.tell("on_actor_failed", actor="kv", error="x", restarts=number)
    watchers.close(15)
    assert seen == [("kv", 0), "second", ("kv", 1), "second", ("kv", 2), "second"]


def test_one_that_raises_is_logged_once_by_name_and_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def broken(restarts: int) -> None:
        calls.append(restarts)
        raise SystemExit("enough")

    other: list[int] = []
    watchers = Watchers(
        [
            on("on_actor_failed", broken, "restarts"),
            on("on_actor_failed", lambda restarts: other.append(restarts), "restarts", owner="other"),
        ]
    )
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            watchers.tell("on_actor_failed", actor="kv", error="x", restarts=number)
        watchers.close(15)
    assert calls == [0]
    assert other == [0, 1, 2], "a control: the others are called on"
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "the plugin mine [mine 1.0] failed in its hook on_actor_failed, which is not called again"
    )


def test_what_a_slow_plugin_is_not_told_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    may_go_on, has_begun = threading.Event(), threading.Event()
    seen: list[int] = []

    def slow(restarts: int) -> None:
        has_begun.set()
        assert may_go_on.wait(15)
        seen.append(restarts)

    watchers = Watchers([on("on_actor_failed", slow, "restarts")], max_waiting=2)
    watchers.tell("on_actor_failed", actor="kv", error="", restarts=0)
    assert has_begun.wait(15)
    for number in range(1, 6):
        watchers.tell("on_actor_failed", actor="kv", error="", restarts=number)
    assert watchers.num_dropped == 3
    may_go_on.set()
    watchers.close(15)
    assert seen == [0, 1, 2]
    assert len(caplog.records) == 1


def test_numbers_of_plugins_carry_their_names_and_last_until_the_next_answer() -> None:
    assert interval({"sold_total": 7, 'sold{key="a"}': 2.5}, {"sold_total": 1}, None).metrics == {
        'plugin_sold_total{plugin="p0"}': 7,
        'plugin_sold{plugin="p0",key="a"}': 2.5,
        'plugin_sold_total{plugin="p1"}': 1,
    }


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2],
        {"Sold": 1},
        {"sold": "many"},
        {"sold": float("nan")},
        {"sold": True},
        {7: 1},
        {"a\nb": 1},
        {'a{b="\n"}': 1},
        {f"n{number}": number for number in range(1001)},
    ],
)
def test_an_answer_that_cannot_be_shown_switches_the_hook_off(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    watchers = interval(answer, {"fine": 1})
    assert watchers.metrics == {'plugin_fine{plugin="p1"}': 1}
    assert "p0 [x] failed in its hook on_interval" in caplog.text


def test_without_watchers_there_is_no_thread() -> None:
    watchers = Watchers()
    watchers.tell("on_actor_failed", actor="kv", error="x", restarts=1)
    assert not watchers.wants("on_actor_failed")
    assert watchers._thread is None
    watchers.close(0)


@pytest.mark.anyio
async def test_a_served_replica_tells_of_requests_intervals_and_failures(tmp_path: Path) -> None:
    records: list[FinishedRequest] = []
    stats: list[IntervalStats] = []
    failed: list[tuple[str, str, int]] = []

    def watch_interval(stats_: IntervalStats) -> dict[str, float]:
        stats.append(stats_)
        return {"seen": len(records)}

    class FailsOnce(ToyFactory):
        has_failed = False

        def open(self, spec: Any, progress: Any) -> Any:
            stage: Any = super().open(spec, progress)
            step = stage.step

            def stepping(batch: Any) -> Any:
                if not FailsOnce.has_failed and batch.num_rows and batch.starts[0] > 6:
                    FailsOnce.has_failed = True
                    raise RuntimeError("once")
                return step(batch)

            stage.step = stepping
            return stage

    watching = [
        on("on_request_finished", lambda record: records.append(record), "record"),
        Implementation("on_interval", "mine", lambda stats: watch_interval(stats), ("stats",)),
        on(
            "on_actor_failed",
            lambda actor, error, restarts: failed.append((actor, error, restarts)),
            "actor",
            "error",
            "restarts",
        ),
    ]
    options = HarnessOptions(watching=watching, metrics_interval_s=0.5)
    model = write_toy_model(tmp_path / "toy", num_layers=2)
    async with serving(model, FailsOnce(), samplers=[Temperature], options=options) as harness:
        greedy = {"temperature": 0.0}
        submission = Submission([1, 2, 3], 9, Ask(greedy), num_choices=2, id="cmpl-7", key="k", user="u")
        first, second = harness.gateway.submit(submission)
        async for _delta in first:
            pass
        async for _delta in second:
            pass
        (stream,) = harness.gateway.submit(Submission([5], 400, Ask(greedy)))
        stream.cancel()
        await eventually_async(lambda: len(records) == 3 and bool(stats) and bool(failed))
        await eventually_async(lambda: harness.gateway.status.plugin_metrics == {'plugin_seen{plugin="mine"}': 3})

    assert [(each.id, each.choice, each.key, each.user) for each in records[:2]] == [
        ("cmpl-7", n, "k", "u") for n in (0, 1)
    ]
    assert {(each.num_prompt_tokens, each.num_tokens) for each in records[:2]} == {(3, 9)}
    assert {each.state for each in records[:2]} == {RequestState.FINISHED_MAX_LENGTH}
    assert all(0 < (each.first_token_s or 0) <= each.elapsed_s for each in records[:2])
    assert (records[2].state, records[2].num_tokens) == (RequestState.CANCELLED, 0)
    assert failed[0][0] == "stage0"
    assert failed[0][2] == 1
    assert stats[0].state in ("ready", "recovering")
    assert stats[0].interval_s >= 0.5


def test_overloaded_is_no_request_that_finished() -> None:
    """A refused submission was never accepted, so nothing is told of it."""
    from histrio.front.requests import RequestTable

    table = RequestTable(0)
    records: list[FinishedRequest] = []
    table.on_finished = records.append
    with pytest.raises(Overloaded):
        table.accept(Submission([1], 1))
    assert records == []


def test_sleeping_in_a_hook_keeps_no_stream_waiting(tmp_path: Path) -> None:
    may_end = threading.Event()

    async def served() -> list[int]:
        watching = [on("on_request_finished", lambda: may_end.wait(30))]
        options = HarnessOptions(watching=watching)
        async with serving(tmp_path / "toy", ToyFactory(), samplers=[Temperature], options=options) as harness:
            tokens = [await harness.generate([number], 2) for number in range(1, 4)]
            may_end.set()
            return [len(each) for each in tokens]

    write_toy_model(tmp_path / "toy", num_layers=2)
    assert anyio.run(served) == [2, 2, 2]
