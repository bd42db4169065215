"""vLLM's whole engine behind the door of an engine backend; its core runs in a child process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from histrio.config.model_config import read_model_config
from histrio.contracts.backend import Capability, StageSpec
from histrio.contracts.engine_backend import EngineEvents
from histrio.contracts.options import as_options
from histrio.kit.checkpoint import stage_dtype
from histrio.kit.hosted_engine import HostedEngine
from histrio.kit.loop_thread import LoopThread
from histrio.kit.streams import Piece
from histrio.kit.whole_models import check_engine
from histrio.messages import EngineCapacity, Generate
from histrio_torch.devices import choose_device
from histrio_vllm.options import VllmFields, VllmOptions

__all__ = ["VllmEngine"]


class VllmEngine(HostedEngine):
    """Implements `histrio.contracts.engine_backend.EngineBackend`."""

    title: ClassVar[str] = "vLLM"

    def __init__(self) -> None:
        super().__init__()
        self._aborts: set[asyncio.Task[None]] = set()

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        """Start vLLM and wait for the weights. Raises `BackendError`, `ModelError`, `EngineError`."""
        options = as_options(spec.options, VllmOptions, "options")
        check_engine(spec, "vllm")
        model = read_model_config(Path(spec.model))
        self._longest = longest = min(spec.max_sequence_length, model.max_positions)
        dtype = stage_dtype(spec, on_cpu=choose_device(spec.device).type == "cpu")
        if dtype == "auto":
            # vLLM's own auto makes float16 of float32
            dtype = model.dtype or dtype
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        self._serve(events, lambda: _start(_settings(spec, options, dtype, longest)))
        config = self._engine.vllm_config
        num_tokens = int(config.cache_config.num_gpu_blocks) * int(config.cache_config.block_size)
        dtype = str(config.model_config.dtype).removeprefix("torch.")
        return EngineCapacity(spec.sizes.max_batch_size, longest, num_tokens, dtype, [Capability.LOGPROBS])

    async def _generate(self, command: Generate, name: str) -> AsyncIterator[Piece]:
        prompt: dict[str, Any] = {"prompt_token_ids": command.ids}
        if command.ask.cache_salt:
            prompt["cache_salt"] = command.ask.cache_salt
        async for said in self._engine.generate(prompt, _sampling_params(command), name):
            yield _piece(said)

    def _abort(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._engine.abort(name))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    def _shut_down(self, thread: LoopThread) -> None:
        self._engine.shutdown()


def _start(settings: dict[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))


def _settings(spec: StageSpec, options: VllmOptions, dtype: str, longest: int) -> dict[str, Any]:
    """Arguments of vLLM's engine by name."""
    num_tokens = spec.sizes.num_cache_tokens
    num_blocks = None if num_tokens is None else -(-num_tokens // options.block_size)
    return {
        "model": spec.model,
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": longest,
        "max_num_seqs": spec.sizes.max_batch_size,
        "max_num_batched_tokens": max(spec.sizes.max_num_tokens_per_batch, longest),
        "block_size": options.block_size,
        "num_gpu_blocks_override": num_blocks,
        "tensor_parallel_size": options.tp_size,
        "gpu_memory_utilization": options.mem_fraction_static or spec.memory.param_mem_ratio + spec.block_mem_ratio,
        "enforce_eager": options.enforce_eager,
        "disable_log_stats": True,
    }


def _sampling_params(command: Generate) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    fields = msgspec.convert(command.ask.sampling, VllmFields)
    given = {name: getattr(fields, name) for name in VllmFields.__struct_fields__}
    given["logit_bias"] = {int(token): bias for token, bias in fields.logit_bias.items()} or None
    given["logprobs"] = 0 if fields.logprobs else None
    return SamplingParams(
        **given,
        max_tokens=command.max_total_tokens - len(command.ids),
        ignore_eos=True,
        stop_token_ids=command.ask.end_ids,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _piece(said: Any) -> Piece:
    output = said.outputs[0]
    ids = list(output.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, output.logprobs or [], strict=False)]
    return Piece(ids, logprobs, said.num_cached_tokens or 0, output.finish_reason or "")
