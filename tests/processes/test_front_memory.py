"""A front without memory loses messages: it ends with one clear error instead of leaving streams to wait for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.errors import EngineError
from histrio.messages import Ask, RequestState
from histrio.processes import root as root_module
from histrio.processes.front import NO_MEMORY
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("error", "is_the_end"), [(MemoryError(), True), (ValueError("a bug"), False)])
async def test_an_actor_without_memory_ends_the_front(tmp_path: Path, error: Exception, is_the_end: bool) -> None:
    options = HarnessOptions(stage_options={"step-s": 0.01})
    async with serving(write_toy_model(tmp_path / "toy"), ToyFactory(), samplers=[], options=options) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2, 3], 50, Ask(eos_ids=[])))
        harness.front.dispatcher._on_failure("metrics", error, None)
        with anyio.fail_after(15.0):
            states = [delta.state async for delta in stream]
        assert (states[-1] is RequestState.ERROR) == is_the_end
        assert (str(harness.front.root.failure) == NO_MEMORY) == is_the_end


def test_a_task_without_memory_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise BaseExceptionGroup("tasks", [ValueError("what went down with it"), ExceptionGroup("", [MemoryError()])])

    monkeypatch.setattr(root_module, "_Root", lambda *_arguments: root_module)
    monkeypatch.setattr(anyio, "run", fail)
    with pytest.raises(EngineError, match="the front has no memory left"):
        root_module.run(None)  # type: ignore[arg-type]
