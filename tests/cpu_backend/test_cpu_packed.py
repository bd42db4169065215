"""Packed weights on disk: a second start copies what the first one made, and trusts no file that is not just that."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.testing.chain import StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu import packed
from histrio_cpu.backend import CpuStage
from histrio_cpu.factory import CpuFactory
from histrio_cpu.packed import PackedFile, PackedWriter, cache_folder, slots_of
from histrio_torch.testing import make_model

SLOT = packed.Slot("a", 0, 1000, 8, 0)


@pytest.fixture(autouse=True)
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, for tiny models too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("histrio_cpu.packed_linears._FEWEST_BYTES", 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model("llama", tmp_path / "model", hidden_size=64)
    return tmp_path / "model"


@pytest.fixture
def says(model: Path) -> Callable[..., tuple[list[int], bool]]:
    """Greedy tokens of a start with these options, and whether it packed its weights itself."""

    def start(quantization: str = "q8", **options: Any) -> tuple[list[int], bool]:
        chain = StageChain(
            CpuFactory(), model, options=HarnessOptions(stage_options={"quantization": quantization, **options})
        )
        try:
            stage: Any = chain.hosts[0]
            assert isinstance(stage._opened, CpuStage)
            writer = stage._opened._native.writer
            if writer is not None:
                writer.wait()
            return chain.greedy([5, 6, 7], 8), writer is not None
        finally:
            chain.close()

    return start


@pytest.mark.parametrize("quantization", ["q8", "q4"])
def test_a_second_start_copies_what_the_first_one_made(says: Any, quantization: str) -> None:
    first, second = says(quantization), says(quantization)

    assert (first[1], second[1]) == (True, False)
    assert first[0] == second[0]
    (file,) = files()
    garbled = bytearray(file.read_bytes())
    garbled[len(garbled) // 2 :] = bytes(len(garbled) - len(garbled) // 2)
    file.write_bytes(garbled)
    assert says(quantization)[0] != first[0], "a control: the file is what is computed with"


def test_other_weights_and_other_roundings_have_other_files(says: Any, model: Path) -> None:
    said = says()[0]
    assert says("q4")[1]
    weights = model / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert says() == (said, True)
    assert len(files()) == 3


def test_weights_that_are_only_copied_are_not_kept(says: Any) -> None:
    assert not says("none")[1]
    assert not says("q8", **{"packed-cache-gib": 0.0})[1]
    assert files() == []


@pytest.mark.parametrize("change", ["empty", "cut", "longer", "header", "length", "foreign"])
def test_a_file_that_is_not_as_expected_is_made_anew(says: Any, change: str, caplog: pytest.LogCaptureFixture) -> None:
    said = says()[0]
    (file,) = files()
    content = file.read_bytes()
    at_header = len(packed._MAGIC) + 8 + 32 + 10
    file.write_bytes(
        {
            "empty": b"",
            "cut": content[:-1],
            "longer": content + b"\0",
            "header": content[:at_header] + b"#" + content[at_header + 1 :],
            "length": content[: len(packed._MAGIC)] + b"\xff" * 8 + content[len(packed._MAGIC) + 8 :],
            "foreign": b"of another program" * 100,
        }[change]
    )
    with caplog.at_level("INFO", "histrio_cpu.packed"):
        assert says() == (said, True)
    assert "is made anew" in caplog.text
    assert file.read_bytes() == content
    assert says() == (said, False), "a control"


def test_a_full_disk_or_a_folder_that_cannot_be_written_stops_no_start(
    says: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = says("none")[0]
    assert said
    monkeypatch.setattr(packed, "_SPARE_BYTES", 2**60)
    with caplog.at_level("INFO", "histrio_cpu.packed"):
        assert says()[1]
    assert "its disk is nearly full" in caplog.text
    assert files() == []
    cache_folder().rmdir()
    cache_folder().write_text("a file in the folder's place")
    with caplog.at_level("INFO", "histrio_cpu.packed"):
        assert says()[1]
    assert "packed weights are not kept in" in caplog.text


def test_files_that_were_used_least_recently_make_room(caplog: pytest.LogCaptureFixture) -> None:
    content = np.arange(1000, dtype=np.uint16).view(np.uint8)[:1000]
    slots = slots_of("a", [SLOT])
    for used_s, key in enumerate("abc"):
        PackedWriter(key, slots, lambda _slot: content, 10_000).wait()
        os.utime(cache_folder() / f"{key}.packed", (used_s, used_s))
    assert PackedFile.find("a", lambda _slots: slots) is not None, "and is used"
    size = files()[0].stat().st_size

    PackedWriter("d", slots, lambda _slot: content, 3 * size).wait()
    assert [file.stem for file in files()] == ["a", "c", "d"]
    found = PackedFile.find("d", lambda _slots: slots)
    assert found is not None
    assert (found.read(found.slots["a"]) == content).all()
    assert PackedFile.find("d", lambda _slots: []) is None, "a control: its layout is another one"
    with caplog.at_level("INFO", "histrio_cpu.packed"):
        PackedWriter("e", slots, lambda _slot: content, size - 1).wait()
    assert "more than packed-cache-gib" in caplog.text
    assert [file.stem for file in files()] == ["a", "c", "d"]


def test_a_stage_that_closes_gives_up_its_file() -> None:
    writers: list[PackedWriter] = []
    is_known = threading.Event()

    def read(_slot: packed.Slot) -> packed.Bytes:
        assert is_known.wait(20)
        writers[0]._is_stopping.set()
        return np.zeros(1000, np.uint8)

    writers.append(PackedWriter("a", slots_of("a", [SLOT]), read, 10_000))
    is_known.set()
    writers[0].close()
    assert [*cache_folder().iterdir()] == []


def files() -> list[Path]:
    """Of the cache, by name."""
    return sorted(cache_folder().glob("*.packed"))
