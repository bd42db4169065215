"""The backend of docs/writing-a-backend.md serves requests, and the page shows its code as it is."""

from __future__ import annotations

import importlib.util
import json
import re
import textwrap
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from histrio.contracts.backend import StageSpec
from histrio.plugins.registry import Plugins
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import write_toy_model
from histrio_samplers.temperature import Temperature

DOCS = Path(__file__).parents[2] / "docs"
NUM_LAYERS = 5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("counting_backend", DOCS / "examples" / "counting_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_toy_model(tmp_path / "counting", num_layers=NUM_LAYERS)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "counting"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _reference(ids: list[int], num_tokens: int) -> list[int]:
    """The continuation, counted naively."""
    ids = list(ids)
    for _ in range(num_tokens):
        states = list(ids)
        for _layer in range(NUM_LAYERS):
            states = [state + states[:index].count(state) for index, state in enumerate(states)]
        ids.append(states[-1] % 10)
    return ids[-num_tokens:]


@pytest.mark.anyio
@pytest.mark.parametrize("cuts", [[], [2], [1, 3]])
async def test_every_cut_counts_the_same(module: ModuleType, model: Path, cuts: list[int]) -> None:
    prompts = [[7, 3, 7, 7], [1], [250, 9] * 30, [5, 5, 5]]
    tokens: dict[int, list[int]] = {}
    options = HarnessOptions(chunked_prefill_size=16)
    async with serving(model, module.CountingFactory(), cuts=cuts, samplers=[Temperature], options=options) as harness:

        async def generate(index: int) -> None:
            tokens[index] = await harness.generate(prompts[index], 20)

        async with anyio.create_task_group() as tasks:
            for index in range(len(prompts)):
                tasks.start_soon(generate, index)

    assert [tokens[index] for index in range(len(prompts))] == [_reference(prompt, 20) for prompt in prompts]
    assert tokens[0] != _reference([7, 3, 3, 7], 20), "a control: another prompt counts otherwise"
    assert len(set(tokens[0])) >= 5


def test_it_registers_through_the_hook_and_knows_its_model(module: ModuleType, model: Path, tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.add(module, "the example")
    factory = plugins.backends.get("counting")
    other = write_toy_model(tmp_path / "other")

    assert plugins.failed == []
    assert factory.probe().available
    assert factory.supports(StageSpec(str(model), 0, NUM_LAYERS, NUM_LAYERS)).available
    refusal = factory.supports(StageSpec(str(other), 0, NUM_LAYERS, NUM_LAYERS))
    assert (refusal.available, refusal.reason) == (False, "this is not a counting model")


def test_code_of_the_page_is_code_of_the_file() -> None:
    page = (DOCS / "writing-a-backend.md").read_text()
    source = (DOCS / "examples" / "counting_backend.py").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "serving(" not in block]

    assert len(blocks) == 5
    assert all(block in source for block in blocks)
    assert textwrap.indent(blocks[0], " ") not in source
