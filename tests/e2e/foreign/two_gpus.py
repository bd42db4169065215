"""A backend that pretends to have two GPUs: the toy's arithmetic, and answers as of a machine that it made up."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from histrio.contracts.backend import BackendFactory, Probe, StageSpec
from histrio.contracts.hooks import hookimpl
from histrio.testing.toy import ToyFactory

LAYER_BYTES = {"float32": 4 * 2**20, "bfloat16": 2 * 2**20}
GPU_BYTES = 24 * 2**20


class TwoGpus(ToyFactory):
    """Registers as `two-gpus`; what it says of a placement it says only once it was probed, as torch does."""

    name = "two-gpus"

    def __init__(self) -> None:
        super().__init__()
        self._is_probed = False

    def probe(self) -> Probe:
        self._is_probed = True
        return Probe(available=True, devices=["gpu:0", "gpu:1", "cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        answer = super().supports(spec)
        if not self._is_probed:
            return answer
        if spec.dtype == "float16":
            return Probe(False, "these GPUs know no float16", "choose bfloat16")
        dtype = spec.dtype if spec.dtype != "auto" else "float32" if spec.device == "cpu" else "bfloat16"
        weight_bytes = LAYER_BYTES[dtype] * (spec.last_layer - spec.first_layer)
        device_bytes = None if spec.device == "cpu" else GPU_BYTES
        return msgspec.structs.replace(answer, dtype=dtype, weight_bytes=weight_bytes, device_bytes=device_bytes)


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    register(TwoGpus())
