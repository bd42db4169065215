"""Every layout of a few machines, tried one by one: what `histrio.hosts.layout` is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

from histrio.hosts.layout import Aim, Links, Machine, ModelSize

__all__ = ["best_cost", "fits", "partitions"]


def chain_cost(model: ModelSize, machines: Sequence[Machine], links: Links, aim: Aim) -> float:
    """The least cost of one chain over some of the machines, in any order; infinite if the model does not fit."""
    num_layers = len(model.layers)

    def num_bytes(first: int, end: int) -> int:
        size = sum(model.layers[first:end]) + (model.first if first == 0 else 0)
        return size + (model.last if end == num_layers else 0)

    def hop(one: Machine, other: Machine) -> float:
        link = links(one.name, other.name)
        sending = model.hidden_bytes / link.bytes_per_s
        return sending if aim == "throughput" else sending + link.round_trip_s / 2

    def join(one: float, other: float) -> float:
        return max(one, other) if aim == "throughput" else one + other

    @cache
    def rest(start: Machine | None, last: Machine | None, left: frozenset[Machine], first: int) -> float:
        if first == num_layers:
            return 0.0 if last is start or last is None or start is None else hop(last, start)
        best = math.inf
        for machine in left:
            for end in range(first + 1, num_layers + 1):
                size = num_bytes(first, end)
                if size > machine.memory_bytes:
                    continue
                cost = size / machine.bytes_per_s
                if last is not None:
                    cost = join(cost, hop(last, machine))
                after = rest(start or machine, machine, left - {machine}, end)
                best = min(best, join(cost, after))
        return best

    return rest(None, None, frozenset(machines), 0)


def fits(model: ModelSize, machines: Sequence[Machine]) -> bool:
    """Whether some order of the machines has room for all layers."""
    num_layers = len(model.layers)

    @cache
    def can(left: frozenset[Machine], first: int) -> bool:
        for machine in left:
            room = machine.memory_bytes - (model.first if first == 0 else 0)
            end = first
            while end < num_layers:
                room -= model.layers[end] + (model.last if end == num_layers - 1 else 0)
                if room < 0:
                    break
                end += 1
            if end == num_layers or (end > first and can(left - {machine}, end)):
                return True
        return False

    return can(frozenset(machines), 0)


def partitions(machines: list[Machine]) -> Iterator[list[list[Machine]]]:
    """All ways to put the machines into groups."""
    if not machines:
        yield []
        return
    first, *others = machines
    for groups in partitions(others):
        yield [[first], *groups]
        for index, group in enumerate(groups):
            yield [*groups[:index], [first, *group], *groups[index + 1 :]]


def best_cost(model: ModelSize, machines: list[Machine], links: Links, aim: Aim) -> float:
    """Steps per second of the best layout, or the least time of a token; 0 and infinite where nothing fits."""
    if aim == "latency":
        return chain_cost(model, machines, links, aim)
    best = 0.0
    for groups in partitions(machines):
        costs = [chain_cost(model, group, links, aim) for group in groups]
        best = max(best, sum(1 / cost for cost in costs if cost < math.inf))
    return best
