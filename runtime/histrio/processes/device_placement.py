"""A device process before it loads: it asks the backends of its stages, tells root, and waits for the placements."""

from __future__ import annotations

from typing import NoReturn

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor, ThreadDispatcher
from histrio.actors.refs import ROOT, ToProcess, process_ref, refuse
from histrio.messages import LoadStages, Machines, Message, Placement, Probed
from histrio.plan.plans import StagePlan
from histrio.plan.probe import ask_here
from histrio.plugins.registry import Plugins

__all__ = ["placed_stages"]


def placed_stages(process: str, stages: list[StagePlan], plugins: Plugins, directory: Directory) -> list[StagePlan]:
    """The stages as they are to be opened, in order. Blocks until root has settled where all stages run; imports array
    libraries, which loading needs anyway."""
    if not stages:
        return []

    dispatcher = ThreadDispatcher(_raise)
    waiting = _WaitsForPlacements(dispatcher)
    directory.host(process_ref(process), dispatcher, waiting)
    answers = [ask_here(stage.index, stage.backend, stage.spec, plugins) for stage in stages]
    directory.tell(ROOT, Probed(process, answers))
    dispatcher.run()
    return [stage.placed(placement) for stage, placement in zip(stages, waiting.placements, strict=True)]


class _WaitsForPlacements(Actor[ToProcess]):
    """The process itself, as root addresses it by its name."""

    def __init__(self, dispatcher: ThreadDispatcher) -> None:
        self.placements: list[Placement] = []
        self._dispatcher = dispatcher

    def receive(self, message: ToProcess) -> None:
        """The one message that it waits for."""
        match message:
            case LoadStages(placements):
                self.placements = placements
                self._dispatcher.stop()
            case Machines():  # its links have heard it
                pass
            case _:
                refuse("a process that has loaded nothing", message)


def _raise(_name: str, error: BaseException, _message: Message | None) -> NoReturn:
    """The process ends with it."""
    raise error
