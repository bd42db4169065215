"""SGLang's whole engine: its scheduler, its cache, its processes, behind the door of an engine backend.

SGLang's front part lives on an asyncio loop in a thread of its own, its scheduler in child processes. Started off the
main thread it installs no signal handlers; left to itself, it would kill all processes beside it as soon as a child has
died. Here a child's end is seen at its sentinel, and what SGLang reports to its parent (SIGQUIT) is taken as a failure.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import torch

from histrio.config.model_config import ModelConfig, read_model_config
from histrio.contracts.backend import Capability, StageSpec
from histrio.contracts.engine_backend import EngineEvents
from histrio.contracts.options import as_options
from histrio.errors import BackendError, RequestError
from histrio.kit.checkpoint import read_config, stage_dtype
from histrio.kit.hosted_engine import HostedEngine
from histrio.kit.loop_thread import LoopThread
from histrio.kit.streams import Piece
from histrio.kit.whole_models import check_engine
from histrio.messages import EngineCapacity, Generate
from histrio_sglang.engine_options import EngineOptions, SglangFields
from histrio_sglang.versions import check_version
from histrio_sglang.weights import weight_bytes
from histrio_torch.devices import choose_device, measure

__all__ = ["SglangEngine", "engine_settings", "sampling_params"]

_SPARE_POSITIONS = 6
"""SGLang takes no request that comes closer than this to its context length."""


class SglangEngine(HostedEngine):
    """Implements `histrio.contracts.engine_backend.EngineBackend`."""

    title: ClassVar[str] = "SGLang"

    def __init__(self) -> None:
        super().__init__()
        self._own_eos: set[int] = set()
        self._vocab_size = 0
        self._before: Any = None
        """Handler of SIGQUIT that `close` puts back."""

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        """Start SGLang's processes and wait for the weights. Raises `BackendError`, `ModelError` before anything runs,
        `EngineError` where SGLang did not start."""
        options = as_options(spec.options, EngineOptions, "options")
        check_version(force=options.force_version)
        check_engine(spec, "sglang-engine")
        device = choose_device(spec.device)
        model = read_model_config(Path(spec.model))
        settings = engine_settings(spec, options, device, model)
        self._vocab_size = model.vocab_size
        _set_environment(spec, device)
        self._before = signal.signal(signal.SIGQUIT, self._on_signal)
        self._serve(events, lambda: _start(settings))
        info = self._engine._scheduler_init_result.scheduler_infos[0]
        config = self._engine.tokenizer_manager.model_config
        self._own_eos = set(config.hf_eos_token_id or ())
        self._longest = min(spec.max_sequence_length, int(info["max_req_input_len"]))
        dtype, num_tokens = str(config.dtype).removeprefix("torch."), int(info["max_total_num_tokens"])
        return EngineCapacity(spec.sizes.max_batch_size, self._longest, num_tokens, dtype, [Capability.LOGPROBS])

    def submit(self, command: Generate) -> None:
        """Start a stream. Raises `RequestError` for biases of tokens that the model does not have."""
        beyond = [token for token in command.ask.sampling.get("logit_bias", {}) if int(token) >= self._vocab_size]
        if beyond:
            raise RequestError(f"the model has no token {beyond[0]}", param="logit_bias")

        super().submit(command)

    def close(self) -> None:
        """End SGLang's processes, then the loop. Safe to call twice."""
        if self._thread is not None:
            super().close()
            signal.signal(signal.SIGQUIT, self._before)

    async def _generate(self, command: Generate, name: str) -> AsyncIterator[Piece]:
        from sglang.srt.managers.io_struct import GenerateReqInput

        fields = msgspec.convert(command.ask.sampling, SglangFields)
        asked = GenerateReqInput(
            input_ids=command.ids,
            sampling_params=sampling_params(command, fields, self._own_eos),
            return_logprob=fields.logprobs,
            rid=name,
            stream=True,
            extra_key=command.ask.cache_salt or None,
        )
        async for said in self._engine.tokenizer_manager.generate_request(asked, None):
            yield _piece(said)

    def _abort(self, name: str) -> None:
        self._engine.tokenizer_manager.abort_request(rid=name)

    def _shut_down(self, thread: LoopThread) -> None:
        self._engine.shutdown()
        atexit.unregister(self._engine.shutdown)
        # Collected with messages for a dead scheduler, the context would wait for ever.
        thread.call(self._engine.tokenizer_manager.send_to_scheduler.context.destroy, 0)

    def _on_signal(self, _signum: int, _frame: object) -> None:
        """SGLang reports that a child failed. Between two instructions of the main thread: nothing is locked here."""
        if self._thread is not None:
            self._thread.call(self._fail, "a process of SGLang failed; what it wrote before says why")


