"""Tables of rotary positions that depend on the longest sequence, against transformers' own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from histrio.errors import UnsupportedModel
from histrio_cpu.rope import RopeShape, make_table

HEAD_DIM, ORIGINAL = 64, 128
SETTINGS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "longrope": {
        **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": ORIGINAL},
        **{"short_factor": [1.0 + 0.01 * i for i in range(24)], "long_factor": [2.0 + 0.1 * i for i in range(24)]},
        "partial_rotary_factor": 0.75,
    },
}


@pytest.mark.parametrize("length", [64, 128, 129, 512])
@pytest.mark.parametrize("kind", SETTINGS)
def test_tables_are_transformers_for_the_longest_sequence(kind: str, length: int) -> None:
    settings = SETTINGS[kind]
    most = ORIGINAL if kind == "dynamic" else 4 * ORIGINAL
    config = LlamaConfig(
        hidden_size=4 * HEAD_DIM, num_attention_heads=4, max_position_embeddings=most, rope_parameters=dict(settings)
    )
    expected, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    table = make_table(settings, RopeShape(HEAD_DIM, most, length))
    other = make_table(settings, RopeShape(HEAD_DIM, most, 64 if length > ORIGINAL else 4 * length + 1))

    assert np.allclose(table.inverse_frequencies, expected.numpy(), rtol=2e-6)
    assert table.scale == pytest.approx(scale)
    assert not np.allclose(other.inverse_frequencies, expected.numpy(), rtol=1e-3)


def test_what_is_called_dynamic_and_is_not_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'dynamic'"):
        make_table({**SETTINGS["dynamic"], "alpha": 1000.0}, RopeShape(HEAD_DIM, ORIGINAL, 512))
