"""Hooks: each is documented with its exact signature, and each hands its objects to the core."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import msgspec
import pytest

from histrio import hooks
from histrio.backend import BackendFactory, Probe, StageBackend, StageSpec, Traits
from histrio.drafting import DrafterFactory
from histrio.gateway import Submission
from histrio.grammar import GrammarBackend, GrammarKinds, GrammarSpec, Vocabulary, VocabularySpec
from histrio.hooks import EdgeContext, EdgeService, hookimpl
from histrio.messages import Generate
from histrio.plugins import Plugins, hook_names
from histrio.policies import AdmissionPolicy, BatchingPolicy, Load, NoOptions
from histrio.sampling import Sampler
from histrio.testing.guesses import GuessFactory

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"


class Factory:
    name = "paper"
    traits = Traits(contract=1)

    def probe(self) -> Probe:
        return Probe(available=True)

    def supports(self, spec: StageSpec) -> Probe:
        return Probe(available=True)

    def create(self) -> StageBackend:
        raise NotImplementedError


class Params(msgspec.Struct, frozen=True):
    loudness: float = 0.0


class Loud:
    name: ClassVar[str] = "loud"
    order: ClassVar[int] = 50
    params: ClassVar[type[msgspec.Struct]] = Params


class Rhymes:
    name = "rhymes"
    kinds = ("limerick",)
    capabilities = ()

    def check(self, spec: GrammarSpec) -> None:
        return

    def open(self, spec: VocabularySpec) -> Vocabulary:
        raise NotImplementedError


class Slowest:
    name: ClassVar[str] = "slowest"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        return

    def handicap(self, order: Generate) -> int:
        return 0


class Bouncer:
    name: ClassVar[str] = "bouncer"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        return

    def admit(self, submission: Submission, load: Load) -> None:
        return


class Settings(msgspec.Struct, rename="kebab"):
    port: int = 1


class Edge:
    name = "telegraph"
    settings = Settings

    async def run(self, context: EdgeContext) -> None:
        context.ready("wire")


class AllHooks:
    @hookimpl
    def register_backends(self, register: Callable[[BackendFactory], None]) -> None:
        register(Factory())

    @hookimpl
    def register_samplers(self, register: Callable[[Any], None]) -> None:
        register(Loud)

    @hookimpl
    def register_grammars(self, register: Callable[[GrammarBackend], None]) -> None:
        register(Rhymes())

    @hookimpl
    def register_drafters(self, register: Callable[[DrafterFactory], None]) -> None:
        register(GuessFactory(lambda _ids, _count: [], "parrot"))

    @hookimpl
    def register_batching_policies(self, register: Callable[[type[BatchingPolicy]], None]) -> None:
        register(Slowest)

    @hookimpl
    def register_admission_policies(self, register: Callable[[type[AdmissionPolicy]], None]) -> None:
        register(Bouncer)

    @hookimpl
    def register_edges(self, register: Callable[[EdgeService], None]) -> None:
        register(Edge())


@pytest.fixture
def plugins() -> Plugins:
    found = Plugins()
    found.add(AllHooks(), "everything")
    assert found.failed == []
    return found


def test_hook_register_backends(plugins: Plugins) -> None:
    assert plugins.backends.owners == {"paper": "everything"}
    assert isinstance(plugins.backends.get("paper"), Factory)


def test_hook_register_samplers(plugins: Plugins) -> None:
    offered: list[type[Sampler]] = list(plugins.samplers)
    assert offered == [Loud]


def test_hook_register_grammars(plugins: Plugins) -> None:
    assert plugins.grammars.owners == {"rhymes": "everything"}
    assert GrammarKinds(plugins.grammars).backend(GrammarSpec("limerick", "")).name == "rhymes"


def test_hook_register_drafters(plugins: Plugins) -> None:
    assert plugins.drafters.owners == {"parrot": "everything"}
    assert isinstance(plugins.drafters.get("parrot"), GuessFactory)


def test_hook_register_batching_policies(plugins: Plugins) -> None:
    assert plugins.batching_policies.owners == {"slowest": "everything"}
    assert plugins.batching_policies.get("slowest") is Slowest


def test_hook_register_admission_policies(plugins: Plugins) -> None:
    assert plugins.admission_policies.owners == {"bouncer": "everything"}
    assert plugins.admission_policies.get("bouncer") is Bouncer


def test_hook_register_edges(plugins: Plugins) -> None:
    service = plugins.edges.get("telegraph")
    told: list[str] = []
    running: Awaitable[None] = service.run(EdgeContext(gateway=None, settings={}, ready=told.append))  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        running.__await__().__next__()
    assert told == ["wire"]


def documented_hooks() -> dict[str, str]:
    """Hook → signature, from the page's headings."""
    return dict(re.findall(r"^## `(\w+)(\(.*)`$", PAGE.read_text(), re.MULTILINE))


def test_each_hook_stands_in_the_docs_with_its_exact_signature() -> None:
    signatures = {name: str(inspect.signature(getattr(hooks, name))).replace("'", "") for name in hook_names()}
    assert documented_hooks() == signatures
    assert len(signatures) >= 3


def test_the_example_of_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    package, factory = ModuleType("my_package"), ModuleType("my_package.factory")
    factory.MyFactory = Factory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package", package)
    monkeypatch.setitem(sys.modules, "my_package.factory", factory)
    plugin = ModuleType("my_package.plugin")
    exec(PAGE.read_text().split("```python\n")[1].split("```")[0], vars(plugin))
    found = Plugins()
    found.add(plugin, "mine")
    assert (found.failed, found.backends.owners) == ([], {"paper": "mine"})


def test_each_hook_has_a_test_of_its_own() -> None:
    assert [name for name in hook_names() if f"test_hook_{name}" not in globals()] == []


def test_a_plugin_need_not_implement_every_hook() -> None:
    class Small:
        @hookimpl
        def register_edges(self, register: Callable[[EdgeService], None]) -> None:
            register(Edge())

    found = Plugins()
    found.add(Small(), "small")
    assert found.providers == {
        "register_backends": [],
        "register_samplers": [],
        "register_grammars": [],
        "register_drafters": [],
        "register_batching_policies": [],
        "register_admission_policies": [],
        "register_edges": ["small"],
    }
