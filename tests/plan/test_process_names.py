"""Where a stage may run is what the file asks for, within what its backend can bear."""

from __future__ import annotations

from typing import Any

import pytest

from histrio.config.topology import parse_tables
from histrio.contracts.backend import Capability, Traits
from histrio.errors import TopologyError
from histrio.plan.process_names import assign_processes

PLAIN = Traits(contract=1)
ALONE = Traits(contract=1, capabilities=[Capability.OWN_PROCESS])
SINGLE = Traits(contract=1, capabilities=[Capability.ONE_STAGE_PER_PROCESS])
WHOLE = Traits(contract=1, level="engine")


def assigned(*stages: tuple[dict[str, Any], Traits], processes: str = "split") -> list[str]:
    tables = {"model": {"path": "x"}, "stage": [table for table, _ in stages], "runtime": {"processes": processes}}
    topology = parse_tables(tables)
    return assign_processes(topology.stages, [traits for _, traits in stages], topology.runtime)


def test_stage_0_shares_the_engines_process_unless_its_backend_cannot() -> None:
    assert assigned(({}, PLAIN), ({}, PLAIN)) == ["engine", "stage1"]
    assert assigned(({}, ALONE), ({}, PLAIN)) == ["stage0", "stage1"]
    assert assigned(({"process": "own"}, PLAIN), ({"process": "engine"}, PLAIN)) == ["stage0", "engine"]


def test_an_engine_has_the_engines_process() -> None:
    assert assigned(({}, WHOLE)) == ["engine"]
    assert assigned(({"process": "own"}, WHOLE)) == ["engine"]


def test_stages_of_one_backend_are_apart_by_default() -> None:
    assert assigned(({}, SINGLE), ({}, SINGLE), ({}, SINGLE)) == ["engine", "stage1", "stage2"]
    assert assigned(({}, SINGLE), processes="one") == ["front"]
    assert assigned(({"backend": "x"}, SINGLE), ({"backend": "y"}, SINGLE), processes="one") == ["front", "front"]


@pytest.mark.parametrize(
    ("stages", "processes", "path", "text"),
    [
        ([({"backend": "x"}, ALONE)], "one", "stage[0].backend", "'x' needs a process of its own, but [runtime] says"),
        ([({"backend": "x"}, WHOLE)], "one", "stage[0].backend", "'x' needs a process of its own, but [runtime] says"),
        ([({"process": "engine"}, ALONE)], "split", "stage[0].process", 'remove process = "engine"'),
        ([({"process": "engine"}, WHOLE)], "split", "stage[0].process", 'remove process = "engine"'),
        ([({}, PLAIN), ({}, WHOLE)], "split", "stage[1].backend", "must be the only stage, not one of 2"),
        ([({}, SINGLE), ({"process": "engine"}, SINGLE)], "split", "stage[1].process", "stage[0] is in the same one"),
        ([({}, SINGLE), ({}, SINGLE)], "one", "stage[1].backend", "stage[0] is in the same one"),
    ],
)
def test_what_a_backend_cannot_bear_is_refused_with_its_place(
    stages: list[tuple[dict[str, Any], Traits]], processes: str, path: str, text: str
) -> None:
    with pytest.raises(TopologyError) as caught:
        assigned(*stages, processes=processes)
    assert caught.value.path == path
    assert text in str(caught.value)
