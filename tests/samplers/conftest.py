"""Array namespaces that every sampler test runs on, and ways to run samplers by themselves and as a chain."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from histrio.contracts.backend import ArrayNamespace
from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import LogitsRows, Observer, Opening, Sampler
from histrio.stage.sampling.numpy_arrays import NumpyArrays

Fields: TypeAlias = dict[str, Any]
Floats: TypeAlias = npt.NDArray[np.float32]


@pytest.fixture(params=["numpy", "torch", "mlx"])
def xp(request: pytest.FixtureRequest) -> ArrayNamespace:
    """Numpy, torch on the CPU, and MLX where it is installed."""
    if request.param == "torch":
        from histrio_torch.arrays import TorchArrays

        return TorchArrays("cpu")
    if request.param == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
        from histrio_mlx.arrays import MlxArrays

        return MlxArrays()
    return NumpyArrays()


def run_samplers(
    xp: ArrayNamespace,
    kinds: Sequence[type[Sampler]],
    logits: Floats,
    fields: Sequence[Fields],
    *,
    ids: Sequence[Sequence[int]] = (),
    num_prompt_tokens: Sequence[int] = (),
    observed: Sequence[Sequence[int]] = (),
    drafts: Sequence[Sequence[int]] = (),
    end_ids: Sequence[int] = (),
    seeds: Sequence[int] = (),
) -> Floats:
    """Row r of the logits after the samplers with `fields[r]`, each row a sequence, all of them in one batch."""
    table, all_slots = FieldTable(kinds), range(len(fields))
    slots = np.array(all_slots)
    known = [list(ids[slot]) if ids else [] for slot in all_slots]
    lengths = [len(known[slot]) + len(observed[slot] if observed else ()) for slot in all_slots]
    positions = np.array([lengths[slot] + len(drafts[slot] if drafts else ()) for slot in all_slots])
    keys = np.array(seeds or [0] * len(slots), np.uint64)
    rows = LogitsRows(slots, positions, keys, np.zeros(len(slots), np.uint32), drafts)
    array = xp.asarray(logits.copy())
    for kind in kinds:
        sampler = kind(max_slots=len(fields))
        wants = []
        for slot in slots.tolist():
            prompt = num_prompt_tokens[slot] if num_prompt_tokens else len(known[slot])
            opening = Opening(known[slot], prompt, end_ids)
            wants.append(sampler.open(slot, table.params(kind, fields[slot]), opening))
            if wants[-1] and observed and isinstance(sampler, Observer):
                new = np.array(observed[slot], np.int64)
                sampler.observe(np.full(len(new), slot), new, np.full(len(new), 0.5, np.float32))
        if any(wants):
            array = sampler.apply(xp, array, rows)
    return xp.to_host(array)


@pytest.fixture
def shape() -> Callable[..., Floats]:
    """`run_samplers`."""
    return run_samplers
