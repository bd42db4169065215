"""In place of SGLang's compiled kernels, for tests on a CPU: names can be imported, and raise when called.

SGLang imports kernels by name where it only uses them on other devices. One of them is needed: its engine records with
it where the tokens of a decode step are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def assign_req_to_token_pool_cpu(
    rows: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, slots: torch.Tensor, _width: int
) -> None:
    """Write each row's new token slots into `table[row, start:end]`."""
    taken = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = slots[taken : taken + end - start]
        taken += end - start


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"sgl_kernel.{name} is a stand-in for tests and computes nothing")

    return missing
