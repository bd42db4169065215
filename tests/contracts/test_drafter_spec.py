"""What a drafter is told of the stage beside it, and of what it may ask for."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from histrio.config.settings import SizeSettings, SpeculationSettings
from histrio.config.topology import parse_tables
from histrio.contracts.backend import Probe, StageSpec
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.plan.resolve import resolve
from histrio.plugins.registry import load_plugins
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafter, ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, write_toy_model

STAGE = StageSpec(
    "folder",
    0,
    2,
    6,
    device="cuda:1",
    dtype="bfloat16",
    max_sequence_length=77,
    sizes=SizeSettings(max_batch_size=5),
    threads=3,
)


class Watching(ScriptedDrafterFactory):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(lambda _ids, _num_tokens: [])
        self.told: list[tuple[DrafterSpec, DrafterTools]] = []

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        self.told.append((spec, tools))
        return super().supports(spec, tools)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> ScriptedDrafter:
        self.told.append((spec, tools))
        return super().create(spec, tools)


def test_a_drafter_works_where_the_first_stage_does_and_for_the_whole_model() -> None:
    spec = DrafterSpec.of_stage(STAGE, SpeculationSettings(), vocab_size=9, options={"a": 1}, offline=True)
    assert (spec.model, spec.num_layers, spec.vocab_size) == ("folder", 6, 9)
    assert (spec.device, spec.dtype, spec.threads) == ("cuda:1", "bfloat16", 3)
    assert (spec.max_batch_size, spec.max_sequence_length) == (5, 77)
    assert (spec.options, spec.offline) == ({"a": 1}, True)


@pytest.mark.parametrize(("adaptive", "expected"), [(True, 8), (False, 12)])
def test_the_longest_draft_is_that_of_the_way_in_use(adaptive: bool, expected: int) -> None:
    limits = SpeculationSettings(speculation_length=12, max_speculation=8, adaptive=adaptive)
    assert DrafterSpec.of_stage(STAGE, limits, vocab_size=9, options={}).max_draft == expected


def test_a_plan_and_a_harness_tell_a_drafter_alike(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy")
    factory, plugins = Watching(), load_plugins()
    plugins.drafters.add(factory.name, factory, "a test")
    tables = {
        "model": {"path": str(folder), "max-sequence-length": 512, "dtype": "float32"},
        "engine": {"drafter": "scripted", "max-batch-size": 16, "adaptive": False, "speculation-length": 12},
        "stage": [{"backend": "toy", "device": "cpu"}],
    }

    async def serve() -> None:
        speculation = SpeculationSettings(speculation_length=12, adaptive=False)
        options = HarnessOptions(drafter=factory, speculation=speculation)
        async with serving(folder, ToyFactory(), samplers=[], options=options) as harness:
            await harness.generate([1, 2, 3], 2)

    resolve(parse_tables(tables), plugins)
    anyio.run(serve)
    (planned, tools), (harnessed, _) = factory.told
    assert planned == harnessed
    assert planned.max_draft == 12
    assert tools.stage_backend("toy").name == "toy"
