"""The native library, loaded and checked: its functions with errors as exceptions, and a stage in it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histrio.errors import BackendError, DoesNotFit, HistrioError, UnsupportedModel
from histrio_cpu.abi import ABI, FUNCTIONS, STAGE, Batch, Format, LayerConfig, StageConfig, Status, Storage, Tensor
from histrio_cpu.build import LIBRARY, REMEDY
from histrio_cpu.packed import PackedWriter

__all__ = ["Library", "NativeStage", "load_library"]

_ERRORS: dict[int, type[HistrioError]] = {
    Status.BAD_ARGUMENT: BackendError,
    Status.NO_MEMORY: DoesNotFit,
    Status.UNSUPPORTED: UnsupportedModel,
}


class Library:
    """The functions of `native/histrio_cpu.h`."""

    def __init__(self, file: Path) -> None:
        """Raises `BackendError` where the file is no such library, or one of another version."""
        if not file.exists():
            raise BackendError(f"the native library of histrio-cpu was not built; {REMEDY}")

        try:
            functions = ctypes.CDLL(str(file))
        except OSError as error:
            raise BackendError(f"the native library of histrio-cpu does not load ({error}); {REMEDY}") from error

        version = functions.hc_abi() if hasattr(functions, "hc_abi") else None
        if version != ABI or not all(hasattr(functions, name) for name in FUNCTIONS):
            raise BackendError(
                f"{file} has version {version} of the interface, this package needs {ABI}; run: "
                "python -m histrio_cpu.build --force"
            )

        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        self.functions = functions

    def check(self, status: int) -> None:
        """Raise what the status of a call means, with the library's own words."""
        if status != Status.OK:
            text = self.functions.hc_error().decode(errors="replace")
            raise _ERRORS.get(status, BackendError)(text or f"the native library answered {status}")

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels that this processor can run, the fastest first."""
        names: bytes = self.functions.hc_kernels_available()
        return names.decode().split()

    def use(self, kernels: str, num_threads: int, nodes: Sequence[Sequence[int]] = ()) -> None:
        """Choose kernels, by name or `auto`, and the number of compute threads, for stages made from now on.

        `nodes` are the processors of each node of memory; with more than one, an equal number of threads is kept on
        each, this thread on the first. Raises `BackendError` for kernels that this processor cannot run, and
        `UnsupportedModel` on a system that keeps no threads on a node.
        """
        known = self.kernels
        if kernels not in ("auto", *known):
            raise BackendError(f"arch {kernels!r} is not for this processor, which runs {', '.join(known)}")

        self.check(self.functions.hc_use_kernels((known[0] if kernels == "auto" else kernels).encode()))
        if len(nodes) < 2:
            self.check(self.functions.hc_use_threads(num_threads))
            return

        node_of = np.full(max(map(max, nodes)) + 1, -1, np.int32)
        for node, processors in enumerate(nodes):
            node_of[list(processors)] = node
        self.check(self.functions.hc_use_nodes(num_threads, len(nodes), node_of.ctypes.data, len(node_of)))

    def packed_bytes(self, kind: tuple[Format, Storage], shape: tuple[int, int]) -> int:
        """Bytes of a linear with these weights, packed."""
        return int(self.functions.hc_packed_bytes(*kind, *shape))

    def self_test(self) -> None:
        """Raise `BackendError` where the kernels in use compute something else than the plain ones."""
        self.check(self.functions.hc_self_test())


@cache
def load_library() -> Library:
    """The library beside this package, loaded once. Raises `BackendError`."""
    return Library(LIBRARY)


class NativeStage:
    """A stage in the library. It is freed by `close`, and until then owns its weights and blocks."""

    def __init__(self, library: Library, config: StageConfig) -> None:
        config.struct_bytes = ctypes.sizeof(config)
        self._library = library
        self._functions = library.functions
        self._stage = STAGE()
        self._keep: list[object] = []
        """What the library reads from where it lies."""
        self.writer: PackedWriter | None = None
        """Reads the weights until it is closed."""
        library.check(self._functions.hc_stage_new(config, self._stage))

    def layer(self, index: int, config: LayerConfig) -> None:
        """Describe a layer, counted from the stage's first."""
        config.struct_bytes = ctypes.sizeof(config)
        self._library.check(self._functions.hc_layer(self._stage, index, config))

    def rope(self, table: int, inverse_frequencies: npt.NDArray[np.float32], scale: float) -> None:
        """Give a table of frequencies, one for each pair of rotated dimensions."""
        values = np.ascontiguousarray(inverse_frequencies, np.float32)
        self._library.check(
            self._functions.hc_rope(self._stage, table, values.ctypes.data, len(values), scale),
        )

    def put(
        self,
        position: tuple[int, Tensor, int],
        data: npt.NDArray[np.uint8],
        kind: tuple[int, int],
        shape: tuple[int, int],
    ) -> None:
        """Hand over a tensor; `position` is layer (-1: of the stage), tensor, expert; `kind` is a `Format` and a
        `Storage`, perhaps with `PACKED`. Embeddings are not copied."""
        layer, tensor, expert = position
        if tensor == Tensor.EMBEDDING:
            self._keep.append(data)
        self._library.check(self._functions.hc_put(self._stage, layer, tensor, expert, *kind, *shape, data.ctypes.data))

    def packed(self, position: tuple[int, Tensor, int], num_bytes: int) -> npt.NDArray[np.uint8]:
        """The packed weights of a linear that was put, as long as the stage is open."""
        address = self._functions.hc_packed(self._stage, *position)
        assert address, "it was put"
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def ready(self) -> None:
        """Raise `BackendError`, with its name, where a tensor is missing."""
        self._library.check(self._functions.hc_ready(self._stage))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return int(self._functions.hc_weight_bytes(self._stage))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        return int(self._functions.hc_kv_bytes_per_token(self._stage))

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make room for blocks; the same numbers again keep it."""
        self._library.check(self._functions.hc_allocate(self._stage, num_blocks, block_size))

    def copy_blocks(self, src: npt.NDArray[np.int32], dst: npt.NDArray[np.int32]) -> None:
        """Copy blocks in all layers."""
        self._library.check(self._functions.hc_copy_blocks(self._stage, len(src), src.ctypes.data, dst.ctypes.data))

    def step(self, batch: Batch) -> None:
        """Run a step."""
        self._library.check(self._functions.hc_step(self._stage, batch))

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        if self.writer is not None:
            self.writer.close()
        stage, self._stage = self._stage, STAGE()
        if stage:
            self._functions.hc_stage_free(stage)
        self._keep.clear()
