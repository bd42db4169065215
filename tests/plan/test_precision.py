"""One word for number formats: what it stands for, what it does not go with, and which backends have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from histrio.contracts.backend import Capability, Traits
from histrio.contracts.options import NoOptions
from histrio.errors import TopologyError
from histrio.plan.plans import Plan
from histrio.plugins.registry import Plugins
from tests.plan.test_plan import plan_for

WriteModel = Callable[..., Path]


class Rounding(msgspec.Struct, frozen=True):
    quantization: Literal["none", "q8"] = "none"


@pytest.fixture
def rounding(factory: Any) -> None:
    """The backend can round weights, keys and values."""
    factory.traits = Traits(contract=1, capabilities=[Capability.INT8_KV])
    factory.options = Rounding


def formats(plan: Plan) -> list[tuple[str, str, Any]]:
    """dtype, number format of keys and values, and options of each stage."""
    return [
        (stage.spec.dtype, stage.spec.memory.kv_cache_dtype, msgspec.to_builtins(stage.spec.options))
        for stage in plan.stages
    ]


@pytest.mark.parametrize(
    ("precision", "stored", "expected"),
    [
        ("full", "bfloat16", ("float32", "auto", {})),
        ("balanced", "bfloat16", ("bfloat16", "auto", {})),
        ("balanced", "float16", ("float16", "auto", {})),
        ("balanced", "float32", ("bfloat16", "auto", {})),
        ("memory", "bfloat16", ("bfloat16", "int8", {"quantization": "q8"})),
    ],
)
@pytest.mark.usefixtures("rounding")
def test_each_precision_is_number_formats(
    precision: str, stored: str, expected: tuple[str, str, Any], write_model: WriteModel, plugins: Plugins
) -> None:
    folder = write_model(torch_dtype=stored)
    assert formats(plan_for(folder, plugins, model={"precision": precision}, stage=[{}, {}])) == [expected] * 2
    assert formats(plan_for(folder, plugins)) == [("auto", "auto", {})], "a control"


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"model": {"precision": "full", "dtype": "float32"}}, "says the number format that dtype says, too"),
        (
            {"model": {"precision": "memory"}, "stage": [{"options": {"quantization": "none"}}]},
            r"rounds weights to q8, and stage\[0\].options says otherwise",
        ),
        ({"model": {"precision": "memory"}}, r"the backend 'torch' of stage\[0\] does not round weights"),
        ({"model": {"precision": "best"}}, "must be one of balanced, full, memory, not 'best'"),
    ],
)
def test_what_it_cannot_stand_for_is_refused(
    tables: dict[str, Any], text: str, write_model: WriteModel, plugins: Plugins, factory: Any
) -> None:
    factory.traits, factory.options = Traits(contract=1, capabilities=[Capability.INT8_KV]), NoOptions
    with pytest.raises(TopologyError, match=text) as refused:
        plan_for(write_model(), plugins, **tables)
    assert refused.value.path == "model.precision"
