"""From the core's ragged batch to SGLang's.

SGLang finds a row's tokens through a table with one line per row: the slot of each of its tokens in the pool. Page p
of the core is the slots p × page_size to (p + 1) × page_size − 1. The table is made equal to the block tables before
each step, so it does not matter which rows are new, moved or shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from histrio.contracts.backend import StepBatch
from histrio_sglang.compat import bind_written_slots, forward_batch

__all__ = ["RowTable", "make_forward_batch"]


class RowTable:
    """SGLang's table of token slots, and on the host what it holds as pages."""

    def __init__(self, table: torch.Tensor, page_size: int) -> None:
        self._table = table
        self._page_size = page_size
        self._pages = np.zeros((table.shape[0], -(-table.shape[1] // page_size)), np.int64)

    def write(self, rows: npt.NDArray[np.int64], pages: npt.NDArray[np.int64]) -> None:
        """Make each row's line name its pages; only what has changed goes to the device."""
        known = self._pages[rows, : pages.shape[1]]
        index, column = np.nonzero(known != pages)
        if not len(index):
            return

        changed = pages[index, column]
        self._pages[rows[index], column] = changed
        within = np.arange(self._page_size)
        lines = np.repeat(rows[index], self._page_size)
        positions = (column[:, None] * self._page_size + within).ravel()
        slots = (changed[:, None] * self._page_size + within).ravel()
        fits = positions < self._table.shape[1]  # a row's longest length may end within a page
        where = torch.from_numpy(lines[fits]), torch.from_numpy(positions[fits])
        device = self._table.device
        self._table[where[0].to(device), where[1].to(device)] = torch.from_numpy(slots[fits]).to(self._table)


def make_forward_batch(runner: Any, batch: StepBatch, page_size: int) -> Any:
    """SGLang's batch of the step: a decode where every row has one token, else an extension of every row."""
    device = runner.device
    lengths = batch.starts.astype(np.int64) + batch.num_tokens
    is_decode = bool((batch.num_tokens == 1).all())
    has_several = bool((batch.num_sampled > 1).any())
    values: dict[str, Any] = {
        "forward_mode": ForwardMode.DECODE if is_decode else ForwardMode.EXTEND,
        "batch_size": batch.num_rows,
        "input_ids": _input_ids(batch).to(device),
        "req_pool_indices": torch.from_numpy(batch.slots.astype(np.int64)).to(device),
        "seq_lens": torch.from_numpy(lengths).to(device),
        "seq_lens_cpu": torch.from_numpy(lengths),
        "orig_seq_lens": torch.from_numpy(lengths.astype(np.int32)).to(device),
        "seq_lens_sum": int(lengths.sum()),
        "out_cache_loc": torch.from_numpy(_written_slots(batch, page_size)).to(device),
        "positions": torch.from_numpy(batch.positions).to(device),
        "return_logprob": False,
        "capture_hidden_mode": CaptureHiddenMode.FULL if has_several else CaptureHiddenMode.NULL,
        "spec_algorithm": SpeculativeAlgorithm.NONE,
        "global_num_token_non_padded_cpu": batch.total_tokens,
    }
    if not is_decode:
        values |= _extension(batch, device)
    made = forward_batch(runner, values)
    bind_written_slots(runner, made)
    return made


def _extension(batch: StepBatch, device: str) -> dict[str, Any]:
    """What tells the new tokens of each row from those it has already."""
    return {
        "extend_num_tokens": batch.total_tokens,
        "extend_seq_lens": torch.from_numpy(batch.num_tokens).to(device),
        "extend_prefix_lens": torch.from_numpy(batch.starts).to(device),
        "extend_start_loc": torch.from_numpy(batch.offsets[:-1].copy()).to(device),
        "extend_seq_lens_cpu": batch.num_tokens.tolist(),
        "extend_prefix_lens_cpu": batch.starts.tolist(),
        "extend_logprob_start_lens_cpu": batch.num_tokens.tolist(),
    }


def _input_ids(batch: StepBatch) -> torch.Tensor:
    """[tokens]; behind the first stage they are not read, but they have to be there."""
    if batch.token_ids is None:
        return torch.zeros(batch.total_tokens, dtype=torch.int64)

    return torch.from_numpy(batch.token_ids)


def _written_slots(batch: StepBatch, page_size: int) -> npt.NDArray[np.int64]:
    """[tokens] where the keys and values of the new tokens go."""
    row = np.repeat(np.arange(batch.num_rows), batch.num_tokens)
    page = batch.block_tables[row, batch.positions // page_size].astype(np.int64)
    return page * page_size + batch.positions % page_size
