"""What the runtime knows of SGLang's engine before it is used: fields, options, can this machine, can this model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from histrio.backend import Capability, Probe, StageSpec, Traits
from histrio.engine_backend import EngineBackend
from histrio.errors import BackendError, HistrioError, UnsupportedModel
from histrio.model_config import read_model_config
from histrio.options import as_options
from histrio_sglang.factory import SglangFactory
from histrio_sglang.families import sources
from histrio_sglang.options import DEFAULT_PAGE_SIZE, StageOptions
from histrio_sglang.versions import check_version

__all__ = ["EngineOptions", "SglangEngineFactory", "SglangFields", "check_engine"]

_TokenId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z")]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class SglangFields(msgspec.Struct, frozen=True):
    """The sampling fields SGLang enforces as they are meant.

    Not among them: `seed` (needs its deterministic mode, which not every attention has and which refuses `min_p`),
    `repetition_penalty` (counts the answer alone, not the prompt), `min_tokens` (needs its tokenizer).
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**30)] = 0
    """0 and -1: all tokens."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logit_bias: Annotated[
        dict[_TokenId, _Bias],
        msgspec.Meta(
            max_length=4096,
            description="an object of at most 4096 token ids, each with a number at least -100 and at most 100",
        ),
    ] = {}
    logprobs: bool = False
    """Answer `TokenRow.logprobs`: of the model's distribution with penalties and biases, before temperature."""


class EngineOptions(StageOptions, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a stage with `backend = "sglang-engine"`: those of the stage level."""

    page_size: Annotated[int, msgspec.Meta(ge=1, le=256)] = DEFAULT_PAGE_SIZE
    """Tokens per page; some attention kernels insist on one."""
    cuda_graphs: bool = True
    """Record decode steps as CUDA graphs; without meaning on a CPU."""


class SglangEngineFactory:
    """Makes SGLang's whole engine; importing it imports neither SGLang nor torch."""

    name = "sglang-engine"
    traits = Traits(contract=1, level="engine", capabilities=[Capability.OWN_PROCESS])
    fields: type[msgspec.Struct] = SglangFields
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
        fields = msgspec.convert(sampling, SglangFields)
        return fields.temperature == 0 and not (fields.presence_penalty or fields.frequency_penalty)

    def create(self) -> EngineBackend:
        """An engine that is not yet open; SGLang is imported once it opens."""
        from histrio_sglang.engine import SglangEngine

        return SglangEngine()


def check_engine(spec: StageSpec, backend: str) -> None:
    """Raise `BackendError` for what no engine can do: a part of a model, an adapter."""
    count = read_model_config(Path(spec.model)).num_layers
    if (spec.first_layer, spec.last_layer) != (0, count):
        raise BackendError(
            f"an engine runs all {count} layers of a model, not {spec.first_layer}:{spec.last_layer}; give the whole "
            "model to one stage"
        )

    if spec.adapter is not None:
        raise BackendError(f"the {backend} backend applies no adapters; merge the adapter into the weights")


def check_architecture(spec: StageSpec) -> None:
    """Raise `UnsupportedModel` for a model that the installed SGLang does not have."""
    architecture = read_model_config(Path(spec.model)).architecture
    if architecture not in sources():
        raise UnsupportedModel(
            f"{architecture} is not supported by the sglang-engine backend: the installed SGLang has no such model"
        )
