"""Backends of version 1 of the contract run under the version of today."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from histrio.contracts.backend import CONTRACT, Probe, ReplicaSize, StageCapacity, StageSpec, TakesOptions, Traits
from histrio.contracts.first_contract import current
from histrio.contracts.options import NoOptions
from histrio.errors import BackendError
from histrio.testing.toy import ToyFactory

SPEC = StageSpec("model", 0, 1, 1)
SIZE = ReplicaSize(4, 16, 2, 64, 64)
ARRAYS: Any = "arrays"


class Old:
    """Notes its calls."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.xp: Any = "before open"

    def open(self, spec: StageSpec, progress: Any) -> StageCapacity:
        self._calls.append("open")
        if spec.model == "broken":
            raise BackendError("it is broken")
        self.xp = ARRAYS
        return StageCapacity({16: 4}, 2, 64, "float32", 0, 0)

    def allocate(self, size: ReplicaSize) -> None:
        self._calls.append(f"allocate {size.num_blocks}")

    def step(self, batch: Any) -> Any:
        raise AssertionError("not asked for")

    def copy(self, src: list[int], dst: list[int]) -> None:
        self._calls.append("copy")

    def close_slot(self, slot: int) -> None:
        self._calls.append("close slot")

    def close(self) -> None:
        self._calls.append("close")


class OldFactory:
    name = "old"
    traits = Traits(contract=1)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def probe(self) -> Probe:
        return Probe(True, devices=["beads"])

    def supports(self, spec: StageSpec) -> Probe:
        return Probe(False, spec.model)

    def create(self) -> Old:
        return Old(self.calls)


class OldFactoryWithOptions(OldFactory):
    options = NoOptions


def test_it_is_opened_allocated_and_closed_as_it_expects() -> None:
    old = OldFactory()
    factory = current(old)
    assert (factory.name, factory.traits.contract) == ("old", CONTRACT)
    assert (factory.probe().devices, factory.supports(SPEC).reason) == (["beads"], "model")

    stage = factory.open(SPEC, lambda fraction, text: None)
    assert (stage.capacity.max_blocks, stage.xp) == ({16: 4}, ARRAYS)
    running = stage.allocate(SIZE)
    assert isinstance(running, Old), "a step costs nothing more"
    running.copy([1], [2])
    running.close_slot(1)
    stage.close()
    assert old.calls == ["open", "allocate 4", "copy", "close slot", "close"]


def test_one_that_does_not_open_is_closed() -> None:
    old = OldFactory()
    with pytest.raises(BackendError, match="it is broken"):
        current(old).open(msgspec.structs.replace(SPEC, model="broken"), lambda fraction, text: None)
    assert old.calls == ["open", "close"]


def test_it_takes_options_only_if_it_did() -> None:
    assert isinstance(current(OldFactoryWithOptions()), TakesOptions)
    assert not isinstance(current(OldFactory()), TakesOptions)


def test_a_factory_of_today_is_left_as_it_is() -> None:
    factory = ToyFactory()
    assert current(factory) is factory
    adapted = current(OldFactory())
    assert current(adapted) is adapted
