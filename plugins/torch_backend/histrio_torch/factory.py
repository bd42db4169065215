"""What the runtime knows of the torch backend before it is used: can this machine, can this model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from histrio.contracts.backend import Capability, OpenedStage, Probe, Progress, StageSpec, Traits
from histrio.contracts.options import NoOptions
from histrio.errors import BackendError, ModelError
from histrio.kit.checkpoint import check_range, find_weight_files, num_layers, read_config
from histrio_torch.checkpoint import check_dtypes
from histrio_torch.encoder_families import is_encoder
from histrio_torch.families import check_config, check_stages, kv_cache_refusal
from histrio_torch.traits import KV_CACHE_REMEDY, capabilities_of

__all__ = ["TorchFactory"]

_INSTALL = "pip install histrio-torch"


class TorchFactory:
    """Makes torch stages; importing it imports neither torch nor transformers."""

    name = "torch"
    traits = Traits(contract=2, capabilities=[Capability.INT8_KV])
    options = NoOptions

    def __init__(self) -> None:
        self._has_torch = False

    def probe(self) -> Probe:
        """Whether torch and transformers load here, and the devices that torch sees."""
        missing = [name for name in ("torch", "transformers", "safetensors") if find_spec(name) is None]
        if missing:
            return Probe(available=False, reason=f"{' and '.join(missing)} not installed", remedy=_INSTALL)

        from histrio.kit.omp import bound_spinning

        bound_spinning()
        try:
            from histrio_torch.devices import devices
        except (ImportError, OSError) as error:
            return Probe(available=False, reason=f"torch does not load: {error}", remedy="install torch anew")

        self._has_torch = True
        return Probe(available=True, devices=devices())

    def supports(self, spec: StageSpec) -> Probe:
        """Whether the stage's layers can run; reads config.json and lists the folder.

        Behind a `probe()`, which has imported torch, it makes the model without memory and tries a step of it.
        """
        folder = Path(spec.model)
        try:
            config = read_config(folder)
            check_config(config)
            if spec.has_weights:
                check_dtypes(find_weight_files(folder))
            check_range(spec, num_layers(config))
            check_stages(config, spec)
        except ModelError as error:
            return Probe(available=False, reason=str(error), remedy="choose another model or backend")

        refusal = kv_cache_refusal(config, spec.memory.kv_cache_dtype)
        if refusal is not None:
            return Probe(available=False, reason=refusal, remedy=KV_CACHE_REMEDY)

        if not self._has_torch:
            return Probe(available=True, capabilities=list(capabilities_of(config)))

        from histrio_torch.trial import rehearse

        try:
            return rehearse(spec)
        except (BackendError, ModelError) as error:
            return Probe(available=False, reason=str(error), remedy="choose another model, split or backend")

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load a stage; imports torch."""
        from histrio.kit.omp import bound_spinning

        bound_spinning()
        if is_encoder(read_config(Path(spec.model))):
            from histrio_torch.encoder import open_encoder

            return open_encoder(spec, progress)

        from histrio_torch.backend import open_stage

        return open_stage(spec, progress)
