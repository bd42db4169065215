"""Which machine holds which layers: a pure search over orders of machines and cuts of the layers.

For a given order the best cuts are found exactly, layer by layer: the best way to have layers `0:end` on the first
machines follows from the best ways to have fewer. Orders are found by search, which begins with orders that are good
for obvious reasons. Whether a model fits at all is answered exactly for up to ten machines, and for any number where
all layers between the first and the last have the same size.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.errors import DoesNotFit
from histrio.kit.memory import describe_bytes

__all__ = ["Aim", "Layout", "Link", "Machine", "ModelSize", "Share", "lay_out"]

Aim = Literal["throughput", "latency"]
"""Most steps per second of all replicas together, or the least time of one token."""

_Floats = npt.NDArray[np.float64]
_EXACT_UP_TO = 10
"""Machines of which every subset is looked at, to find out whether the model fits."""
_ALL_GROUPS_UP_TO = 8
"""Machines of which every division into replicas is looked at."""
_ALL_PERMUTATIONS_UP_TO = 4
"""Machines of a chain that are tried in every order."""
_LEAST_TRIES, _MOST_TRIES, _TRIES_IN_ALL = 8, 300, 20000
"""Changes of an order that are tried: fewer if there are many machines."""
_MOST_STARTS, _MOST_NEAREST = 8, 4
"""First machines of the orders that the search begins with."""
_TIE = 1e-6
"""What the time of a token counts beside that of the slowest part."""
_MOST_SHUFFLES = 200
_SEED = 7
_HIDDEN_BYTES = 16384
"""What one row of hidden states takes on a link, where the model is not known."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine can do, as far as layers care."""

    name: str
    memory_bytes: int
    """For weights and blocks."""
    bytes_per_s: float
    """At which it reads weights: what decoding is bound by."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The way between two machines."""

    round_trip_s: float = 0.0
    bytes_per_s: float = float("inf")


