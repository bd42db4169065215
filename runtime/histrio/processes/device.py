"""A device process: batching and kv, or stages, or both, or a whole engine, on a main thread that may block.

Its I/O thread never blocks. An actor that fails is made anew in its process. An engine ends with its process, because
histrio does not know what the engine has started; root starts another process.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from histrio.actors.directory import Directory
from histrio.actors.refs import ADMISSION, BATCHING, KV, METRICS, ROOT
from histrio.actors.supervisor import Child, end_process
from histrio.batching.actor import BatchingSpec
from histrio.errors import WireError
from histrio.messages import PROTOCOL_VERSION, ChildFailed, Hello
from histrio.net.endpoints import port_of
from histrio.net.io_thread import IoThread
from histrio.net.keys import LinkKeys
from histrio.plan.plans import StagePlan
from histrio.plan.process_names import FRONT
from histrio.plugins.registry import Plugins, installed_plugins
from histrio.processes.compose import (
    BatchingParts,
    Choosers,
    DeviceThread,
    batching_children,
    engine_child,
    stage_child,
)
from histrio.processes.device_placement import placed_stages
from histrio.processes.device_watch import DeviceWatch
from histrio.processes.logs import LogFormat, set_up_logs
from histrio.replica.lifecycle import LINK
from histrio.system.flight_record import record_in

__all__ = ["DeviceProcess", "prepare", "run_device_process"]

log = logging.getLogger(__name__)

_ANY_ADDRESS = "curve://0.0.0.0:0"


class DeviceProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process needs to know; travels as JSON."""

    process: str
    """Its name, with the count of incarnations: `engine.1`."""
    secret: str
    """The secret of the run: its processes know it, other programs do not."""
    stages: list[StagePlan]
    num_stages: int
    """Number of stages of the whole replica."""
    batching: BatchingSpec | None
    """Where batching and kv live; None elsewhere, and in a process with an engine."""
    log_format: LogFormat
    log_level: str
    endpoint: str = ""
    """Where it listens for others on its machine; empty: nowhere. This and what follows is the host's to say."""
    front_endpoint: str = ""
    record: str = ""
    """File of the record of `histrio.system.flight_record`."""
    keys: LinkKeys | None = None
    """With them it listens for processes of other machines, too."""

    @property
    def actors(self) -> list[str]:
        """Names of the actors it hosts, in the order of their supervision."""
        return [stage.actor for stage in self.stages] + ([KV, BATCHING] if self.batching is not None else [])

    @property
    def can_mend(self) -> bool:
        """Whether actors are made anew inside; an engine ends with its process."""
        return not any(stage.is_engine for stage in self.stages)


def prepare() -> None:
    """Load what every device process needs, before it is known what this one is to do."""
    installed_plugins()


def run_device_process(payload: Any) -> None:
    """Entry of a child process: run until told to stop, by SIGTERM or by the end of the parent."""
    spec = msgspec.convert(payload, DeviceProcess)
    set_up_logs(spec.process, log_format=spec.log_format, level=spec.log_level)
    directory = Directory(spec.process)
    directory.route({ROOT: FRONT, ADMISSION: FRONT, METRICS: FRONT})
    watch = DeviceWatch(spec.process)
    plugins = installed_plugins()
    device: DeviceThread | None = None

    def on_lost(peer: str) -> None:
        if peer == FRONT:
            os._exit(1)  # the front is gone, so no request is left
        directory.tell(ROOT, ChildFailed(LINK + peer, f"cannot be reached by {spec.process}"))

    links = IoThread(
        spec.process,
        spec.endpoint or None,
        directory.deliver,
        on_lost,
        secret=spec.secret,
        also=[_ANY_ADDRESS] if spec.keys is not None else [],
        keys=spec.keys,
    )
    directory.use(links)
    _open_files(spec, links)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        links.leave()
        if device is None:
            os._exit(0)  # a backend that is asked something would keep an exception from ending the process
        device.stop()
        if not device.has_loaded:
            sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        links.connect(FRONT, spec.front_endpoint, is_parent=True)
        port = port_of(links.also[0]) if links.also else 0
        directory.tell(ROOT, Hello(spec.process, os.getpid(), PROTOCOL_VERSION, port))
        links.beat(FRONT, watch.beat)
        spec = msgspec.structs.replace(spec, stages=placed_stages(spec.process, spec.stages, plugins, directory))
        children = _children(spec, plugins, directory, watch)
        device = DeviceThread(directory, children, end_process=end_process, can_mend=spec.can_mend)
        watch.dispatcher = device.dispatcher
        device.run()
    finally:
        links.close()


def _open_files(spec: DeviceProcess, links: IoThread) -> None:
    """Without links nothing can be told; the front learns of it by the exit code."""
    try:
        record_in(Path(spec.record))
        links.start()
    except (OSError, WireError) as error:
        log.error("%s", error)
        sys.exit(1)


def _children(spec: DeviceProcess, plugins: Plugins, directory: Directory, watch: DeviceWatch) -> list[Child]:
    """An engine, or stages first, then kv and batching, which are restarted when a stage of their process is."""
    children = []
    for stage in spec.stages:
        if stage.is_engine:
            return [engine_child(stage.spec, plugins.engine_backend(stage.backend), directory.tell)]
        child = stage_child(
            stage.index,
            stage.spec,
            plugins.stage_backend(stage.backend),
            Choosers.of(plugins),
            directory.tell,
            partial(watch.add, stage.index),
        )
        children.append(child)
    if spec.batching is not None:
        children += batching_children(directory.tell, spec.batching, BatchingParts.of(spec.batching, plugins))
    return children
