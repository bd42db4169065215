"""`histrio plan`: which machine would hold which layers of a model, before anything is started."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import get_args

from histrio.config.locate import locate_model
from histrio.config.model_config import read_model_config
from histrio.config.settings import MemorySettings
from histrio.config.weights import LayerBytes, read_layer_bytes
from histrio.errors import TopologyError
from histrio.hosts.layout import Aim, Layout, Link, Machine, ModelSize, lay_out
from histrio.kit.memory import describe_bytes

__all__ = ["COMMAND", "PlanCommand"]

_HOST = re.compile(r"(?P<name>[\w.-]+)=(?P<memory>\d+(?:\.\d+)?)(?P<unit>GiB|GB|G),(?P<speed>\d+(?:\.\d+)?)(?:GB/s)?")
_UNITS = {"GiB": 2**30, "G": 2**30, "GB": 10**9}


class PlanCommand:
    """Machines are described by hand: memory, and how fast they read it."""

    help = "show which machine would hold which layers of a model, and how fast that would be"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The model and the machines."""
        parser.add_argument("-m", "--model", required=True, help="a folder, a GGUF file, or an id of the hub")
        parser.add_argument(
            "--machine",
            action="append",
            required=True,
            metavar="NAME=16GiB,50GB/s",
            help="a machine, its memory and the rate at which it reads it; once for each",
        )
        parser.add_argument("--round-trip-ms", type=float, default=0.5, help="between two machines (default: 0.5)")
        parser.add_argument("--megabits", type=float, default=1000.0, help="of a link, per second (default: 1000)")
        parser.add_argument("--aim", choices=get_args(Aim), default="throughput", help="default: throughput")
        parser.add_argument("--replicas", type=int, help="most replicas (default: as many as there is room for)")

    def run(self, options: Namespace) -> int:
        """Print the layout. Raises `DoesNotFit` with the bytes that are missing."""
        share = MemorySettings().param_mem_ratio
        machines = [_machine(text, share) for text in options.machine]
        folder = locate_model(options.model)
        config = read_model_config(folder)
        sizes = read_layer_bytes(folder, config.num_layers)
        link = Link(round_trip_s=options.round_trip_ms / 1e3, bytes_per_s=options.megabits * 1e6 / 8)
        layout = lay_out(
            _model_size(sizes), machines, lambda _one, _other: link, aim=options.aim, most_replicas=options.replicas
        )
        print("\n".join(_describe(layout, share)))
        return 0


COMMAND = PlanCommand()


def _machine(text: str, share: float) -> Machine:
    found = _HOST.fullmatch(text)
    if found is None:
        raise TopologyError("--machine", f"{text[:60]!r} must read NAME=16GiB,50GB/s: memory, and bytes per second")
    return Machine(
        name=found["name"],
        memory_bytes=int(float(found["memory"]) * _UNITS[found["unit"]] * share),
        bytes_per_s=max(float(found["speed"]), 0.001) * 1e9,
    )


def _model_size(sizes: LayerBytes) -> ModelSize:
    return ModelSize(
        layers=sizes.layers, first=sizes.embedding, last=sizes.head + (sizes.embedding if sizes.is_tied else 0)
    )


def _describe(layout: Layout, share: float) -> Iterator[str]:
    for index, chain in enumerate(layout.replicas):
        yield f"replica {index}"
        for each in chain:
            left = each.machine.memory_bytes - each.num_bytes
            yield (
                f"  {each.machine.name:<16} layers {each.first}:{each.end:<4} weights "
                f"{describe_bytes(each.num_bytes):>9}, {describe_bytes(left):>9} left"
            )
    if layout.spare:
        yield "spare: " + ", ".join(machine.name for machine in layout.spare)
    yield f"memory is what param-mem-ratio {share:g} leaves for weights"
    yield f"one request: {1 / layout.token_s:.1f} tokens/s; a batch: {layout.steps_per_s:.1f} steps/s in all"