class ModelSize(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a model on its machines, with what its blocks need at least."""

    layers: list[int]
    first: int = 0
    """Beside the first layer: the embedding."""
    last: int = 0
    """Beside the last layer: norm and output projection, and the embedding again where the two are tied."""
    hidden_bytes: int = _HIDDEN_BYTES
    """One row of hidden states."""

    @property
    def num_bytes(self) -> int:
        """Of a whole replica."""
        return self.first + sum(self.layers) + self.last


class Share(msgspec.Struct, frozen=True):
    """Layers `first:end` on one machine."""

    machine: Machine
    first: int
    end: int
    num_bytes: int


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Each replica is a chain of machines; each machine is in one of them, or spare."""

    replicas: list[list[Share]]
    steps_per_s: float
    """Of all replicas together, when each of their machines is always busy."""
    token_s: float
    """Time of one token through the fastest replica."""
    spare: list[Machine] = []


Links = Callable[[str, str], Link]


def lay_out(
    model: ModelSize,
    machines: Sequence[Machine],
    links: Links = lambda _one, _other: Link(),
    *,
    aim: Aim = "throughput",
    most_replicas: int | None = None,
) -> Layout:
    """The best layout that was found. Raises `DoesNotFit` with the bytes that are missing.

    `most_replicas` is the number of replicas at most; None for as many as the machines have room for. With `latency`
    there is one.
    """
    if not machines:
        raise DoesNotFit("there is no machine to hold the model")

    search = _Search(model, links, aim, len(machines))
    most = min(sum(each.memory_bytes for each in machines) // max(model.num_bytes, 1), len(machines))
    most = 1 if aim == "latency" else max(1, min(most, most_replicas or most))
    if most == 1:
        divisions = [[list(machines)]]
    elif len(machines) <= _ALL_GROUPS_UP_TO:
        divisions = [search.best_groups(machines, most)]
    else:
        divisions = [_groups(model, machines, number) for number in _numbers_of_replicas(most)]
    layouts = [each for each in map(search.layout, divisions) if each is not None]
    if not layouts:
        raise DoesNotFit(_what_is_missing(model, machines))
    if aim == "latency":
        return min(layouts, key=lambda each: each.token_s)
    return max(layouts, key=lambda each: each.steps_per_s * (1 - _TIE * each.token_s))


def _numbers_of_replicas(most: int) -> list[int]:
    """Every one up to four, then each half as large again as the one before, and the most."""
    numbers, number = [], 1
    while number < most:
        numbers.append(number)
        number = max(number + 1, number * 3 // 2)
    return [*numbers, most]


def _groups(model: ModelSize, machines: Sequence[Machine], number: int) -> list[list[Machine]]:
    """Machines in groups with room for about as many layers, the largest dealt out first; what is over goes to the
    slowest group."""
    if number == 1:
        return [list(machines)]

    layer_bytes = max(1, sum(model.layers) // len(model.layers))
    needed = len(model.layers) + -(-(model.first + model.last) // layer_bytes)
    groups: list[list[Machine]] = [[] for _ in range(number)]
    room, speed = [0] * number, [0.0] * number
    for machine in sorted(machines, key=lambda each: -each.memory_bytes):
        lacking = [index for index in range(number) if room[index] < needed]
        index = min(lacking, key=room.__getitem__) if lacking else min(range(number), key=speed.__getitem__)
        groups[index].append(machine)
        room[index] += machine.memory_bytes // layer_bytes
        speed[index] += machine.bytes_per_s
    return groups


def _times(model: ModelSize, chain: Sequence[Share], links: Links) -> tuple[float, float]:
    """Seconds of the slowest part of a chain, and of all its parts."""
    parts = [share.num_bytes / share.machine.bytes_per_s for share in chain]
    hops = [links(one.machine.name, other.machine.name) for one, other in _pairs(chain)]
    if len(chain) > 1:
        hops.append(links(chain[-1].machine.name, chain[0].machine.name))  # the token's way back
    sending = [model.hidden_bytes / hop.bytes_per_s for hop in hops]
    return max([*parts, *sending]), sum(parts) + sum(sending) + sum(hop.round_trip_s / 2 for hop in hops)


def _pairs(chain: Sequence[Share]) -> Iterator[tuple[Share, Share]]:
    return itertools.pairwise(chain)


class _Search:
    """Looks for good chains of one model."""

    def __init__(self, model: ModelSize, links: Links, aim: Aim, num_machines: int) -> None:
        self._model, self._links, self._aim = model, links, aim
        self._cutter = _Cutter(model, aim)
        self._num_tries = min(_MOST_TRIES, max(_LEAST_TRIES, _TRIES_IN_ALL // num_machines**2))

    def layout(self, groups: Sequence[list[Machine]]) -> Layout | None:
        """A chain for each group; machines of a group that cannot hold the model are spare. None without any chain."""
        chains = [chain for chain in map(self.chain, groups) if chain is not None]
        if not chains:
            return None
        used = {share.machine.name for chain in chains for share in chain}
        times = [_times(self._model, chain, self._links) for chain in chains]
        return Layout(
            replicas=chains,
            steps_per_s=sum(1 / slowest for slowest, _ in times),
            token_s=min(total for _, total in times),
            spare=[machine for group in groups for machine in group if machine.name not in used],
        )

    def best_groups(self, machines: Sequence[Machine], most: int) -> list[list[Machine]]:
        """The division with the most steps per second, from the best chain of every set of machines."""
        whole = (1 << len(machines)) - 1
        members = [[each for index, each in enumerate(machines) if chosen >> index & 1] for chosen in range(whole + 1)]
        rates = [self._rate(group) for group in members]
        best = [[(0.0, 0)] * (whole + 1) for _ in range(most + 1)]  # [groups][machines] → steps per second, next group
        for left in range(1, most + 1):
            for chosen in range(1, whole + 1):
                found = (
                    (rates[part] + best[left - 1][chosen ^ part][0], part) for part in _subsets(chosen) if rates[part]
                )
                best[left][chosen] = max(found, default=(0.0, 0))
        groups, chosen = [], whole
        for left in range(most, 0, -1):
            part = best[left][chosen][1]
            if part:
                groups.append(members[part])
                chosen ^= part
        return [*groups, members[chosen]] if chosen else groups

    def _rate(self, group: Sequence[Machine]) -> float:
        """Steps per second of the best chain, fewer if it has more machines; 0 where the model does not fit."""
        if sum(each.memory_bytes for each in group) < self._model.num_bytes:
            return 0.0
        chain = self.chain(group)
        return 0.0 if chain is None else (1 - _TIE * len(chain)) / _times(self._model, chain, self._links)[0]

    def chain(self, machines: Sequence[Machine]) -> list[Share] | None:
        """The best chain that was found over these machines, of which some may stay without layers."""
        best = _Best()
        machines = self._candidates(machines)
        for permutation in _first_permutations(machines, self._links):
            self._try(permutation, best)
        if not best.shares:
            fitting = _permutation_that_fits(self._model, machines)
            if fitting is None:
                return None
            self._try(fitting, best)
        if len(machines) <= _ALL_PERMUTATIONS_UP_TO:
            for each in itertools.permutations(machines):
                self._try(each, best)
            return best.shares

        chance = random.Random(_SEED)
        for _ in range(self._num_tries):
            self._try(_changed(best.permutation, chance), best)
        return best.shares

    def _candidates(self, machines: Sequence[Machine]) -> Sequence[Machine]:
        """Of very many machines those that a chain could want: it has no more of them than layers."""
        most = len(self._model.layers)
        if len(machines) <= 2 * most:
            return machines
        largest = sorted(machines, key=lambda each: -each.memory_bytes)[:most]
        fastest = sorted(machines, key=lambda each: -each.bytes_per_s)[:most]
        return list({each.name: each for each in (*largest, *fastest)}.values())

    def _try(self, permutation: Sequence[Machine], best: _Best) -> None:
        """Keep what is better than the best."""
        shares = self._cutter.cut(permutation, self._links)
        if shares is None:
            return
        slowest, total = _times(self._model, shares, self._links)
        cost = slowest + _TIE * total if self._aim == "throughput" else total
        if cost < best.cost:
            best.cost, best.permutation, best.shares = cost, list(permutation), shares


@dataclass(slots=True)
class _Best:
    """The best chain so far, and the order of machines that it came from."""

    cost: float = math.inf
    permutation: list[Machine] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)


def _subsets(chosen: int) -> Iterator[int]:
    """All sets of bits within `chosen` but the empty one."""
    part = chosen
    while part:
        yield part
        part = part - 1 & chosen


def _first_permutations(machines: Sequence[Machine], links: Links) -> Iterator[list[Machine]]:
    """The largest first; the fastest first, also behind each of the others; and from each of the fastest to the
    nearest."""
    yield sorted(machines, key=lambda each: -each.memory_bytes)
    by_speed = sorted(machines, key=lambda each: -each.bytes_per_s)
    for start in by_speed[:_MOST_STARTS]:
        yield [start, *(each for each in by_speed if each is not start)]
    for start in by_speed[:_MOST_NEAREST]:
        chain, rest = [start], [each for each in by_speed if each is not start]
        while rest:
            nearest = min(rest, key=lambda each: links(chain[-1].name, each.name).round_trip_s)
            rest.remove(nearest)
            chain.append(nearest)
        yield chain


def _changed(permutation: Sequence[Machine], chance: random.Random) -> list[Machine]:
    """Two machines exchanged, one moved, or a part turned round."""
    changed = list(permutation)
    one, other = sorted(chance.sample(range(len(permutation)), 2))
    match chance.randrange(3):
        case 0:
            changed[one], changed[other] = changed[other], changed[one]
        case 1:
            changed.insert(other, changed.pop(one))
        case _:
            changed[one : other + 1] = reversed(changed[one : other + 1])
    return changed


class _Cutter:
    """Cuts of one model's layers for machines in a given order."""

    def __init__(self, model: ModelSize, aim: Aim) -> None:
        self._model = model
        self._num_layers = len(model.layers)
        sums = np.concatenate([[0], np.cumsum(np.asarray(model.layers, np.float64))])
        sizes = sums[None, :] - sums[:, None]  # [first, end]
        sizes[0, :] += model.first
        sizes[:, -1] += model.last
        sizes[np.tril_indices(len(sums))] = np.inf
        self._sizes: _Floats = sizes
        self._join = np.maximum if aim == "throughput" else np.add
        self._aim = aim

    def cut(self, permutation: Sequence[Machine], links: Links) -> list[Share] | None:
        """The best shares, of which the first machine has the first layers, while others may stay without any; None if
        the layers do not fit in this order."""
        num_layers = self._num_layers
        ends = np.arange(num_layers + 1)
        costs = np.full((len(permutation), num_layers + 1), np.inf)
        """[machine][end]: the least cost of layers `0:end` where this machine has the last of them."""
        before = np.zeros((len(permutation), num_layers + 1), np.intp)
        firsts = np.zeros((len(permutation), num_layers + 1), np.intp)
        for index, machine in enumerate(permutation):
            times = np.where(self._sizes <= machine.memory_bytes, self._sizes / machine.bytes_per_s, np.inf)
            begin = np.full(num_layers + 1, np.inf)
            if index:
                hops = np.array([self._hop(other, machine, links) for other in permutation[:index]])
                ways = self._join(costs[:index], hops[:, None])
                before[index] = ways.argmin(axis=0)
                begin = ways[before[index], ends]
            else:
                begin[0] = 0.0
            joined = self._join(begin[:, None], times)
            firsts[index] = joined.argmin(axis=0)
            costs[index] = joined[firsts[index], ends]
        back = np.array([0.0, *(self._hop(other, permutation[0], links) for other in permutation[1:])])
        last = int(self._join(costs[:, -1], back).argmin())
        if not np.isfinite(costs[last, -1]):
            return None

        shares: list[Share] = []
        end = num_layers
        while end:
            first = int(firsts[last, end])
            shares.append(Share(permutation[last], first, end, int(self._sizes[first, end])))
            last, end = int(before[last, first]), first
        return shares[::-1]

    def _hop(self, one: Machine, other: Machine, links: Links) -> float:
        """Seconds of the link between the two, as far as the aim counts them."""
        link = links(one.name, other.name)
        sending_s = self._model.hidden_bytes / link.bytes_per_s
        return sending_s if self._aim == "throughput" else sending_s + link.round_trip_s / 2


def _permutation_that_fits(model: ModelSize, machines: Sequence[Machine]) -> list[Machine] | None:
    """Some order in which memory suffices; None if there is none, or none was found among very many."""
    reach = _Reach(model)
    if len(machines) <= _EXACT_UP_TO:
        return reach.permutation_of_subset(machines)

    def suffices(permutation: Iterable[Machine]) -> bool:
        end = 0
        for machine in permutation:
            end = reach.end(end, machine.memory_bytes)
        return end == len(model.layers)

    by_memory = sorted(machines, key=lambda each: -each.memory_bytes)
    ends = [each for each in by_memory if each.memory_bytes]
    for first in ends:
        for last in ends:
            if first is not last:
                permutation = [first, *(each for each in by_memory if each is not first and each is not last), last]
                if suffices(permutation):
                    return permutation
    chance = random.Random(_SEED)
    for _ in range(_MOST_SHUFFLES):
        chance.shuffle(by_memory)
        if suffices(by_memory):
            return by_memory
    return None


class _Reach:
    """How far machines get by their memory alone."""

    def __init__(self, model: ModelSize) -> None:
        self._model = model
        self._sums = [0, *np.cumsum(np.asarray(model.layers, np.int64)).tolist()]

    def end(self, first: int, memory_bytes: int) -> int:
        """The layer behind the last one that fits, for a machine that begins with layer `first`."""
        num_layers = len(self._model.layers)
        room = memory_bytes - (self._model.first if first == 0 else 0) + self._sums[first]
        if room >= self._sums[-1] + self._model.last:
            return num_layers
        end = int(np.searchsorted(self._sums, room, side="right")) - 1
        return max(first, min(end, num_layers - 1))

    def permutation_of_subset(self, machines: Sequence[Machine]) -> list[Machine] | None:
        """For every set of machines, the furthest layer that it reaches, and with which machine last."""
        furthest = [0] * (1 << len(machines))
        last_of = [-1] * len(furthest)
        for chosen in range(1, len(furthest)):
            for index, machine in enumerate(machines):
                if chosen >> index & 1:
                    end = self.end(furthest[chosen ^ 1 << index], machine.memory_bytes)
                    if end > furthest[chosen] or last_of[chosen] < 0:
                        furthest[chosen], last_of[chosen] = end, index
        chosen = len(furthest) - 1
        if furthest[chosen] < len(self._model.layers):
            return None
        permutation = []
        while chosen:
            index = last_of[chosen]
            if furthest[chosen] > furthest[chosen ^ 1 << index]:
                permutation.append(machines[index])
            chosen ^= 1 << index
        return permutation[::-1]


def _what_is_missing(model: ModelSize, machines: Sequence[Machine]) -> str:
    total = sum(each.memory_bytes for each in machines)
    needs, has = describe_bytes(model.num_bytes), describe_bytes(total)
    names = ", ".join(each.name for each in machines[:8])
    if total < model.num_bytes:
        lacks = describe_bytes(model.num_bytes - total)
        return f"the model needs {needs}, and {names} have {has} for it: {lacks} are missing; add a machine"
    largest = describe_bytes(max(model.layers[0] + model.first, model.layers[-1] + model.last, max(model.layers)))
    return (
        f"the model needs {needs} in pieces of up to {largest}, and {names} have {has} for it, but in parts too small "
        "for its layers; add a machine, or free memory on one"
    )
