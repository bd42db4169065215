"""Python's words for the interface are those of the header, and another library is refused."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from histrio.errors import BackendError
from histrio_cpu import abi
from histrio_cpu.build import LIBRARY, compilers
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import Library, load_library

HEADER = Path(abi.__file__).parents[1] / "native" / "histrio_cpu.h"
_PREFIXES = {
    "hc_status": ("HC_", abi.Status),
    "hc_format": ("HC_", abi.Format),
    "hc_storage": ("HC_", abi.Storage),
    "hc_activations": ("HC_ACT_", abi.Activations),
    "hc_kv_format": ("HC_KV_", abi.KvFormat),
    "hc_activation": ("HC_", abi.Activation),
    "hc_tensor": ("HC_", abi.Tensor),
    "hc_layer_flags": ("HC_", abi.LayerFlags),
}
_TYPES = {"uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32, "float": ctypes.c_float}


def test_every_number_of_the_header_is_the_same_in_python() -> None:
    found = {
        name: dict(re.findall(r"(HC_\w+) = (\d+)", body))
        for body, name in re.findall(r"typedef enum \{(.*?)\} (\w+);", HEADER.read_text(), re.DOTALL)
    }
    for name, (prefix, kind) in _PREFIXES.items():
        expected = {key.removeprefix(prefix): int(value) for key, value in found[name].items()}
        assert {each.name: each.value for each in kind} == expected, name

    assert {"RMS": 0, "LAYER": 1} == {each.name: each.value for each in abi.Norm}
    assert found["hc_norm"] == {"HC_RMS_NORM": "0", "HC_LAYER_NORM": "1"}
    assert f"#define HC_ABI {abi.ABI}" in HEADER.read_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("hc_stage_config", abi.StageConfig), ("hc_layer_config", abi.LayerConfig), ("hc_batch", abi.Batch)],
)
def test_every_field_of_a_struct_has_its_place(name: str, kind: type[ctypes.Structure]) -> None:
    bodies = re.findall(r"typedef struct \{(.*?)\} (\w+);", HEADER.read_text(), re.DOTALL)
    body = next(body for body, each in bodies if each == name)
    fields = re.findall(r"^\s*(?:const )?(\w+) (\*?)(\w+);", body, re.MULTILINE)

    expected = [(field, ctypes.c_void_p if star else _TYPES[word]) for word, star, field in fields]
    assert list(kind._fields_) == expected


def test_every_function_of_the_header_has_its_arguments() -> None:
    declared = re.findall(r"HC_API [\w ]+?\*?(hc_\w+)\(([^)]*)\)", HEADER.read_text())

    counts = {name: 0 if arguments == "void" else arguments.count(",") + 1 for name, arguments in declared}
    assert {name: len(arguments) for name, (_, arguments) in abi.FUNCTIONS.items()} == counts


def test_the_kernels_in_use_compute_what_the_plain_ones_do() -> None:
    library = load_library()
    assert library.kernels[-1] == "plain"
    for kernels in library.kernels:
        library.use(kernels, 1)
        library.self_test()
    library.use("auto", 1)
    with pytest.raises(BackendError, match="arch 'sse2'"):
        library.use("sse2", 1)


def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "other.cpp", tmp_path / LIBRARY.name
    source.write_text('extern "C" int hc_abi(void) { return 99; }')
    subprocess.run([*compilers()[0], "-shared", "-fPIC", str(source), "-o", str(target)], check=True)

    with pytest.raises(BackendError, match="version 99 of the interface, this package needs"):
        Library(target)
    assert Library(LIBRARY).kernels


def test_no_library_and_no_library_at_all_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"was not built; install g\+\+"):
        Library(tmp_path / LIBRARY.name)
    (tmp_path / LIBRARY.name).write_bytes(b"no library")
    with pytest.raises(BackendError, match="does not load"):
        Library(tmp_path / LIBRARY.name)

    load_library.cache_clear()
    monkeypatch.setattr("histrio_cpu.library.LIBRARY", tmp_path / "missing")
    probe = CpuFactory().probe()
    monkeypatch.undo()
    assert not probe.available
    assert "pip install ziglang" in probe.sentence
    assert CpuFactory().probe().available


def test_a_library_in_another_place_works_too(tmp_path: Path) -> None:
    shutil.copy(LIBRARY, tmp_path)
    assert Library(tmp_path / LIBRARY.name).kernels == load_library().kernels


def test_enumerations_are_whole_numbers() -> None:
    assert issubclass(abi.Tensor, IntEnum)
    assert ctypes.c_int32(abi.LayerFlags.PARALLEL | abi.LayerFlags.QK_NORM).value == 9
