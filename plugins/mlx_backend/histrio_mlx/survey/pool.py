"""Runs families in a process of their own, so that one that crashes it takes no other with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from histrio_mlx.families import Family

__all__ = ["survey"]


def survey(names: list[str], run: Callable[[str], Family] | None = None) -> Iterator[tuple[str, Family]]:
    """Each name with the verdict of `run`, in order. After a crash the rest goes on in a new process."""
    names, run = list(names), run or _run
    while names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                while names:
                    yield names[0], pool.submit(run, names[0]).result()
                    names.pop(0)
            except BrokenProcessPool:
                yield names.pop(0), Family(reason="the process crashed while it ran")


def _run(name: str) -> Family:
    from histrio_mlx.survey.checks import survey_family
    from histrio_mlx.survey.judge import judged_family
    from histrio_mlx.survey.tiny import configs

    verdict = survey_family(name, configs()[name])
    return judged_family(name, verdict) if verdict.runs else verdict
