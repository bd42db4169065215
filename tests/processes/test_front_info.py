"""The names of what was chosen stand on /metrics."""

from __future__ import annotations

from histrio.contracts.gateway import GatewayStatus
from histrio.processes.front import info_gauge
from histrio_api.shared.metrics import EndpointMetrics, exposition


def test_names_are_labels_of_one_gauge() -> None:
    name = info_gauge({"drafter": "ngram", "batching_policy": 'my "own"\\\n'})
    text = exposition(EndpointMetrics(), GatewayStatus(gauges={name: 1}))
    assert '# TYPE histrio_info gauge\nhistrio_info{drafter="ngram",batching_policy="my \\"own\\"\\\\\\n"} 1\n' in text
