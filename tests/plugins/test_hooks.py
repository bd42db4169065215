"""Hooks: each is documented with its exact signature, and each hands its objects to the core."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import msgspec
import pytest

from histrio.contracts import hooks
from histrio.contracts.backend import Array, ArrayNamespace, Probe, StageSpec, Traits
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.first_contract import FirstBackendFactory, StageBackend
from histrio.contracts.gateway import Submission
from histrio.contracts.grammar import (
    GrammarBackend,
    GrammarCapability,
    GrammarKinds,
    TagStructure,
    Vocabulary,
    VocabularySpec,
)
from histrio.contracts.hooks import EdgeContext, EdgeService, hookimpl
from histrio.contracts.observed import FinishedRequest, IntervalStats
from histrio.contracts.options import NoOptions
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy, Load
from histrio.contracts.reasoning_format import ReasoningFormat, ReasoningParser, WrittenAnswer
from histrio.contracts.sampler import LogitsRows, Opening, Sampler
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, ToolFormat, WrittenCall
from histrio.front.watchers import Watchers
from histrio.messages import Generate, GrammarSpec, Reasoning, RequestState
from histrio.plugins.hook_calls import hook_names
from histrio.plugins.registry import Plugins
from histrio.testing.scripted_drafter import ScriptedDrafterFactory

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

    def __init__(self, max_slots: int) -> None:
        return

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        return False

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        return logits


class Rhymes:
    name = "rhymes"
    kinds: tuple[str, ...] = ("limerick",)
    capabilities: tuple[GrammarCapability, ...] = ()

    def check(self, spec: GrammarSpec) -> None:
        return

    def open(self, spec: VocabularySpec) -> Vocabulary:
        raise NotImplementedError


class Shouts:
    name = "shouts"
    marks = ("!",)
    layout = CallLayout(trigger="!")
    examples: tuple[FormatExample, ...] = ()

    def recognises(self, written: WrittenCall) -> bool:
        return False

    def parser(self, schemas: Schemas) -> CallParser:
        raise NotImplementedError

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        raise NotImplementedError

    def call_id(self, name: str, position: int) -> str:
        return name


class Whispers:
    name = "whispers"
    marks = None
    hidden_marks: tuple[str, ...] = ()

    def recognises(self, written: WrittenAnswer) -> bool:
        return False

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        raise NotImplementedError


class Slowest:
    name: ClassVar[str] = "slowest"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        return

    def handicap(self, command: Generate) -> int:
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
    def register_backends(self, register: Callable[[FirstBackendFactory], None]) -> None:
        register(Factory())

    @hookimpl
    def register_samplers(self, register: Callable[[type[Sampler]], None]) -> None:
        register(Loud)

    @hookimpl
    def register_grammars(self, register: Callable[[GrammarBackend], None]) -> None:
        register(Rhymes())

    @hookimpl
    def register_tool_formats(self, register: Callable[[ToolFormat], None]) -> None:
        register(Shouts())

    @hookimpl
    def register_reasoning_formats(self, register: Callable[[ReasoningFormat], None]) -> None:
        register(Whispers())

    @hookimpl
    def register_drafters(self, register: Callable[[DrafterFactory], None]) -> None:
        register(ScriptedDrafterFactory(lambda _ids, _count: [], "parrot"))

    @hookimpl
    def register_batching_policies(self, register: Callable[[type[BatchingPolicy]], None]) -> None:
        register(Slowest)

    @hookimpl
    def register_admission_policies(self, register: Callable[[type[AdmissionPolicy]], None]) -> None:
        register(Bouncer)

    @hookimpl
    def register_edges(self, register: Callable[[EdgeService], None]) -> None:
        register(Edge())

    @hookimpl
    def on_request_finished(self, record: FinishedRequest) -> None:
        SEEN.append(record)

    @hookimpl
    def on_interval(self, stats: IntervalStats) -> dict[str, float]:
        SEEN.append(stats)
        return {"verses": 4}

    @hookimpl
    def on_actor_failed(self, actor: str, restarts: int) -> None:
        SEEN.append((actor, restarts))


SEEN: list[object] = []
"""What the hooks that watch were told."""
RECORD = FinishedRequest(request=1, state=RequestState.CANCELLED, num_prompt_tokens=1, num_tokens=0, elapsed_s=0.1)
STATS = IntervalStats(state="ready", epoch=1, interval_s=10.0, num_unfinished=0, counters={}, gauges={})


@pytest.fixture
def plugins() -> Plugins:
    found = Plugins()
    found.add(AllHooks(), "everything")
    assert (found.failed, found.defects) == ([], [])
    return found


def told(plugins: Plugins, hook: str, **facts: object) -> Watchers:
    """Tell it, and wait for it."""
    SEEN.clear()
    watchers = Watchers(plugins.watching)
    assert watchers.wants(hook)
    watchers.tell(hook, **facts)
    watchers.close(grace_s=15)
    return watchers


def test_hook_on_request_finished(plugins: Plugins) -> None:
    told(plugins, "on_request_finished", record=RECORD)
    assert SEEN == [RECORD]


def test_hook_on_interval(plugins: Plugins) -> None:
    assert told(plugins, "on_interval", stats=STATS).metrics == {'plugin_verses{plugin="everything"}': 4}
    assert SEEN == [STATS]


def test_hook_on_actor_failed(plugins: Plugins) -> None:
    """An implementation may take fewer of the facts."""
    told(plugins, "on_actor_failed", actor="stage1", error="no memory", restarts=2)
    assert SEEN == [("stage1", 2)]


def test_hook_register_backends(plugins: Plugins) -> None:
    assert plugins.backends.owners == {"paper": "everything"}
    assert isinstance(plugins.backends.get("paper"), Factory)


def test_hook_register_samplers(plugins: Plugins) -> None:
    offered: list[type[Sampler]] = list(plugins.samplers)
    assert offered == [Loud]


def test_hook_register_grammars(plugins: Plugins) -> None:
    assert plugins.grammars.owners == {"rhymes": "everything"}
    assert GrammarKinds(plugins.grammars).backend(GrammarSpec("limerick", "")).name == "rhymes"


def test_hook_register_tool_formats(plugins: Plugins) -> None:
    assert plugins.tool_formats.owners == {"shouts": "everything"}
    assert plugins.tool_formats.get("shouts").layout.trigger == "!"


def test_hook_register_reasoning_formats(plugins: Plugins) -> None:
    assert plugins.reasoning_formats.owners == {"whispers": "everything"}
    assert plugins.reasoning_formats.get("whispers").marks is None


def test_hook_register_drafters(plugins: Plugins) -> None:
    assert plugins.drafters.owners == {"parrot": "everything"}
    assert isinstance(plugins.drafters.get("parrot"), ScriptedDrafterFactory)


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
        "register_tool_formats": [],
        "register_reasoning_formats": [],
        "register_drafters": [],
        "register_batching_policies": [],
        "register_admission_policies": [],
        "register_edges": ["small"],
        "on_request_finished": [],
        "on_interval": [],
        "on_actor_failed": [],
    }
