"""What differs between releases of SGLang 0.5.17 to 0.5.23, found by looking at what is there, never at the version.

Nothing of SGLang is replaced. Imported only when a stage opens: SGLang takes ten seconds to import.
"""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

from sglang.srt import runtime_context
from sglang.srt.distributed import parallel_state
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.server_args import ServerArgs

from histrio_sglang.virtual_rank import VirtualGroup, VirtualRank

__all__ = ["bind_written_slots", "forget_rank", "forward_batch", "make_runner", "publish", "server_args"]

_HAS_PARALLEL_STATE = "ps" in inspect.signature(ModelRunner.__init__).parameters
"""Up to 0.5.20 the runner builds the process groups, and its ranks come in one object."""


def server_args(settings: dict[str, Any]) -> Any:
    """`ServerArgs` of those settings that this release has."""
    known = inspect.signature(ServerArgs).parameters
    return ServerArgs(**{name: value for name, value in settings.items() if name in known})


def publish(args: Any, gpu_id: int) -> None:
    """Make `args` the configuration of this process."""
    ranks = {}
    if hasattr(runtime_context, "SpawnRanks"):
        ranks = {"ranks": runtime_context.SpawnRanks(world_rank=0, gpu_id=gpu_id)}
    runtime_context.publish(args, role="scheduler", **ranks)


def make_runner(args: Any, model_config: Any, gpu_id: int, port: int, rank: VirtualRank) -> Any:
    """A model runner of this rank, its weights loaded."""
    arguments: dict[str, Any] = {
        "model_config": model_config,
        "mem_fraction_static": args.mem_fraction_static,
        "gpu_id": gpu_id,
        "nccl_port": port,
        "server_args": args,
    }
    if _HAS_PARALLEL_STATE:
        from sglang.srt.distributed.parallel_state_wrapper import ParallelState

        arguments["ps"] = ParallelState.trivial(gpu_id=gpu_id)
    else:
        from sglang.srt.distributed import bootstrap

        bootstrap.init_parallel_runtime(server_args=args, device=args.device, dist_port=port)
        bootstrap.init_layer_runtime(model_config=model_config)
    return _stage_runner(rank)(**arguments)


def forward_batch(runner: Any, values: dict[str, Any]) -> Any:
    """`ForwardBatch` of those values that this release has; up to 0.5.17 it also carries the runner's pools."""
    handles = {
        "req_to_token_pool": runner.req_to_token_pool,
        "token_to_kv_pool": runner.token_to_kv_pool,
        "attn_backend": runner.attn_backend,
    }
    known = {field.name for field in fields(ForwardBatch)}
    return ForwardBatch(**{name: value for name, value in {**handles, **values}.items() if name in known})


def bind_written_slots(runner: Any, batch: Any) -> None:
    """Say where the step's keys and values are written, in the form this release wants."""
    translator: Any = getattr(runner, "kv_index_translator", None)
    if hasattr(translator, "own_plan"):
        translator.own_plan(batch).bind(batch, translator)
    elif hasattr(translator, "rebind_write_loc"):
        translator.rebind_write_loc(batch)


def forget_rank() -> None:
    """Give SGLang its real pipeline group back, so that it can take its groups down."""
    group = parallel_state._PP
    if isinstance(group, VirtualGroup):
        parallel_state._PP = group.real


def _stage_runner(rank: VirtualRank) -> type[Any]:
    """A runner that takes its rank once the groups are there, and before its model is built."""

    class StageRunner(ModelRunner):  # type: ignore[misc]
        def init_torch_distributed(self) -> None:
            super().init_torch_distributed()
            _take_rank(self, rank)

    return StageRunner


def _take_rank(runner: Any, rank: VirtualRank) -> None:
    group = VirtualGroup(runner.pp_group, rank)
    runner.pp_group = group
    if not _HAS_PARALLEL_STATE:
        runtime_context.get_parallel().override_permanently(pp_size=rank.size, pp_rank=rank.rank, pp_group=group)
        return

    parallel_state._PP = group
    runner.ps = replace(runner.ps, pp_rank=rank.rank, pp_size=rank.size)
