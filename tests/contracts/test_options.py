"""Options arrive as the struct that a plugin declares, wherever it gets them, and mistakes have a path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from histrio.config.topology import parse_tables
from histrio.contracts.backend import OpenedStage, Probe, Progress, StageSpec
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.contracts.options import NoOptions, as_options, with_options
from histrio.errors import TopologyError
from histrio.plan.resolve import resolve
from histrio.plugins.registry import Plugins, load_plugins
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafter, ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, ToyStage, write_toy_model


class SomeOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """Of both plugins of this file."""

    num_beads: Annotated[int, msgspec.Meta(ge=1)] = 3


class Stage(ToyStage):
    """A toy that notes its options."""

    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        TOLD.append(spec.options)
        super().__init__(msgspec.structs.replace(spec, options={}), progress)


class Factory(ToyFactory):
    """As `abacus`."""

    name = "abacus"
    options: type[Any] = SomeOptions

    def supports(self, spec: StageSpec) -> Probe:
        TOLD.append(spec.options)
        return super().supports(spec)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return Stage(spec, progress)


class Parrot(ScriptedDrafterFactory):
    """As `parrot`."""

    name = "parrot"
    options: type[Any] = SomeOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        TOLD.append(spec.options)
        return super().supports(spec, tools)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> ScriptedDrafter:
        TOLD.append(spec.options)
        return super().create(spec, tools)


TOLD: list[object] = []


@pytest.fixture
def plugins() -> Plugins:
    TOLD.clear()
    found = load_plugins()
    assert found.backends.add("abacus", Factory(), "a test") == ""
    assert found.drafters.add("parrot", Parrot(lambda _ids, _count: [], "parrot"), "a test") == ""
    return found


def tables(folder: Path, stage: dict[str, Any], drafter: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": {"path": str(folder)},
        "engine": {"drafter": "parrot", "drafter-options": drafter},
        "stage": [{"backend": "toy"}, {"backend": "abacus", "options": stage}],
    }


def test_backends_and_drafters_are_asked_with_their_structs(tmp_path: Path, plugins: Plugins) -> None:
    folder = write_toy_model(tmp_path / "toy")
    plan = resolve(parse_tables(tables(folder, {"num-beads": 5}, {"num-beads": 7})), plugins)
    assert TOLD == [SomeOptions(5), SomeOptions(7)]
    assert plan.stages[1].spec.options == {"num-beads": 5}, "plain data travels"
    assert msgspec.json.decode(msgspec.json.encode(plan.drafter_spec))["options"] == {"num-beads": 7}


@pytest.mark.parametrize(
    ("stage", "drafter", "said"),
    [
        ({"num-bead": 5}, {}, r"stage\[1\].options.num-bead: unknown key; did you mean 'num-beads'\?"),
        ({"num-beads": 0}, {}, r"stage\[1\].options.num-beads: must be an integer >= 1, not 0"),
        ({"num-beads": "x"}, {}, r"stage\[1\].options.num-beads: must be an integer, not a string"),
        ({}, {"beads": 1}, r"engine.drafter-options.beads: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_path(
    stage: dict[str, Any], drafter: dict[str, Any], said: str, tmp_path: Path, plugins: Plugins
) -> None:
    with pytest.raises(TopologyError, match=said):
        resolve(parse_tables(tables(write_toy_model(tmp_path / "toy"), stage, drafter)), plugins)


def test_the_backends_and_drafters_that_open_get_them_too(tmp_path: Path) -> None:
    TOLD.clear()
    folder = write_toy_model(tmp_path / "toy")

    async def serve() -> None:
        options = HarnessOptions(
            drafter=Parrot(lambda _ids, _count: [], "parrot"),
            drafter_options={"num-beads": 2},
            stage_options={"num-beads": 9},
        )
        async with serving(folder, Factory(), cuts=[2], samplers=[], options=options) as harness:
            assert len(await harness.generate([1, 2, 3], 2)) == 2

    anyio.run(serve)
    assert sorted(map(str, TOLD)) == sorted(map(str, [SomeOptions(9), SomeOptions(9), SomeOptions(2)]))


def test_what_is_converted_stays_and_what_is_not_declared_is_left_alone() -> None:
    spec = StageSpec("folder", 0, 1, 1, options={"num-beads": 4})
    once = with_options(spec, Factory(), "options")
    assert once.options == SomeOptions(4)
    assert with_options(once, Factory(), "options").options is once.options
    assert with_options(spec, object(), "options") is spec
    assert as_options({}, NoOptions, "options") == NoOptions()
    with pytest.raises(TopologyError, match=r"options.num-beads: unknown key. Known keys: none"):
        as_options(spec.options, NoOptions, "options")


def test_every_factory_of_this_repository_declares_its_options() -> None:
    plugins = load_plugins()
    owned = [*plugins.backends, *plugins.drafters, *plugins.batching_policies, *plugins.admission_policies]
    kinds = [getattr(each, "options", None) for each in owned] + [each.settings for each in plugins.edges]
    assert all(isinstance(kind, type) and issubclass(kind, msgspec.Struct) for kind in kinds)
