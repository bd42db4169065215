"""Layouts of layers over machines, compared with every layout that there is."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from histrio.errors import DoesNotFit
from histrio.hosts.layout import Aim, Layout, Link, Links, Machine, ModelSize, lay_out
from tests.hosts.reference_layout import best_cost, fits

MIB = 2**20
AIMS: list[Aim] = ["throughput", "latency"]


def random_model(chance: random.Random) -> ModelSize:
    num_layers = chance.randrange(4, 12)
    size = chance.randrange(100, 400) * MIB
    layers = [size] * num_layers
    if chance.random() < 0.4:
        layers = [size * chance.randrange(80, 121) // 100 for _ in layers]
    return ModelSize(layers=layers, first=chance.randrange(3) * size, last=chance.randrange(4) * size)


def random_machines(chance: random.Random, number: int, num_bytes: float) -> list[Machine]:
    shares = [chance.uniform(0.3, 3) for _ in range(number)]
    return [
        Machine(
            name=f"m{index}",
            memory_bytes=int(num_bytes * share / sum(shares)),
            bytes_per_s=chance.choice([20e9, 40e9, 60e9, 100e9, 400e9]),
        )
        for index, share in enumerate(shares)
    ]


def random_links(seed: int) -> Links:
    def links(one: str, other: str) -> Link:
        chance = random.Random(f"{seed} {sorted((one, other))}")
        return Link(
            round_trip_s=chance.choice([0.0002, 0.001, 0.005, 0.02]), bytes_per_s=chance.choice([12e6, 125e6, 1.25e9])
        )

    return links


def check(layout: Layout, model: ModelSize, machines: list[Machine]) -> None:
    """Each replica has every layer once, in order; each machine is in one place, with what fits."""
    names = [machine.name for machine in layout.spare]
    for chain in layout.replicas:
        assert (chain[0].first, chain[-1].end) == (0, len(model.layers))
        assert all(one.end == other.first for one, other in pairwise(chain))
        for share in chain:
            size = sum(model.layers[share.first : share.end])
            size += model.first if share.first == 0 else 0
            size += model.last if share.end == len(model.layers) else 0
            assert share.num_bytes == size <= share.machine.memory_bytes
            names.append(share.machine.name)
    assert sorted(names) == sorted(machine.name for machine in machines)


def compare(seed: int, num_machines: int) -> list[float]:
    """How good the layouts of one random cluster are, beside the best there are; nothing where none fits."""
    chance = random.Random(seed)
    model = random_model(chance)
    machines = random_machines(chance, num_machines, model.num_bytes * chance.uniform(0.8, 2.5))
    links = random_links(seed)
    found = []
    for aim in AIMS:
        try:
            layout = lay_out(model, machines, links, aim=aim)
        except DoesNotFit:
            assert not fits(model, machines), f"cluster {seed} can hold the model"
            continue
        assert fits(model, machines)
        check(layout, model, machines)
        best = best_cost(model, machines, links, aim)
        found.append(layout.steps_per_s / best if aim == "throughput" else best / layout.token_s)
    return found


def judge(quality: list[float], expected: int) -> None:
    assert len(quality) >= expected, "clusters that can hold their model are among them"
    assert max(quality) < 1 + 1e-9, "nothing is better than the best"
    assert sum(each >= 0.95 for each in quality) >= 0.99 * len(quality), sorted(quality)[:10]


def test_small_clusters_get_nearly_the_best_layout() -> None:
    judge([each for seed in range(120) for each in compare(seed, 2 + seed % 3)], 150)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_ten_thousand_clusters_get_nearly_the_best_layout() -> None:
    judge([each for seed in range(10_000) for each in compare(seed, 2 + seed % 4)], 10_000)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_clusters_of_up_to_eight_get_nearly_the_best_layout() -> None:
    judge([each for seed in range(300) for each in compare(seed, 6 + seed % 3)], 300)


def test_a_model_that_hardly_fits_is_always_placed() -> None:
    """The heuristics of others give up here: room for each layer, and for none more."""
    chance = random.Random(3)
    for _ in range(30):
        counts = [chance.randrange(1, 6) for _ in range(chance.randrange(2, 9))]
        model = ModelSize(layers=[100 * MIB] * sum(counts), first=30 * MIB, last=60 * MIB)
        machines = [
            Machine(name=f"m{index}", memory_bytes=count * 100 * MIB, bytes_per_s=chance.choice([1e9, 9e9]))
            for index, count in enumerate(counts)
        ]
        first, last = chance.sample(range(len(counts)), 2)
        for index, more in ((first, model.first), (last, model.last)):
            machines[index] = Machine(
                name=f"m{index}", memory_bytes=counts[index] * 100 * MIB + more, bytes_per_s=machines[index].bytes_per_s
            )
        check(lay_out(model, machines), model, machines)
        machines[0] = Machine(name="m0", memory_bytes=machines[0].memory_bytes - 1, bytes_per_s=1e9)
        with pytest.raises(DoesNotFit):
            lay_out(model, machines)


def test_many_machines_hardly_fit_too() -> None:
    model = ModelSize(layers=[100 * MIB] * 60, first=90 * MIB, last=95 * MIB)
    machines = [Machine(name=f"m{index}", memory_bytes=199 * MIB, bytes_per_s=1e9) for index in range(60)]
    check(lay_out(model, machines), model, machines)
    with pytest.raises(DoesNotFit, match="too small for its layers"):
        lay_out(model, machines[:-1])


def test_what_is_missing_is_said_in_bytes() -> None:
    model = ModelSize(layers=[1024 * MIB] * 10)
    machines = [Machine(name=name, memory_bytes=3072 * MIB, bytes_per_s=1e9) for name in ("den", "studio")]
    with pytest.raises(
        DoesNotFit, match=r"needs 10\.0 GiB, and den, studio have 6\.0 GiB for it: 4\.0 GiB are missing"
    ):
        lay_out(model, machines)
    with pytest.raises(DoesNotFit, match="no machine"):
        lay_out(model, [])


def test_a_fast_machine_gets_more_layers() -> None:
    model = ModelSize(layers=[100 * MIB] * 30)
    machines = [
        Machine(name="slow", memory_bytes=10**12, bytes_per_s=10e9),
        Machine(name="fast", memory_bytes=10**12, bytes_per_s=20e9),
    ]
    (chain,) = lay_out(model, machines, most_replicas=1).replicas
    assert {share.machine.name: share.end - share.first for share in chain} == {"slow": 10, "fast": 20}
    (alone,) = lay_out(model, machines, aim="latency").replicas
    assert [share.machine.name for share in alone] == ["fast"], "one token is fastest on the fast one alone"


def test_machines_with_room_for_two_give_two_replicas() -> None:
    model = ModelSize(layers=[100 * MIB] * 8)
    machines = [Machine(name=f"m{index}", memory_bytes=400 * MIB, bytes_per_s=10e9) for index in range(4)]
    layout = lay_out(model, machines, lambda _one, _other: Link(round_trip_s=0.001))
    assert [len(chain) for chain in layout.replicas] == [2, 2]
    assert len(lay_out(model, machines, most_replicas=1).replicas) == 1


def test_a_slow_link_is_passed_by() -> None:
    """Two machines can hold the model, and those are the near ones."""

    def links(one: str, other: str) -> Link:
        return Link(round_trip_s=0.5 if "cellar" in (one, other) else 0.0005)

    model = ModelSize(layers=[100 * MIB] * 8)
    machines = [Machine(name=name, memory_bytes=500 * MIB, bytes_per_s=10e9) for name in ("cellar", "den", "attic")]
    (chain,) = lay_out(model, machines, links, aim="latency").replicas
    assert {share.machine.name for share in chain} == {"den", "attic"}


def test_large_clusters_are_laid_out() -> None:
    chance = random.Random(1)
    for number, num_layers in ((24, 36), (64, 80)):
        model = ModelSize(layers=[400 * MIB] * num_layers, first=1024 * MIB, last=1024 * MIB)
        machines = random_machines(chance, number, 2.2 * model.num_bytes)
        for aim in AIMS:
            layout = lay_out(model, machines, random_links(2), aim=aim)
            check(layout, model, machines)
            assert layout.steps_per_s < math.inf
