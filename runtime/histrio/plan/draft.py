"""Which drafter a topology asks for, and whether it can draft for the model."""

from __future__ import annotations

from histrio.config.model_config import ModelConfig
from histrio.config.settings import SpeculationSettings
from histrio.config.topology import Topology
from histrio.contracts.backend import StageSpec
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.contracts.options import with_options
from histrio.errors import PluginError, TopologyError
from histrio.plugins.registry import Plugins
from histrio.stage.sampling.sampler_chain import SamplerChain

__all__ = ["DEFAULT_DRAFTER", "drafter_name", "drafter_spec", "drafter_tools"]

DEFAULT_DRAFTER = "ngram"
"""Where the topology leaves it open and the plugin is there."""


def drafter_name(settings: SpeculationSettings, plugins: Plugins) -> str:
    """The drafter's name, empty for none. Raises `TopologyError`, also for settings that no drafter would read."""
    requested = settings.drafter
    if requested == "off" or (requested == "auto" and DEFAULT_DRAFTER not in plugins.drafters):
        if settings.drafter_options:
            raise TopologyError("engine.drafter-options", "there is no drafter to read them: name one in `drafter`")
        return ""

    try:
        return plugins.drafters.get(DEFAULT_DRAFTER if requested == "auto" else requested).name
    except PluginError as error:
        raise TopologyError("engine.drafter", str(error)) from None


def drafter_spec(topology: Topology, stage: StageSpec, config: ModelConfig, plugins: Plugins) -> DrafterSpec | None:
    """What the drafter shall do, in the process of the first stage; None without one. Raises `TopologyError` where it
    cannot."""
    settings = topology.engine.speculation
    name = drafter_name(settings, plugins)
    if not name:
        return None

    factory = plugins.drafters.get(name)
    spec = DrafterSpec.of_stage(
        stage,
        settings,
        vocab_size=config.vocab_size,
        options=settings.drafter_options,
        offline=topology.model.offline,
    )
    answer = factory.supports(with_options(spec, factory, "engine.drafter-options"), drafter_tools(plugins))
    if not answer.available:
        reason = f"{answer.reason}; {answer.remedy}" if answer.remedy else answer.reason
        raise TopologyError("engine.drafter", reason)
    return spec


def drafter_tools(plugins: Plugins) -> DrafterTools:
    """The backends and samplers of these plugins."""
    return DrafterTools(plugins.stage_backend, lambda max_slots: SamplerChain(list(plugins.samplers), max_slots))
