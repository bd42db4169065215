"""The policies that a topology names, made with the options that it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from histrio.config.tables import convert_table
from histrio.config.topology import EngineTable
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy
from histrio.errors import PluginError, TopologyError
from histrio.plugins.registry import Plugins, Registry

__all__ = ["admission_policy", "batching_policy", "check_policies"]

P = TypeVar("P", AdmissionPolicy, BatchingPolicy)


def admission_policy(table: EngineTable, plugins: Plugins) -> AdmissionPolicy:
    """The policy that decides which requests are accepted. Raises `TopologyError`."""
    return _made(plugins.admission_policies, table.admission_policy, table.admission_policy_options, "admission-policy")


def batching_policy(name: str, options: Mapping[str, Any], plugins: Plugins) -> BatchingPolicy:
    """The policy that decides in which order requests enter. Raises `TopologyError`."""
    return _made(plugins.batching_policies, name, options, "batching-policy")


def check_policies(table: EngineTable, plugins: Plugins, *, is_engine: bool) -> None:
    """Both policies exist and take their options; an engine has no batching of ours. Raises `TopologyError`."""
    admission_policy(table, plugins)
    if not is_engine:
        batching_policy(table.batching_policy, table.batching_policy_options, plugins)


def _made(registry: Registry[type[P]], name: str, options: Mapping[str, Any], key: str) -> P:
    try:
        policy = registry.get(name)
    except PluginError as error:
        raise TopologyError(f"engine.{key}", str(error)) from None

    return policy(convert_table(options, policy.options, f"engine.{key}-options"))
