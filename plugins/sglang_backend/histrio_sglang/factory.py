"""What the runtime knows of a stage on SGLang before it is used: can this machine, can this model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from histrio.contracts.backend import Capability, OpenedStage, Probe, Progress, StageSpec, Traits
from histrio.errors import HistrioError
from histrio.kit.checkpoint import check_range, num_layers, read_config
from histrio_sglang.families import check_model
from histrio_sglang.options import StageOptions, read_options
from histrio_sglang.traits import CAPABILITIES
from histrio_sglang.versions import check_version, installed_version

__all__ = ["SglangFactory"]


class SglangFactory:
    """Makes stages that run on SGLang's model runner; importing it imports neither SGLang nor torch."""

    name = "sglang"
    traits = Traits(contract=2, capabilities=[Capability.ONE_STAGE_PER_PROCESS])
    options = StageOptions

    def __init__(self) -> None:
        self._has_torch = False
        """Whether this process has imported the library."""

    def probe(self) -> Probe:
        """Whether SGLang and its kernels are installed, and the devices that torch sees."""
        if installed_version() is None:
            return Probe(False, "sglang is not installed", "pip install 'histrio-sglang[sglang]' where it runs")

        if find_spec("sgl_kernel") is None:
            return Probe(False, "SGLang's kernels are not installed", "pip install sglang-kernel for your torch")

        try:
            from histrio_torch.devices import devices
        except (ImportError, OSError) as error:
            return Probe(False, f"torch does not load: {error}", "install the torch that sglang names")

        self._has_torch = True
        return Probe(True, devices=[device for device in devices() if device != "mps"])

    def supports(self, spec: StageSpec) -> Probe:
        """Whether the stage's layers can run; reads config.json and the text of SGLang's models.

        Behind a `probe()`, which has imported torch, also its dtype and the bytes of its weights, from their headers.
        """
        try:
            options = read_options(spec.options)
            check_version(force=options.force_version)
            config = read_config(Path(spec.model))
            check_model(config)
            check_range(spec, num_layers(config))
        except HistrioError as error:
            return Probe(False, str(error))

        if spec.adapter is not None:
            return Probe(False, "the sglang backend applies no adapters", "merge the adapter into the weights")

        if not self._has_torch or not spec.has_weights:
            return Probe(True, capabilities=CAPABILITIES)

        from histrio_sglang.placement import rehearse

        try:
            return rehearse(spec)
        except HistrioError as error:
            return Probe(False, str(error))

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load a stage; imports torch, and SGLang where nothing else refuses the stage."""
        from histrio.kit.omp import bound_spinning

        bound_spinning()
        from histrio_sglang.backend import open_stage

        return open_stage(spec, progress)
