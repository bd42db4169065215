"""The policies that a topology names, made with the options that it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from histrio.config.settings import AdmissionSettings, BatchingSettings
from histrio.config.tables import convert_table
from histrio.config.topology import EngineTable
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy
from histrio.errors import PluginError, TopologyError
from histrio.plugins.registry import Plugins, Registry

__all__ = ["admission_policy", "batching_policy", "check_policies"]

P = TypeVar("P", AdmissionPolicy, BatchingPolicy)


def admission_policy(settings: AdmissionSettings, plugins: Plugins) -> AdmissionPolicy:
    """The policy that decides which requests are accepted. Raises `TopologyError`."""
    name, options = settings.admission_policy, settings.admission_policy_options
    return _made(plugins.admission_policies, name, options, "admission-policy")


def batching_policy(settings: BatchingSettings, plugins: Plugins) -> BatchingPolicy:
    """The policy that decides in which order requests enter. Raises `TopologyError`."""
    name, options = settings.batching_policy, settings.batching_policy_options
    return _made(plugins.batching_policies, name, options, "batching-policy")


def check_policies(engine: EngineTable, plugins: Plugins, *, is_engine: bool) -> None:
    """Both policies exist and take their options; an engine has no batching of ours. Raises `TopologyError`."""
    admission_policy(engine.admission, plugins)
    if not is_engine:
        batching_policy(engine.batching, plugins)


def _made(registry: Registry[type[P]], name: str, options: Mapping[str, Any], key: str) -> P:
    try:
        policy = registry.get(name)
    except PluginError as error:
        raise TopologyError(f"engine.{key}", str(error)) from None

    return policy(convert_table(options, policy.options, f"engine.{key}-options"))
