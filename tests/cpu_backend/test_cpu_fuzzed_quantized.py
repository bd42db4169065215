"""Quantized checkpoints of strangers: whatever their pieces and settings are, they load or are refused in words."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.errors import BackendError, ModelError
from histrio.testing.models import write_safetensors
from histrio.testing.quantized_models import LAYOUTS
from histrio_cpu.factory import CpuFactory
from tests.cpu_backend.test_cpu_quantized import spec, write

NUM_FUZZED, NUM_FUZZED_THOROUGH = 12, 600
"""For each layout."""
_ODD: tuple[Any, ...] = (None, 0, -1, 3, 2**40, 0.5, True, "", "gptq", [], [0, 0], [128], {}, {"a": {"weights": None}})

Tensors = dict[str, tuple[str, Any]]
"""Name → number format, and the bytes of each number [shape…, bytes]."""


def read(file: Path) -> Tensors:
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    found: Tensors = {}
    for name, each in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, end = each["data_offsets"]
            bits = np.frombuffer(data[begin + first : begin + end], np.uint8)
            found[name] = each["dtype"], bits.reshape(*each["shape"], -1)
    return found


def changed(choice: random.Random, tensors: Tensors) -> Tensors:
    """One to three pieces of quantized matrices in another shape, of another kind, under another name, or not there."""
    found = dict(tensors)
    for _ in range(choice.randint(1, 3)):
        name = choice.choice([each for each in found if "_proj" in each] or list(found))
        form, array = found.pop(name)
        shape = array.shape[:-1]
        match choice.randrange(6):
            case 0:
                found[name] = form, array.reshape(*shape[::-1], array.shape[-1])
            case 1:
                found[name] = form, array.reshape(math.prod(shape), array.shape[-1])
            case 2:
                found[name] = form, array[: choice.randint(0, len(array))] if shape else array
            case 3:
                found[name] = choice.choice(["I32", "F32", "U32"]), array if array.shape[-1] == 4 else array[..., :0]
            case 4:
                last = choice.choice(["weight", "g_idx", "scales", "weight_scale"])
                found[f"{name.rpartition('.')[0]}.{last}"] = form, array
            case _:
                pass
    return found


def save(folder: Path, tensors: Tensors) -> None:
    wide = {0: np.uint8, 1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    arrays = {}
    for name, (_, array) in tensors.items():
        num_bytes = array.shape[-1]
        shape = array.shape[:-1] if num_bytes else (*array.shape[:1], 0)
        arrays[name] = np.ascontiguousarray(array).view(wide[num_bytes]).reshape(shape)
    write_safetensors(folder / "model.safetensors", arrays, {name: form for name, (form, _) in tensors.items()})


def attempt(folder: Path) -> str | None:
    """What is said of the checkpoint; None where it loads."""
    try:
        probe = CpuFactory().supports(spec(folder))
        if not probe.available:
            return probe.reason
        CpuFactory().open(spec(folder), lambda done, text: None).close()
    except (BackendError, ModelError) as error:
        return str(error)
    return None


def fuzz(layout: str, tmp_path: Path, seed: int, count: int) -> int:
    """How many of the changed checkpoints are refused; each is that or loads, and nothing else happens."""
    folder, _ = write(tmp_path, layout, "llama")
    choice, tensors = random.Random(seed), read(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    key = "quantization" if layout.startswith("mlx") else "quantization_config"
    num_refused = 0
    for _ in range(count):
        settings = dict(config[key])
        if choice.random() < 0.5:
            settings[choice.choice([*settings, "mode", "weight_block_size", "checkpoint_format"])] = choice.choice(_ODD)
        (folder / "config.json").write_text(json.dumps(config | {key: settings}))
        save(folder, changed(choice, tensors) if choice.random() < 0.8 else tensors)
        said = attempt(folder)
        assert said is None or ("\n" not in said and 10 < len(said) < 700)
        num_refused += said is not None
    return num_refused


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_pieces_and_settings_load_or_are_refused(layout: str, tmp_path: Path) -> None:
    assert 0 < fuzz(layout, tmp_path, 1, NUM_FUZZED) <= NUM_FUZZED


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_changed_pieces_and_settings_load_or_are_refused(layout: str, tmp_path: Path) -> None:
    assert NUM_FUZZED_THOROUGH // 2 < fuzz(layout, tmp_path, 2, NUM_FUZZED_THOROUGH) < NUM_FUZZED_THOROUGH
