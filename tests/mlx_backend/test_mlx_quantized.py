"""Quantized checkpoints run as mlx-lm itself runs them, whole and split, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from histrio.messages import Tensor
from histrio.testing.chain import ChainRow
from histrio_mlx.testing import MlxChain, quantize

MODES: dict[str, dict[str, Any]] = {
    "affine4": {"group_size": 32, "bits": 4, "mode": "affine"},
    "affine8": {"group_size": 64, "bits": 8, "mode": "affine"},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "nvfp4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    "mxfp8": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
}
IDS = list(range(3, 24))


CASES = [*(("llama", mode) for mode in MODES), ("qwen3", "affine4"), ("qwen3_moe", "mxfp4")]


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_every_mode_is_the_same_whole_and_split(
    family: str, mode: str, mlx_model: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = mlx_model(family)
    stock = quantize(tiny.folder, tmp_path, MODES[mode])
    expected = np.array(stock(mx.array([IDS]))[0])
    sizes = []
    for cuts in ((), (1,), (2,), (3,), (1, 2, 3)):
        chain = MlxChain(tmp_path, cuts)
        logits = np.array(chain.step([ChainRow(0, IDS, len(IDS))]))
        np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
        sizes.append(sum(capacity.param_bytes for capacity in chain.capacities))
        chain.close()

    chain = MlxChain(tmp_path, (2,))
    chain.disturb = _one_percent_more
    disturbed = np.array(chain.step([ChainRow(0, IDS, len(IDS))]))
    chain.close()
    plain = MlxChain(tiny.folder)
    unquantized = np.array(plain.step([ChainRow(0, IDS, len(IDS))]))
    assert np.abs(disturbed - expected).max() > 1e-3 * np.abs(expected).max(), "a control: the split carries the stream"
    assert np.abs(unquantized - expected).max() > 1e-4 * np.abs(expected).max(), "a control: the mode rounds"
    assert sizes[0] < 0.5 * plain.capacities[0].param_bytes, "weights stay packed"
    plain.close()


def _one_percent_more(tensor: Tensor) -> Tensor:
    values = np.frombuffer(tensor.data, np.float32).copy()
    values[::2] *= 1.01
    return Tensor(tensor.dtype, tensor.shape, values)
