"""Finding plugins, and the registries of what they offer.

Plugins are entry points of the group `histrio`, and files that a person names. Each is loaded by itself, and what it
offers is examined when it registers it: a defective piece is remembered with a sentence and cannot be used, and
everything else works on. A name belongs to one plugin only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

import msgspec

from histrio.config.tables import did_you_mean
from histrio.contracts import hooks
from histrio.contracts.backend import BackendFactory
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.first_contract import FirstBackendFactory, current
from histrio.contracts.grammar import GrammarBackend
from histrio.contracts.hooks import EdgeService
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy
from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.sampler import Sampler
from histrio.contracts.tool_format import ToolFormat
from histrio.errors import PluginError
from histrio.plugins.checks import CONTRACTS, faults, words_for
from histrio.plugins.hook_calls import Implementation, find_implementations, hook_names, one_line
from histrio.plugins.sources import NAMED_PLUGINS, Source, entry_point_sources, import_plugin, named_sources

__all__ = ["Defect", "FailedPlugin", "LoadedPlugin", "Plugins", "Registry", "installed_plugins", "load_plugins"]

T = TypeVar("T")


class FailedPlugin(msgspec.Struct, frozen=True):
    """A plugin that is there and cannot be used at all."""

    name: str
    """Entry point, with its distribution where known; or the file."""
    reason: str
    is_named: bool = False
    """A person asked for it, so that nothing starts without it."""


class Defect(msgspec.Struct, frozen=True):
    """A piece of a plugin that cannot be used, or something that was meant as one."""

    plugin: str
    text: str
    """One sentence, with the remedy."""


class LoadedPlugin(msgspec.Struct):
    """A plugin that was imported."""

    name: str
    took_s: float = 0.0
    """Seconds of computing that its import took."""
    has_printed: bool = False
    """Whether it wrote to standard output when it was imported."""
    offers: list[str] = []
    """What it registered and what it watches, in words."""


class Registry(Generic[T]):
    """Things of one kind by name, and which plugin registered each."""

    def __init__(self, kind: str, failed: list[FailedPlugin]) -> None:
        self._kind = kind
        self._failed = failed
        self._items: dict[str, tuple[T, str]] = {}
        self._own: set[str] = set()
        """Names of what comes with histrio."""
        self._refused: dict[str, str] = {}
        """Name → why nothing can be used under it."""

    def __iter__(self) -> Iterator[T]:
        return (item for item, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    @property
    def owners(self) -> dict[str, str]:
        """Name → plugin that registered it, in order of registration."""
        return {name: owner for name, (_, owner) in self._items.items()}

    def add(self, name: str, item: T, owner: str, *, is_own: bool = False) -> str:
        """Take it in; or answer why not. A name that two plugins claim is neither's, unless one comes with histrio."""
        if name not in self._items:
            if name in self._refused:
                return self._refused[name]
            self._items[name] = (item, owner)
            if is_own:
                self._own.add(name)
            return ""

        other = self._items[name][1]
        if name in self._own:
            return f"the {self._kind} {name!r} comes with histrio ({other}): give this one another name"
        text = f"the {self._kind} {name!r} is registered by both {other} and {owner}; uninstall one"
        if other == owner:
            text = f"the {self._kind} {name!r} is registered twice by {owner}: give one another name"
        del self._items[name]
        self._refused[name] = text
        return text

    def refuse(self, name: str, why: str) -> None:
        """Remember why nothing can be used under this name."""
        if name not in self._items:
            self._refused.setdefault(name, why)

    def get(self, name: str) -> T:
        """Raises `PluginError` that says why it cannot be used; or which names there are, which plugin registered
        each, and which plugins failed."""
        if name in self._items:
            return self._items[name][0]
        if name in self._refused:
            raise PluginError(self._refused[name])

        known = ", ".join(f"{known} (by {owner})" for known, owner in self.owners.items()) or "none"
        failed = "".join(f"; the plugin {each.name} cannot load: {each.reason}" for each in self._failed)
        hint = did_you_mean(name, self._items)
        raise PluginError(f"there is no {self._kind} {name!r}{hint}; known: {known}{failed}")


