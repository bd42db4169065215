"""SGLang's model runner for one range of layers. Imported when a stage opens, once the environment names its device."""

from __future__ import annotations

import gc
import logging
import socket
from pathlib import Path
from typing import Any

import torch
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel
from sglang.srt.layers.logits_processor import LogitsMetadata
from sglang.srt.model_executor.forward_batch_info import ForwardMode, PPProxyTensors
from sglang.srt.runtime_context import get_schedule, reset_context

from histrio.contracts.backend import ReplicaSize, StageSpec, StepBatch
from histrio.errors import DoesNotFit
from histrio_sglang.batch import RowTable, make_forward_batch
from histrio_sglang.compat import forget_rank, make_runner, publish, server_args
from histrio_sglang.options import StageOptions
from histrio_sglang.pages import bytes_per_token, copy_blocks
from histrio_sglang.virtual_rank import virtual_rank

__all__ = ["RangeRunner"]


class RangeRunner:
    """Weights, pages and attention of one stage."""

    def __init__(self, spec: StageSpec, options: StageOptions, folder: Path, device: torch.device, dtype: str) -> None:
        logging.getLogger("sglang").setLevel(logging.WARNING)
        self._options = options
        gpu_id = device.index or 0
        args = server_args(_settings(spec, options, folder, device, dtype))
        publish(args, gpu_id)
        rank = virtual_rank(spec)
        rank.announce()
        self._config = ModelConfig.from_server_args(args)
        try:
            self._runner: Any = make_runner(args, self._config, gpu_id, _free_port(), rank)
        except BaseException:
            _take_down()
            raise
        self._size: ReplicaSize | None = None
        self._rows: RowTable | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The number format of weights and hidden states."""
        dtype: torch.dtype = self._runner.dtype
        return dtype

    @property
    def param_bytes(self) -> int:
        """Bytes of the stage's weights."""
        return sum(weight.numel() * weight.element_size() for weight in self._runner.model.parameters())

    @property
    def token_bytes(self) -> int:
        """Bytes one token takes in the pool."""
        layers = self._runner.model.end_layer - self._runner.model.start_layer
        return bytes_per_token(self._config, layers, self._runner.dtype)

    def allocate(self, size: ReplicaSize) -> RowTable:
        """Make the pool and what attention needs, and tell which row has which pages; the same sizes keep all of it."""
        if self._rows is not None and size == self._size:
            return self._rows

        self._size = self._rows = None
        self._runner.req_to_token_pool = self._runner.token_to_kv_pool_allocator = None
        num_tokens = size.num_blocks * size.block_size
        with get_schedule().override(max_total_tokens=num_tokens, max_running_requests=size.max_slots):
            self._runner.alloc_memory_pool()
        if self._runner.max_total_num_tokens < num_tokens or self._runner.max_running_requests < size.max_slots:
            raise DoesNotFit(
                f"SGLang made room for {self._runner.max_total_num_tokens} tokens and "
                f"{self._runner.max_running_requests} rows; {num_tokens} and {size.max_slots} were planned: raise "
                "mem-fraction-static, or lower the number of pages"
            )

        self._runner.init_attention_backends()
        self._runner.init_cuda_graphs()
        self._rows = RowTable(self._runner.req_to_token_pool.req_to_token, size.block_size)
        self._size = size
        return self._rows

    def run(self, rows: RowTable, batch: StepBatch, hidden: torch.Tensor | None) -> Any:
        """SGLang's output of the step: proxies of hidden state and residual, or logits."""
        rows.write(batch.slots.astype("int64"), batch.block_tables.astype("int64"))
        forward = make_forward_batch(self._runner, batch, self._options.page_size)
        proxies = None
        if hidden is not None:
            proxies = PPProxyTensors({"hidden_states": hidden, "residual": torch.zeros_like(hidden)})
        output = self._runner.forward(forward, pp_proxy_tensors=proxies)
        return output.logits_output

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """[positions, hidden] behind the last norm → logits [positions, vocab]."""
        model = self._runner.model
        ids = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        logits: torch.Tensor = model.logits_processor(
            ids, states, model.lm_head, LogitsMetadata(forward_mode=ForwardMode.DECODE)
        ).next_token_logits
        return logits

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy pages in all layers."""
        copy_blocks(self._runner.token_to_kv_pool, src, dst, self._options.page_size)

    def close(self) -> None:
        """Free weights and pages; the process has room for another stage then."""
        self._runner = self._rows = None
        _take_down()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _settings(spec: StageSpec, options: StageOptions, folder: Path, device: torch.device, dtype: str) -> dict[str, Any]:
    """Of SGLang's server, so that it computes what it is told and nothing else."""
    attention = options.attention_backend or ("torch_native" if device.type == "cpu" else None)
    return {
        "model_path": str(folder),
        "skip_tokenizer_init": True,
        "device": device.type,
        "base_gpu_id": device.index or 0,
        "dtype": dtype,
        "context_length": spec.max_sequence_length,
        "attention_backend": attention,
        "moe_runner_backend": options.moe_runner_backend,
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "page_size": options.page_size,
        "max_running_requests": spec.sizes.max_batch_size,
        "mem_fraction_static": options.mem_fraction_static or spec.memory.param_mem_ratio + spec.block_mem_ratio,
        "chunked_prefill_size": -1,
        "disable_radix_cache": True,
        "disable_overlap_schedule": True,
        "disable_cuda_graph": not options.cuda_graphs,
        "disable_hybrid_swa_memory": True,
        "log_level": "warning",
    }


def _take_down() -> None:
    """End what SGLang keeps for the whole process: its groups and its configuration."""
    forget_rank()
    destroy_model_parallel()
    destroy_distributed_environment()
    reset_context()


def _free_port() -> int:
    """A free port for the rendezvous of a group that has one member."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
