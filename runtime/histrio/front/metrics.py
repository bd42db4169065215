"""Metrics: what /health and /metrics show, gathered from what the other actors tell."""

from __future__ import annotations

from histrio.actors.mailbox import Actor
from histrio.actors.refs import ToMetrics, refuse
from histrio.contracts.gateway import GatewayStatus
from histrio.messages import Stats

__all__ = ["MetricsActor"]


class MetricsActor(Actor[ToMetrics]):
    """Keeps totals monotonic although a replica that restarts counts from zero again."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status
        self._epoch = 0
        self._base: dict[str, float] = {}

    def receive(self, message: ToMetrics) -> None:
        """Take in one replica's totals and sizes."""
        match message:
            case Stats(epoch, values):
                self._take(epoch, values)
            case _:
                refuse("metrics", message)

    def _take(self, epoch: int, values: dict[str, float]) -> None:
        if epoch < self._epoch:
            return
        if epoch > self._epoch:
            self._epoch = epoch
            self._base = dict(self._status.counters)
        for name, value in values.items():
            if name.endswith("_total"):
                self._status.counters[name] = self._base.get(name, 0) + value
            else:
                self._status.gauges[name] = value