class Plugins:
    """All plugins of this environment and what they offer."""

    def __init__(self) -> None:
        self.failed: list[FailedPlugin] = []
        self.defects: list[Defect] = []
        self.loaded: list[LoadedPlugin] = []
        self.backends: Registry[BackendFactory | EngineFactory] = Registry("backend", self.failed)
        self.samplers: Registry[type[Sampler]] = Registry("sampler", self.failed)
        self.grammars: Registry[GrammarBackend] = Registry("grammar backend", self.failed)
        self.tool_formats: Registry[ToolFormat] = Registry("tool format", self.failed)
        self.reasoning_formats: Registry[ReasoningFormat] = Registry("reasoning format", self.failed)
        self.drafters: Registry[DrafterFactory] = Registry("drafter", self.failed)
        self.batching_policies: Registry[type[BatchingPolicy]] = Registry("batching policy", self.failed)
        self.admission_policies: Registry[type[AdmissionPolicy]] = Registry("admission policy", self.failed)
        self.edges: Registry[EdgeService] = Registry("edge service", self.failed)
        self.watching: list[Implementation] = []
        """The hooks that watch, in all plugins: those that register nothing."""
        self.providers: dict[str, list[str]] = {name: [] for name in hook_names()}
        """Hook → plugins that implement it."""
        self._known: list[object] = []

    def add(self, plugin: object, owner: str, *, is_own: bool = False) -> None:
        """Take in one plugin (a module or an object with hook implementations) under the name `owner`.

        What is wrong with it is recorded in `failed` or `defects`; the rest of it can be used.
        """
        if any(plugin is each for each in self._known):
            self.failed.append(FailedPlugin(owner, "another entry point names the same plugin"))
            return

        self._known.append(plugin)
        implementations, texts = find_implementations(plugin, owner)
        if not implementations and not texts:
            texts = ["it offers nothing: none of its functions is marked with @hookimpl; docs/hooks.md has the hooks"]
        self._note(owner, *texts)
        for implementation in implementations:
            self.providers[implementation.hook].append(owner)
            if implementation.hook in self._registries:
                self._register(implementation, is_own)
            else:
                self.watching.append(implementation)
                self._about(owner).offers.append(implementation.hook)

    def load(self, source: Source) -> None:
        """Import one plugin and take it in."""
        imported = import_plugin(source)
        if imported.failure:
            self.failed.append(FailedPlugin(source.owner, imported.failure, source.is_named))
            return

        self.loaded.append(LoadedPlugin(source.owner, imported.took_s, imported.has_printed))
        self.add(imported.plugin, source.owner, is_own=source.is_own)

    def stage_backend(self, name: str) -> BackendFactory:
        """The stage backend of this name. Raises `PluginError`."""
        factory = self.backends.get(name)
        if factory.traits.level != "stage":
            raise PluginError(f"the backend {name!r} is a whole engine, which cannot run a range of layers")

        return current(cast(BackendFactory | FirstBackendFactory, factory))

    def engine_backend(self, name: str) -> EngineFactory:
        """The engine backend of this name. Raises `PluginError`."""
        factory = self.backends.get(name)
        if factory.traits.level != "engine":
            raise PluginError(f"the backend {name!r} runs ranges of layers and is no engine")

        return cast(EngineFactory, factory)

    def _register(self, implementation: Implementation, is_own: bool) -> None:
        """Ask one hook for its offers, and take in those that are sound."""
        hook, owner = implementation.hook, implementation.owner
        offers: list[Any] = []
        try:
            implementation.call({"register": offers.append})
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._note(owner, f"{hook} raised {one_line(error)}, so nothing that it registers can be used: mend it")
            return
        if not offers:
            self._about(owner).offers.append(f"{hook}: nothing here")
        for item in offers:
            self._take(hook, item, owner, is_own)

    def _take(self, hook: str, item: Any, owner: str, is_own: bool) -> None:
        contract, registry = CONTRACTS[hook], self._registries[hook]
        found = faults(item, contract) or self._taken(contract.kind, item)
        if found:
            self._note(owner, *found)
            name = getattr(item, "name", None)
            if isinstance(name, str):
                registry.refuse(name, f"{'; '.join(found)} (by {owner})")
            return

        refusal = registry.add(item.name, item, owner, is_own=is_own)
        self._note(owner, *([refusal] if refusal else []))
        if not refusal:
            self._about(owner).offers.append(words_for(item, contract).removeprefix("the "))

    def _taken(self, kind: str, item: Any) -> list[str]:
        """Request fields and kinds of grammars that another plugin has already."""
        if kind == "sampler":
            fields = {field: each for each in self.samplers for field in each.params.__struct_encode_fields__}
            return [
                f"the sampler {item.name!r} has the request field {field!r}, which the sampler {fields[field].name!r} "
                f"({self.samplers.owners[fields[field].name]}) has already: rename it"
                for field in item.params.__struct_encode_fields__
                if field in fields and fields[field].name != item.name
            ]
        if kind == "grammar backend":
            kinds = {known: each.name for each in self.grammars for known in each.kinds}
            return [
                f"the grammar backend {item.name!r} enforces {known!r}, which {kinds[known]!r} "
                f"({self.grammars.owners[kinds[known]]}) does already: rename the kind, or uninstall one"
                for known in item.kinds
                if known in kinds and kinds[known] != item.name
            ]
        return []

    def _note(self, owner: str, *texts: str) -> None:
        self.defects += [Defect(owner, text) for text in texts]

    def _about(self, owner: str) -> LoadedPlugin:
        if not self.loaded or self.loaded[-1].name != owner:
            self.loaded.append(LoadedPlugin(owner))
        return self.loaded[-1]

    @property
    def _registries(self) -> dict[str, Registry[Any]]:
        return {
            "register_backends": self.backends,
            "register_samplers": self.samplers,
            "register_grammars": self.grammars,
            "register_tool_formats": self.tool_formats,
            "register_reasoning_formats": self.reasoning_formats,
            "register_drafters": self.drafters,
            "register_batching_policies": self.batching_policies,
            "register_admission_policies": self.admission_policies,
            "register_edges": self.edges,
        }


def load_plugins(points: Iterable[EntryPoint] | None = None, named: str = "") -> Plugins:
    """Load the entry points of the group `histrio` one by one, then those that were named. Raises nothing."""
    plugins = Plugins()
    sources = entry_point_sources(entry_points(group=hooks.PROJECT) if points is None else points)
    for source in [*sources, *named_sources(named)]:
        plugins.load(source)
    return plugins


def installed_plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return _installed(os.environ.get(NAMED_PLUGINS, ""))


@cache
def _installed(named: str) -> Plugins:
    return load_plugins(named=named)