def _start(settings: dict[str, Any]) -> Any:
    """The engine, its processes up; the log of this process stays as it is. Raises `BackendError` for settings."""
    from sglang.srt.entrypoints.engine import Engine

    from histrio_sglang.compat import server_args

    logging.getLogger("sglang").setLevel(logging.WARNING)
    try:
        arguments = server_args(settings)
    except (AssertionError, ValueError) as error:
        raise BackendError(f"SGLang refuses its settings: {error}") from error

    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        return Engine(server_args=arguments)
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def engine_settings(
    spec: StageSpec, options: EngineOptions, device: torch.device, model: ModelConfig
) -> dict[str, Any]:
    """`ServerArgs` of SGLang by name. Raises `DoesNotFit`."""
    is_cpu = device.type == "cpu"
    dtype = stage_dtype(spec, on_cpu=is_cpu)
    if options.tp_size == 1:
        measure(device).check_weights(weight_bytes(spec, dtype), spec)
    context_length = min(spec.max_sequence_length + _SPARE_POSITIONS, model.max_positions)
    chunk = max(spec.sizes.max_num_tokens_per_batch // options.page_size, 1) * options.page_size
    return {
        "model_path": spec.model,
        "skip_tokenizer_init": True,
        "incremental_streaming_output": True,
        "skip_server_warmup": True,
        "sleep_on_idle": True,
        "device": device.type,
        "base_gpu_id": device.index or 0,
        "dtype": dtype,
        "context_length": context_length,
        "attention_backend": options.attention_backend or ("torch_native" if is_cpu else None),
        "moe_runner_backend": options.moe_runner_backend,
        "sampling_backend": "pytorch" if is_cpu else None,
        "grammar_backend": "none",
        "tp_size": options.tp_size,
        "page_size": options.page_size,
        "max_running_requests": spec.sizes.max_batch_size,
        "max_total_tokens": _cache_tokens(spec, options, device, dtype),
        "mem_fraction_static": options.mem_fraction_static or spec.memory.param_mem_ratio + spec.block_mem_ratio,
        "chunked_prefill_size": chunk,
        "disable_overlap_schedule": is_cpu,
        "disable_cuda_graph": is_cpu or not options.cuda_graphs,
        "log_level": "error",
    }


def sampling_params(command: Generate, fields: SglangFields, own_eos: set[int]) -> dict[str, Any]:
    """What SGLang is asked for. It ends at `own_eos` and at what it is told, or, ignoring the former, at neither."""
    ends = set(command.ask.end_ids)
    is_told = own_eos <= ends
    return {
        "max_new_tokens": command.max_total_tokens - len(command.ids),
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": fields.top_k if fields.top_k > 0 else -1,
        "min_p": fields.min_p,
        "presence_penalty": fields.presence_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "logit_bias": fields.logit_bias or None,
        "ignore_eos": not is_told,
        "stop_token_ids": sorted(ends) if is_told else None,
    }


def _piece(said: dict[str, Any]) -> Piece:
    """New ids of a chunk; some releases repeat the earlier logprobs with it."""
    ids, about = said["output_ids"], said["meta_info"]
    logprobs = [entry[0] for entry in about.get("output_token_logprobs") or []][-len(ids) :] if ids else []
    reason = about["finish_reason"]
    ended = "" if reason is None else str(reason.get("message") or reason.get("matched") or reason["type"])
    return Piece(ids, logprobs, about.get("cached_tokens") or 0, ended)


def _set_environment(spec: StageSpec, device: torch.device) -> None:
    """Read while SGLang is imported, here and in its children."""
    os.environ["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
    if device.type != "cpu":
        return

    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    if spec.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(spec.threads)


def _cache_tokens(spec: StageSpec, options: EngineOptions, device: torch.device, dtype: str) -> int | None:
    """Tokens of the cache: as asked for; on a CPU what is useful and fits, elsewhere what SGLang measures."""
    if device.type != "cpu":
        return spec.sizes.num_cache_tokens

    config = read_config(Path(spec.model))
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    item_bytes = torch.float32.itemsize if dtype == "float32" else torch.bfloat16.itemsize
    num_tokens, page_size = spec.sizes.num_cache_tokens, options.page_size
    num_pages = None if num_tokens is None else math.ceil(num_tokens / page_size)
    sizes = msgspec.structs.replace(spec.sizes, kv_block_size=page_size, num_cache_blocks=num_pages)
    pages_spec = msgspec.structs.replace(spec, sizes=sizes)
    token_bytes = 2 * spec.num_layers * heads * width * item_bytes
    num_blocks = measure(device).max_blocks(token_bytes, pages_spec, [page_size])[page_size]
    return num_blocks * page_size
