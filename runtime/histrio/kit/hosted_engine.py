"""What is alike in engines of other projects: a loop in a thread, streams on it, processes that end with the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from histrio.contracts.engine_backend import EngineEvents
from histrio.errors import ContextLengthExceeded, EngineError, HistrioError
from histrio.kit.loop_thread import LoopThread
from histrio.kit.streams import Piece, Streams
from histrio.messages import Generate

__all__ = ["HostedEngine"]


class HostedEngine(ABC):
    """`histrio.contracts.engine_backend.EngineBackend` but for `open`, which ends with `_serve`."""

    title: ClassVar[str]
    """The other project's name, for texts."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._events: EngineEvents
        self._thread: LoopThread | None = None
        self._streams: Streams | None = None
        self._is_serving = False
        self._longest = 0
        """Most tokens of a prompt and its answer; `open` sets it."""

    def submit(self, command: Generate) -> None:
        """Start a stream. Raises `ContextLengthExceeded`."""
        assert self._thread is not None, "open() comes first"
        assert self._streams is not None
        if command.max_total_tokens > self._longest:
            num_tokens = command.max_total_tokens
            raise ContextLengthExceeded(f"the engine has room for {self._longest} tokens, not {num_tokens}")

        self._thread.call(self._streams.start, command)

    def abort(self, request: int) -> None:
        """Stop a stream, if it still runs."""
        assert self._thread is not None, "open() comes first"
        assert self._streams is not None
        self._thread.call(self._streams.abort, request)

    def close(self) -> None:
        """End the engine and its processes, then the loop. Safe to call twice."""
        self._is_serving = False
        thread, self._thread = self._thread, None
        if thread is None:
            return

        if self._engine is not None:
            self._shut_down(thread)
        thread.end_children()
        thread.stop()
        self._engine = self._streams = None

    def _serve(self, events: EngineEvents, start: Callable[[], Any]) -> None:
        """Make the engine with `start`, on the thread of the loop. Raises what `start` raises on purpose,
        and `EngineError` if the engine did not start: another try may find the device free."""
        self._events = events
        self._streams = Streams(events, self._generate, self._abort)
        thread = self._thread = LoopThread(self.title)

        def prepare() -> None:
            self._engine = start()
            thread.watch_children(lambda name: self._fail(f"{self.title}'s {name} ended"))

        events.progress(0.0, f"starting {self.title}")
        try:
            thread.start(prepare)
        except HistrioError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise EngineError(f"{self.title} did not start: {error} (what it wrote before says why)") from error

        self._is_serving = True
        events.progress(1.0, f"{self.title} runs")

    def _fail(self, text: str) -> None:
        """Tell once, from the loop, that the engine is broken; tell nothing where it was closed."""
        if self._is_serving:
            self._is_serving = False
            self._events.failed(text)

    @abstractmethod
    def _generate(self, command: Generate, name: str) -> AsyncIterator[Piece]:
        """Run a request under this name."""

    @abstractmethod
    def _abort(self, name: str) -> None:
        """Forget the request of this name, if it is known."""

    @abstractmethod
    def _shut_down(self, thread: LoopThread) -> None:
        """End the engine in its own way."""
