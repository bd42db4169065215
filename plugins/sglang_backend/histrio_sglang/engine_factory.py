"""What the runtime knows of SGLang's engine before it is used: fields, options, can this machine, can this model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import Capability, Probe, StageSpec, Traits
from histrio.contracts.engine_backend import EngineBackend
from histrio.contracts.honours import Honours
from histrio.contracts.options import as_options
from histrio.errors import HistrioError, UnsupportedModel
from histrio.kit.whole_models import check_engine
from histrio_sglang.engine_options import EngineOptions, SglangFields
from histrio_sglang.factory import SglangFactory
from histrio_sglang.families import sources
from histrio_sglang.versions import check_version

__all__ = ["SglangEngineFactory"]


class SglangEngineFactory:
    """Makes SGLang's whole engine; importing it imports neither SGLang nor torch."""

    name = "sglang-engine"
    traits = Traits(contract=2, level="engine", capabilities=[Capability.OWN_PROCESS])
    fields: type[msgspec.Struct] = SglangFields
    honours = Honours(cache_salt=True, logprobs=True)
    options = EngineOptions

    def probe(self) -> Probe:
        """Whether SGLang and its kernels are installed, and the devices that torch sees."""
        return SglangFactory().probe()

    def supports(self, spec: StageSpec) -> Probe:
        """Whether the installed SGLang has the model; reads config.json and the text of SGLang's models."""
        try:
            options = as_options(spec.options, EngineOptions, "options")
            check_version(force=options.force_version)
            check_engine(spec, self.name)
            check_architecture(spec)
        except HistrioError as error:
            return Probe(False, str(error))

        return Probe(True, capabilities=[Capability.LOGPROBS])

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        """Greedy requests without penalties: draws cannot be repeated, and SGLang counts no tokens of a prompt."""
        return msgspec.convert(sampling, SglangFields).can_continue

    def create(self) -> EngineBackend:
        """An engine that is not yet open; SGLang is imported once it opens."""
        from histrio_sglang.engine import SglangEngine

        return SglangEngine()


def check_architecture(spec: StageSpec) -> None:
    """Raise `UnsupportedModel` for a model that the installed SGLang does not have."""
    architecture = read_model_config(Path(spec.model)).architecture
    if architecture not in sources():
        raise UnsupportedModel(
            f"{architecture} is not supported by the sglang-engine backend: the installed SGLang has no such model"
        )
