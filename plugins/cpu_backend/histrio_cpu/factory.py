"""What the runtime knows of the CPU backend before it is used: can this machine, can this model."""

from __future__ import annotations

from histrio.contracts.backend import Capability, OpenedStage, Probe, Progress, StageSpec, Traits
from histrio.errors import BackendError, ModelError
from histrio_cpu.build import REMEDY
from histrio_cpu.traits import CAPABILITIES, CpuOptions

__all__ = ["CpuFactory"]

_DEVICES = ("auto", "cpu")


class CpuFactory:
    """Makes stages on the native library; no call imports torch or transformers."""

    name = "cpu"
    traits = Traits(contract=2, capabilities=[Capability.INT8_KV])
    options = CpuOptions

    def probe(self) -> Probe:
        """Whether the library is there, fits this package, and computes what it should on this processor."""
        from histrio_cpu.library import load_library

        try:
            load_library().self_test()
        except BackendError as error:
            return Probe(available=False, reason=str(error), remedy="" if REMEDY in str(error) else "use torch")

        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        """Whether the stage's layers can run; reads config.json and headers of the weights."""
        from histrio_cpu.loader import plan_stage

        if spec.device not in _DEVICES:
            return Probe(available=False, reason=f"there is no device {spec.device!r}", remedy='set device = "cpu"')

        try:
            plan = plan_stage(spec)
        except (BackendError, ModelError) as error:
            return Probe(available=False, reason=str(error), remedy="choose another model or backend")

        weight_bytes = plan.weight_bytes if spec.has_weights else None
        return Probe(available=True, capabilities=list(CAPABILITIES), dtype=plan.dtype, weight_bytes=weight_bytes)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load a stage."""
        from histrio_cpu.backend import open_stage

        return open_stage(spec, progress)
