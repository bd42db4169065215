"""What the runtime knows of the MLX backend before it is used: can this machine, can this model."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

import msgspec

from histrio.contracts.backend import Capability, OpenedStage, Probe, Progress, StageSpec, Traits
from histrio.contracts.options import NoOptions
from histrio.errors import BackendError, ModelError
from histrio.kit.checkpoint import find_weight_files
from histrio_mlx.checkpoint import WEIGHT_FILES, check_adapter
from histrio_mlx.traits import capabilities, check_placement

__all__ = ["MlxFactory"]

_MACHINES = {("Darwin", "arm64"), ("Linux", "x86_64"), ("Linux", "aarch64")}


class MlxFactory:
    """Makes MLX stages; importing it imports neither mlx nor mlx-lm."""

    name = "mlx"
    traits = Traits(contract=2, capabilities=[Capability.ADAPTERS])
    options = NoOptions

    def __init__(self) -> None:
        self._has_mlx = False
        """Whether this process has imported the library."""

    def probe(self) -> Probe:
        """Whether MLX loads here, and the devices that it sees."""
        machine = (platform.system(), platform.machine())
        if machine not in _MACHINES:
            reason = f"there is no MLX for {' '.join(machine)}"
            return Probe(available=False, reason=reason, remedy="use a Mac with Apple Silicon, or Linux")

        missing = [name for name in ("mlx", "mlx_lm") if find_spec(name) is None]
        if missing:
            reason = f"{' and '.join(missing)} not installed"
            return Probe(available=False, reason=reason, remedy="pip install histrio-mlx")

        try:
            from histrio_mlx.devices import devices
        except (ImportError, OSError) as error:
            remedy = "install mlx anew" if machine[0] == "Darwin" else "pip install 'mlx[cpu]'"
            return Probe(available=False, reason=f"mlx does not load: {error}", remedy=remedy)

        self._has_mlx = True
        return Probe(available=True, devices=devices())

    def supports(self, spec: StageSpec) -> Probe:
        """Whether the stage's layers can run; reads configuration files and lists the folder.

        Behind a `probe()`, which has imported mlx, it makes the model without reading weights and tries a step of it.
        """
        try:
            family = check_placement(spec)
            if spec.has_weights:
                find_weight_files(Path(spec.model), WEIGHT_FILES)
            if spec.adapter is not None:
                check_adapter(Path(spec.adapter))
        except ModelError as error:
            return Probe(available=False, reason=str(error), remedy="choose another model, split or backend")

        rewindable = family is not None and family.rewindable
        can = capabilities(rewindable=rewindable)
        if not self._has_mlx or not spec.has_weights:
            return Probe(available=True, capabilities=can)

        from histrio_mlx.trial import rehearse

        try:
            told = rehearse(spec)
        except (BackendError, ModelError) as error:
            return Probe(available=False, reason=str(error), remedy="choose another model, split or backend")

        return msgspec.structs.replace(told, capabilities=can)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load a stage; imports mlx."""
        from histrio_mlx.backend import open_stage

        return open_stage(spec, progress)
