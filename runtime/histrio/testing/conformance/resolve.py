"""From what `--backend` says to a factory: a registered name, or `module:class` for one that is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from histrio.contracts.backend import BackendFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.errors import PluginError
from histrio.plugins.registry import installed_plugins

__all__ = ["factory_at", "find_factory", "judge_at"]


def find_factory(name: str) -> BackendFactory | EngineFactory:
    """The factory of this name. Raises `PluginError`."""
    return factory_at(name) if ":" in name else installed_plugins().backends.get(name)


def factory_at(reference: str) -> Any:
    """A new factory of the class at `module:class`. Raises `PluginError`."""
    module, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"there is no backend factory at {reference!r}: {error}") from error


def judge_at(reference: str) -> Any:
    """The function at `module:function`. Raises `PluginError`."""
    module, _, attribute = reference.partition(":")
    try:
        judge = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"there is no judge at {reference!r}: {error}") from error
    if not callable(judge):
        raise PluginError(f"the judge at {reference!r} is no function of a folder and ids")
    return judge
