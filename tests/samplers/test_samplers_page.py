"""docs/samplers.md has the table that the samplers themselves give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from histrio.contracts.request_fields import FieldTable
from histrio.plugins.registry import installed_plugins

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("list_samplers", DOCS / "list_samplers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_samplers(module: ModuleType) -> None:
    page = (DOCS / "samplers.md").read_text(encoding="utf-8")

    assert module.rewritten(page) == page, "run: python docs/list_samplers.py"
    assert module.rewritten(page.replace("**`top_k`**", "top_k")) == page
    assert page.replace("**`top_k`**", "top_k") != page


def test_every_installed_sampler_and_field_stands_there(module: ModuleType) -> None:
    samplers = list(installed_plugins().samplers)

    for kind in samplers:
        assert f"| {kind.order} | **`{kind.name}`**: " in module.table()
    for field in FieldTable(samplers).known_fields:
        assert f"`{field}` = `" in module.table()
    assert "`eta_cutoff` = `" not in module.table()


def test_samplers_stand_in_the_order_in_which_they_run(module: ModuleType) -> None:
    names = [line.split("**`")[1].split("`**")[0] for line in module.table().splitlines()[2:]]

    assert names == sorted(names, key=lambda name: next(k.order for k in module.SAMPLERS if k.name == name))
    assert names.index("temperature") < names.index("top_k") < names.index("top_p") < names.index("min_p")
