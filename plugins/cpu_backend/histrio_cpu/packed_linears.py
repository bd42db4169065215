"""Which linears of a stage the cache of packed weights has, or is to have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from histrio_cpu.abi import Format, Storage
from histrio_cpu.build import LIBRARY
from histrio_cpu.library import Library, NativeStage
from histrio_cpu.model import Part
from histrio_cpu.packed import Bytes, PackedFile, PackedWriter, Slot, slots_of

__all__ = ["Found", "Kind", "PackedLinears"]

Kind = tuple[Format, Storage]
"""In which format a linear is handed over, and how it is kept."""

_PLAIN = (Format.F32, Format.F16, Format.BF16)
_FEWEST_BYTES = 64 * 2**20
"""Less than that is packed in a moment."""
_GIB = 2**30


class Found(NamedTuple):
    """A packed linear, and what `NativeStage.put` calls its kind."""

    kind: tuple[int, int]
    data: Bytes


class PackedLinears:
    """The linears that cost more than a copy to pack: those that are rounded, and those of blocks.

    `linears` has the kind that each is going to have; one that is read may turn out to have a wider format.
    """

    def __init__(
        self, linears: Sequence[tuple[Part, Kind]], files: Sequence[Path], library: Library, most_gib: float
    ) -> None:
        """`files` is what they are read of, `most_gib` bounds the cache; 0: none is used."""
        self._library = library
        self._most_bytes = int(most_gib * _GIB)
        costly = [(part, kind) for part, kind in linears if kind[0] not in _PLAIN or kind[1] != Storage.KEEP]
        num_bytes = sum(library.packed_bytes(kind, (part.rows, part.columns)) for part, kind in costly)
        is_used = most_gib > 0 and num_bytes >= _FEWEST_BYTES
        self._parts = {_name(part): part for part, _kind in costly} if is_used else {}
        self._kinds: dict[str, Kind] = {}
        """Of those that the stage has packed itself."""
        self._key = _key(costly, files) if is_used else ""
        self._file = PackedFile.find(self._key, self._layout) if is_used else None

    @property
    def has_file(self) -> bool:
        """Whether they were kept at an earlier start."""
        return self._file is not None

    def find(self, part: Part) -> Found | None:
        """The part, packed, where the cache has it."""
        slot = None if self._file is None else self._file.slots.get(_name(part))
        if self._file is None or slot is None:
            return None
        return Found((slot.format, slot.storage | Storage.PACKED), self._file.read(slot))

    def packs(self, part: Part, kind: Kind) -> None:
        """The stage has packed the part itself, handed over in this way."""
        if _name(part) in self._parts:
            self._kinds[_name(part)] = kind

    def keep(self, stage: NativeStage) -> None:
        """Write what the stage has packed, beside its steps."""
        if not self._kinds:
            return

        def read(slot: Slot) -> Bytes:
            part = self._parts[slot.name]
            return stage.packed((part.layer, part.tensor, part.expert), slot.num_bytes)

        slots = self._slots([*self._kinds.items()])
        stage.writer = PackedWriter(self._key, slots, read, self._most_bytes)

    def _layout(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Where they must lie in a file that has them in these formats. Raises ValueError for what cannot be."""
        if [slot.name for slot in slots] != [*self._parts]:
            raise ValueError("other linears")
        return self._slots([(slot.name, (Format(slot.format), Storage(slot.storage))) for slot in slots])

    def _slots(self, kinds: Sequence[tuple[str, Kind]]) -> list[Slot]:
        parts = self._parts
        shapes = {name: (parts[name].rows, parts[name].columns) for name, _kind in kinds}
        sizes = [Slot(name, 0, self._library.packed_bytes(kind, shapes[name]), *kind) for name, kind in kinds]
        return slots_of(self._key, sizes)


def _name(part: Part) -> str:
    """Unique within a stage: a stored tensor may hold several parts."""
    return f"{part.layer}.{part.tensor.name}.{part.expert}"


def _key(linears: Sequence[tuple[Part, Kind]], files: Sequence[Path]) -> str:
    """The same for the same weights in the same state, packed in the same way by the same library."""
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in (LIBRARY, *files)]
    made = [(part.name, part.begin_row, part.rows, part.columns, *kind) for part, kind in linears]
    digest = hashlib.sha256(msgspec.json.encode((states, made))).hexdigest()
    return f"{files[0].stem[:40]}-{digest[:24]}"
