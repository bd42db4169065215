"""GET /v1/status: what the front knows of stages, speed and events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio.contracts.gateway import MAX_EVENTS, GatewayStatus, StageStatus
from histrio.front.status_notes import StatusNotes
from histrio.messages import Placement
from histrio.stage.actor import Activity
from histrio.testing.harness import Harness, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_api.testing import endpoint_over, write_tokenizer
from histrio_samplers.plugin import SAMPLERS

LATENCY = 'layer_latency_seconds{stage="1"}'


@pytest.mark.anyio
async def test_stages_are_shown_with_their_layers_memory_and_latency(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=5)
    write_tokenizer(model)
    async with (
        serving(model, ToyFactory(), samplers=list(SAMPLERS), cuts=[2]) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        before = (await http.get("/v1/status")).json()
        assert [stage["layer_latency_s"] for stage in before["stages"]] == [0, 0]
        await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
        await eventually_async(lambda: harness.gateway.status.gauges.get(LATENCY, 0) > 0)
        found = (await http.get("/v1/status")).json()
        text = (await http.get("/metrics")).text
    _check(found, harness)
    assert f"histrio_{LATENCY} " in text


def _check(found: dict[str, Any], harness: Harness) -> None:
    first, last = found["stages"]
    assert [(each["first_layer"], each["last_layer"]) for each in (first, last)] == [(0, 2), (2, 5)]
    assert last["latency_s"] == pytest.approx(3 * last["layer_latency_s"])
    blocks = found["blocks"]
    assert last["block_bytes"] == blocks["total"] * blocks["tokens_per_block"] * last["block_bytes_per_token"]
    assert (found["state"], found["model"]["num_layers"]) == ("ready", 5)
    assert found["totals"]["generated_tokens_total"] >= 0
    assert found["latencies"]["request_seconds"]["count"] == 1
    assert [event["text"] for event in found["events"]] == [f"ready: epoch {harness.gateway.status.epoch}"]


def test_latency_follows_the_newest_step_by_a_fifth() -> None:
    now = [0.0]
    activity = Activity(lambda: now[0])
    for seconds in (1.0, 2.0, 2.0):
        activity.begin(1, 1, 1)
        now[0] += seconds
        activity.end()
    assert activity.latency_s == pytest.approx(1.0 + 0.2 + 0.2 * 0.8)


def test_events_are_changes_and_failures_in_words_for_clients() -> None:
    status = GatewayStatus()
    notes = StatusNotes(status, [StageStatus(index=0, first_layer=0, last_layer=2, backend="toy", process="engine")])
    notes.changed()
    status.state, status.epoch = "ready", 1
    notes.changed()
    notes.changed()
    notes.failed("stage0")
    status.state, status.detail = "recovering", "stage0 failed"
    notes.changed()
    assert [(event.level, event.text) for event in status.events] == [
        ("info", "ready: epoch 1"),
        ("warning", "stage0 failed"),
        ("warning", "recovering: stage0 failed"),
    ]
    for _ in range(2 * MAX_EVENTS):
        notes.failed("stage0")
    assert len(status.events) == MAX_EVENTS


def test_a_stage_keeps_its_device_when_it_opens_without_saying_one() -> None:
    status = GatewayStatus()
    notes = StatusNotes(status, [StageStatus(index=0, first_layer=0, last_layer=2, backend="toy", process="engine")])
    notes.placed(Placement(stage=0, device="cuda:1", block_mem_ratio=0.5))
    notes.placed(Placement(stage=7, device="cpu", block_mem_ratio=0.5))
    assert (status.stages[0].device, status.stages[0].dtype) == ("cuda:1", "")
    assert list(status.stages) == [0]
