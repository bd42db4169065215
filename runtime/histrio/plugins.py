"""Finding plugins, and the registries of what they offer.

Plugins are entry points of the group `histrio`. Each is loaded by itself: one that cannot load is remembered with its
reason and the others work on. What it offers is registered under a name; a name belongs to one plugin only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import msgspec
import pluggy

from histrio import hooks
from histrio.backend import CONTRACT, BackendFactory
from histrio.drafting import DrafterFactory
from histrio.engine_backend import EngineFactory
from histrio.errors import PluginError
from histrio.grammar import GrammarBackend
from histrio.hooks import EdgeService
from histrio.policies import AdmissionPolicy, BatchingPolicy
from histrio.sampling import Sampler
from histrio.topology_parse import did_you_mean

__all__ = ["FailedPlugin", "Plugins", "Registry", "installed_plugins", "load_plugins"]

T = TypeVar("T")


class FailedPlugin(msgspec.Struct, frozen=True):
    """A plugin that is installed and cannot be used."""

    name: str
    """Entry point, with its distribution where known."""
    reason: str


class Registry(Generic[T]):
    """Things of one kind by name, and which plugin registered each."""

    def __init__(self, kind: str, failed: list[FailedPlugin]) -> None:
        self._kind = kind
        self._failed = failed
        self._items: dict[str, tuple[T, str]] = {}

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

    def add(self, name: str, item: T, owner: str) -> None:
        """Raises `PluginError` if the name is taken, naming both plugins."""
        if name in self._items:
            other = self._items[name][1]
            raise PluginError(f"the {self._kind} {name!r} is registered by both {other} and {owner}; uninstall one")

        self._items[name] = (item, owner)

    def get(self, name: str) -> T:
        """Raises `PluginError` that says which names there are, who registered them, and which plugins failed."""
        if name in self._items:
            return self._items[name][0]

        known = ", ".join(f"{known} (by {owner})" for known, owner in self.owners.items()) or "none"
        failed = "".join(f"; the plugin {each.name} cannot load: {each.reason}" for each in self._failed)
        guess = did_you_mean(name, self._items)
        raise PluginError(f"there is no {self._kind} {name!r}{guess}; known: {known}{failed}")


class Plugins:
    """All plugins of this environment and what they offer."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self.failed: list[FailedPlugin] = []
        self.backends: Registry[BackendFactory | EngineFactory] = Registry("backend", self.failed)
        self.samplers: Registry[type[Sampler]] = Registry("sampler", self.failed)
        self.grammars: Registry[GrammarBackend] = Registry("grammar backend", self.failed)
        self.drafters: Registry[DrafterFactory] = Registry("drafter", self.failed)
        self.batching_policies: Registry[type[BatchingPolicy]] = Registry("batching policy", self.failed)
        self.admission_policies: Registry[type[AdmissionPolicy]] = Registry("admission policy", self.failed)
        self.edges: Registry[EdgeService] = Registry("edge service", self.failed)
        self.providers: dict[str, list[str]] = {name: [] for name in hook_names()}
        """Hook → plugins that implement it."""

    def add(self, plugin: object, owner: str) -> None:
        """Take in one plugin (a module or an object with hook implementations) under the name `owner`.

        A plugin that misuses a hook is recorded in `failed` and offers nothing. Raises `PluginError` for a taken name.
        """
        if self.manager.is_registered(plugin):
            self.failed.append(FailedPlugin(owner, "another entry point names the same plugin"))
            return

        try:
            offers = self._collect(plugin, owner)
        except PluginError:
            raise
        except Exception as error:
            self.failed.append(FailedPlugin(owner, _one_line(error)))
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            return

        for registry, item in offers:
            registry.add(str(item.name), item, owner)

    def stage_backend(self, name: str) -> BackendFactory:
        """The stage backend of this name. Raises `PluginError`."""
        factory = self.backends.get(name)
        if factory.traits.level != "stage":
            raise PluginError(f"the backend {name!r} is a whole engine, which cannot run a range of layers")

        return cast(BackendFactory, factory)

    def engine_backend(self, name: str) -> EngineFactory:
        """The engine backend of this name. Raises `PluginError`."""
        factory = self.backends.get(name)
        if factory.traits.level != "engine":
            raise PluginError(f"the backend {name!r} runs ranges of layers and is no engine")

        return cast(EngineFactory, factory)

    def _collect(self, plugin: object, owner: str) -> list[tuple[Registry[Any], Any]]:
        """Register with pluggy and ask for the offers, without taking them in yet."""
        self.manager.register(plugin, owner)
        callers = self.manager.get_hookcallers(plugin) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown:
            known = hook_names()
            guess = did_you_mean(unknown[0], [name.replace("_", "-") for name in known]).replace("-", "_")
            text = f"{unknown[0]} is no hook{guess}; hooks: {', '.join(known)}"
            raise pluggy.PluginValidationError(plugin, text)

        offers: list[tuple[Registry[Any], Any]] = []
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        for caller in callers:
            registry = self._registries[caller.name]
            only_this = self.manager.subset_hook_caller(caller.name, others)
            only_this(register=_collector(registry, offers))
        for registry, item in offers:
            if registry is self.backends:
                _check_contract(item)
        for caller in callers:
            self.providers[caller.name].append(owner)
        return offers

    @property
    def _registries(self) -> dict[str, Registry[Any]]:
        return {
            "register_backends": self.backends,
            "register_samplers": self.samplers,
            "register_grammars": self.grammars,
            "register_drafters": self.drafters,
            "register_batching_policies": self.batching_policies,
            "register_admission_policies": self.admission_policies,
            "register_edges": self.edges,
        }


def _collector(registry: Registry[Any], offers: list[tuple[Registry[Any], Any]]) -> Callable[[Any], None]:
    return lambda item: offers.append((registry, item))


def _check_contract(factory: BackendFactory | EngineFactory) -> None:
    """A backend is written for one version of the contract. Raises ValueError, which fails its plugin alone."""
    if factory.traits.contract == CONTRACT:
        return

    newer = factory.traits.contract > CONTRACT
    raise ValueError(
        f"the backend {factory.name!r} is written for version {factory.traits.contract} of the contract, and this "
        f"histrio has {CONTRACT}: update {'histrio' if newer else 'the plugin'}"
    )


def hook_names() -> list[str]:
    """Every hook of `histrio.hooks`, in order of definition."""
    return [name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")]


def load_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load the entry points of the group `histrio` one by one. Raises `PluginError` only for a name claimed twice."""
    plugins = Plugins()
    for owner, point in _distinct(entry_points(group=hooks.PROJECT) if points is None else points):
        try:
            module: ModuleType = point.load()
        except (Exception, SystemExit) as error:
            plugins.failed.append(FailedPlugin(owner, _one_line(error)))
        else:
            plugins.add(module, owner)
    return plugins


@cache
def installed_plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return load_plugins()


def _distinct(points: Iterable[EntryPoint]) -> list[tuple[str, EntryPoint]]:
    """Owner text and entry point, each target once: a distribution may be found twice on the path."""
    found = {(point.name, point.value): point for point in points}
    return [(_owner(found[key]), found[key]) for key in sorted(found)]


def _owner(point: EntryPoint) -> str:
    dist = point.dist
    return f"{point.name} [{dist.name} {dist.version}]" if dist is not None else point.name


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
