"""What the runtime knows of the MLX backend before it is used: can this machine, can this model."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from histrio.backend import Capability, NoOptions, Probe, StageBackend, StageSpec, Traits
from histrio.errors import BackendError, ModelError, UnsupportedModel
from histrio_mlx.checkpoint import check_adapter, find_weight_files
from histrio_mlx.config import normalise, num_layers, read_config
from histrio_mlx.families import Family, family_name, load_record
from histrio_mlx.families import family as find_family
from histrio_mlx.refusals import check_config
from histrio_mlx.sources import find_source

__all__ = ["MlxFactory", "capabilities", "check_placement"]

_MACHINES = {("Darwin", "arm64"), ("Linux", "x86_64"), ("Linux", "aarch64")}
_OF_PAGES = (Capability.REWIND, Capability.PREFIX_SHARE, Capability.COPY_PAGES)


class MlxFactory:
    """Makes MLX stages; importing it imports neither mlx nor mlx-lm."""

    name = "mlx"
    traits = Traits(contract=1, capabilities=[Capability.ADAPTERS])
    options = NoOptions

    def __init__(self) -> None:
        self._has_mlx = False
        """This process has imported it."""

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
            from histrio_mlx.memory import devices
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
                find_weight_files(Path(spec.model))
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
            dtype = rehearse(spec)
        except (BackendError, ModelError) as error:
            return Probe(available=False, reason=str(error), remedy="choose another model, split or backend")

        return Probe(available=True, capabilities=can, dtype=dtype)

    def create(self) -> StageBackend:
        """A stage that is not yet open; imports mlx."""
        from histrio_mlx.backend import MlxStage

        return MlxStage()


def capabilities(*, rewindable: bool) -> list[Capability]:
    """Of a stage; one that keeps a recurrent state can neither rewind a row nor share what it has."""
    pages = _OF_PAGES if rewindable else ()
    return [Capability.BATCH, *pages, Capability.ALL_POSITION_LOGITS]


def check_placement(spec: StageSpec) -> Family | None:
    """The record of the model's family, None for one that was never tested, which runs unsplit only.

    Raises `UnsupportedModel`.
    """
    config = read_config(Path(spec.model))
    normal = normalise(config, spec.max_sequence_length)
    model_type, count = str(config["model_type"]), num_layers(config)
    if not 0 <= spec.first_layer < spec.last_layer <= count:
        raise UnsupportedModel(
            f"layers {spec.first_layer}:{spec.last_layer} are not a range of the model's {count} layers"
        )

    module = family_name(config, load_record().aliases).partition("/")[0]
    family, source = find_family(config), find_source(module)
    if family is None and source is None:
        raise UnsupportedModel(f"mlx-lm has no model of type {model_type!r}")

    if family is not None and not family.runs:
        raise UnsupportedModel(f"{model_type} does not run: {family.reason}")

    check_config(normal, spec, family, source)
    if spec.is_first and spec.is_last:
        return family

    if family is None:
        raise UnsupportedModel(f"{model_type} was never tested in parts; run it in one stage")

    if not family.splittable:
        raise UnsupportedModel(f"{model_type} can't be split: {family.reason}; run it in one stage")

    return family
