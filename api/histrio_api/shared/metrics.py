"""Counters and histograms of the endpoint, and the Prometheus text format for them and the gateway's."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from histrio.contracts.gateway import GatewayStatus

__all__ = ["EndpointMetrics", "Histogram", "exposition"]

STATES = ("loading", "ready", "recovering", "draining", "failed")
_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_TOKENS = (1, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144)


class Histogram:
    """Observations in buckets with upper bounds `bounds`, and one above them all."""

    __slots__ = ("_bounds", "_counts", "_total", "help")

    def __init__(self, help_text: str, bounds: tuple[float, ...]) -> None:
        self.help = help_text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    @property
    def summary(self) -> dict[str, float]:
        """How many observations there were, and their sum."""
        return {"count": sum(self._counts), "sum": self._total}

    def lines(self, name: str) -> Iterator[str]:
        """Its part of the exposition."""
        yield f"# HELP {name} {self.help}"
        yield f"# TYPE {name} histogram"
        cumulative = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            cumulative += count
            yield f'{name}_bucket{{le="{_number(bound)}"}} {cumulative}'
        yield f"{name}_sum {_number(self._total)}"
        yield f"{name}_count {cumulative}"


class EndpointMetrics:
    """What only the endpoint can count; written from the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By path and status; 499 is a client that left."""
        self.known_paths: frozenset[str] = frozenset()
        """Paths that get a label of their own; the rest is `other`, so that scanners don't fill the memory."""
        self.ignored_fields: Counter[str] = Counter()
        """Requests that had a field which was left out, by the field's name; the table of known fields bounds them."""
        self.num_prompt_tokens = 0
        self.num_completion_tokens = 0
        self.histograms = {
            "time_to_first_token_seconds": Histogram("From the request's arrival to its first token.", _SECONDS),
            "inter_token_seconds": Histogram("Between tokens of one choice after the first.", _SECONDS),
            "request_seconds": Histogram("From the request's arrival to its last token.", _SECONDS),
            "request_prompt_tokens": Histogram("Tokens in a prompt.", _TOKENS),
            "request_completion_tokens": Histogram("Tokens in all choices of a request.", _TOKENS),
        }
        self.first_token = self.histograms["time_to_first_token_seconds"]
        self.inter_token = self.histograms["inter_token_seconds"]

    @property
    def has_finished(self) -> bool:
        """Whether a generation has ended."""
        return bool(self.histograms["request_seconds"].summary["count"])

    def count_request(self, path: str, status: int) -> None:
        """One more request was answered."""
        self.requests[self.label_of(path), status] += 1

    def label_of(self, path: str) -> str:
        """What a path is called where clients must not choose the words."""
        return path if path in self.known_paths else "other"

    def count_ignored(self, names: Iterable[str]) -> None:
        """One more request had each of these, and they were left out."""
        self.ignored_fields.update(names)

    def count_finished(self, num_prompt_tokens: int, num_completion_tokens: int, elapsed_s: float) -> None:
        """One more generation ended, for whatever reason."""
        self.num_prompt_tokens += num_prompt_tokens
        self.num_completion_tokens += num_completion_tokens
        self.histograms["request_prompt_tokens"].observe(num_prompt_tokens)
        self.histograms["request_completion_tokens"].observe(num_completion_tokens)
        self.histograms["request_seconds"].observe(elapsed_s)


def exposition(metrics: EndpointMetrics, status: GatewayStatus, prefix: str = "histrio_") -> str:
    """Everything as Prometheus text, version 0.0.4."""
    lines = list(_gateway_lines(status, prefix))
    name = f"{prefix}http_requests_total"
    lines += [f"# HELP {name} Requests answered, by path and status.", f"# TYPE {name} counter"]
    lines += [f'{name}{{path="{path}",status="{code}"}} {count}' for (path, code), count in metrics.requests.items()]
    name = f"{prefix}ignored_fields_total"
    lines += [f"# HELP {name} Hints and unknown fields of requests that were left out.", f"# TYPE {name} counter"]
    lines += [f'{name}{{field="{field}"}} {count}' for field, count in metrics.ignored_fields.items()]
    totals = {
        "http_prompt_tokens_total": metrics.num_prompt_tokens,
        "http_completion_tokens_total": metrics.num_completion_tokens,
    }
    lines += _family_lines(totals, "counter", prefix)
    for label, histogram in metrics.histograms.items():
        lines += histogram.lines(f"{prefix}{label}")
    return "\n".join(lines) + "\n"


def _gateway_lines(status: GatewayStatus, prefix: str) -> Iterator[str]:
    yield f"# TYPE {prefix}state gauge"
    for state in STATES:
        yield f'{prefix}state{{state="{state}"}} {int(state == status.state)}'
    gauges = {
        "unfinished_requests": status.num_unfinished,
        "max_unfinished_requests": status.max_unfinished_requests,
        "epoch": status.epoch,
        "load_progress_ratio": status.progress,
    }
    yield from _family_lines(gauges | status.gauges, "gauge", prefix)
    yield from _family_lines({"replays_total": status.num_replays} | status.counters, "counter", prefix)
    for kind in ("counter", "gauge"):
        numbers = {name: value for name, value in status.plugin_metrics.items() if _kind_of(name) == kind}
        yield from _family_lines(numbers, kind, prefix)


def _kind_of(name: str) -> str:
    """Of a plugin's number, by its name's end."""
    return "counter" if name.partition("{")[0].endswith("_total") else "gauge"


def _family_lines(values: Mapping[str, float], kind: str, prefix: str) -> Iterator[str]:
    """A name may carry labels (`restarts_total{child="engine"}`); its family is announced once."""
    families: set[str] = set()
    for name, value in sorted(values.items()):
        family = name.partition("{")[0]
        if family not in families:
            families.add(family)
            yield f"# TYPE {prefix}{family} {kind}"
        yield f"{prefix}{name} {_number(value)}"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
