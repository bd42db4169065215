"""Two stages in two processes, served by real stage actors over ZeroMQ, say the tokens of the whole in one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest

from histrio.contracts.backend import Capability
from histrio.contracts.gateway import Submission
from histrio.messages import Ask
from histrio.plugins.registry import installed_plugins
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.replay import Trace
from histrio.testing.conformance.subject import StageSubject
from histrio.testing.harness import serving_with
from histrio.testing.workers import StageWorkers

_CHUNK = 16


@pytest.fixture(scope="session")
def workers() -> Iterator[StageWorkers]:
    """Two processes for all models of the run."""
    with StageWorkers(2) as running:
        yield running


@needs(Capability.BATCH)
def test_stage_actors_in_two_processes_equal_the_whole(subject: StageSubject, request: pytest.FixtureRequest) -> None:
    if subject.kit.name not in installed_plugins().backends:
        pytest.skip("the backend is not registered by an entry point, so that other processes cannot find it")
    if subject.model.num_layers < 2:
        pytest.skip("a model of one layer is one stage")

    workers: StageWorkers = request.getfixturevalue("workers")
    traces = subject.traces(min(4, subject.num_rows))
    got = anyio.run(served, subject, workers, traces)
    assert got == [trace.tokens for trace in traces]
    assert got[0] != traces[1].tokens, "a control: another prompt gives other tokens"


async def served(subject: StageSubject, workers: StageWorkers, traces: list[Trace]) -> list[list[int]]:
    """The greedy tokens of all traces' prompts, asked for at once."""
    got: dict[int, list[int]] = {}
    options = replace(subject.options, chunked_prefill_size=_CHUNK, max_num_tokens_per_batch=64)
    run_stages = workers.runner(subject.kit.name, options.batching)
    cut = (subject.model.num_layers // 2,)
    async with serving_with(
        run_stages, subject.model.folder, samplers=[], cuts=cut, options=options, process="driver"
    ) as harness:

        async def one(row: int) -> None:
            trace = traces[row]
            submission = Submission(trace.prompt, len(trace.tokens), Ask({"temperature": 0.0}))
            got[row], _ = await harness.run(submission)

        async with anyio.create_task_group() as tasks:
            for row in range(len(traces)):
                tasks.start_soon(one, row)
    return [got[row] for row in range(len(traces))]
