"""Which drafter a topology asks for, and whether it can draft for the model."""

from __future__ import annotations

from histrio.backend import StageSpec
from histrio.drafting import DrafterFactory, DrafterSpec
from histrio.errors import PluginError, TopologyError
from histrio.model_config import ModelConfig
from histrio.plugins import Plugins
from histrio.topology import EngineTable
from histrio.topology_parse import convert_table

__all__ = ["DEFAULT_DRAFTER", "drafter_name", "drafter_spec"]

DEFAULT_DRAFTER = "ngram"
"""Where the topology leaves it open and the plugin is there."""


def drafter_name(table: EngineTable, plugins: Plugins) -> str:
    """The drafter's name, empty for none. Raises `TopologyError`, also for settings that nobody would read."""
    wanted = table.drafter
    if wanted == "off" or (wanted == "auto" and DEFAULT_DRAFTER not in plugins.drafters):
        if table.drafter_options:
            raise TopologyError("engine.drafter-options", "there is no drafter to read them: name one in `drafter`")
        return ""

    try:
        return plugins.drafters.get(DEFAULT_DRAFTER if wanted == "auto" else wanted).name
    except PluginError as error:
        raise TopologyError("engine.drafter", str(error)) from None


def drafter_spec(table: EngineTable, stage: StageSpec, config: ModelConfig, factory: DrafterFactory) -> DrafterSpec:
    """What the drafter shall do, in the process of the first stage. Raises `TopologyError` where it cannot."""
    convert_table(table.drafter_options, factory.options, "engine.drafter-options")
    spec = DrafterSpec(
        model=stage.model,
        num_layers=stage.num_layers,
        vocab_size=config.vocab_size,
        max_rows=stage.max_rows,
        max_sequence_length=stage.max_sequence_length,
        max_draft=table.max_speculation if table.adaptive else table.speculation_length,
        device=stage.device,
        dtype=stage.dtype,
        threads=stage.threads,
        options=table.drafter_options,
    )
    answer = factory.supports(spec)
    if not answer.available:
        reason = f"{answer.reason}; {answer.remedy}" if answer.remedy else answer.reason
        raise TopologyError("engine.drafter", reason)
    return spec
