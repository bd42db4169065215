"""What the runtime knows of the torch backend before it is used: can this machine, can this model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from histrio.backend import Probe, StageBackend
from histrio.errors import ModelError
from histrio_torch.checkpoint import find_weight_files
from histrio_torch.families import check_config, num_layers, read_config

__all__ = ["TorchFactory"]

_INSTALL = "pip install histrio-torch"


class TorchFactory:
    """Makes torch stages; importing it imports neither torch nor transformers."""

    name = "torch"

    def probe(self) -> Probe:
        """Whether torch and transformers load here, and the devices that torch sees."""
        missing = [name for name in ("torch", "transformers", "safetensors") if find_spec(name) is None]
        if missing:
            return Probe(available=False, reason=f"{' and '.join(missing)} not installed", remedy=_INSTALL)

        from histrio_torch.omp import bound_spinning

        bound_spinning()
        try:
            from histrio_torch.memory import devices
        except (ImportError, OSError) as error:
            return Probe(available=False, reason=f"torch does not load: {error}", remedy="install torch anew")

        return Probe(available=True, devices=devices())

    def supports(self, model: str, first_layer: int, last_layer: int) -> Probe:
        """Whether the layers of the model in folder `model` can run; reads config.json and lists the folder."""
        try:
            config = read_config(Path(model))
            check_config(config)
            find_weight_files(Path(model))
            count = num_layers(config)
        except ModelError as error:
            return Probe(available=False, reason=str(error), remedy="choose another model or backend")

        if not 0 <= first_layer < last_layer <= count:
            reason = f"layers {first_layer}:{last_layer} are not a range of the model's {count} layers"
            return Probe(available=False, reason=reason, remedy=f"choose a range within 0:{count}")

        return Probe(available=True)

    def create(self) -> StageBackend:
        """A stage that is not yet open; imports torch."""
        from histrio_torch.omp import bound_spinning

        bound_spinning()
        from histrio_torch.backend import TorchStage

        return TorchStage()
