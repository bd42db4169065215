"""A real `rt-launch` for end-to-end tests: started on a free port, looked after, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["LaunchedServer", "free_port"]

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class LaunchedServer:
    """`rt-launch` as an own process; use it as a context manager.

    `within` is a command that runs the one that follows it in its own place, such as `prlimit --as=N`. Raises
    AssertionError with the end of its log if it does not become ready.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        env: dict[str, str] | None = None,
        port: int | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.port = free_port() if port is None else port
        self.log = log
        command = [*within, sys.executable, "-m", "histrio.cli", *arguments, "--port", str(self.port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )

    @property
    def base_url(self) -> str:
        """Root of the endpoint, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LaunchedServer:
        try:
            self.wait_ready()
        except BaseException:  # also what a test's time limit raises: nothing may stay behind
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def health(self) -> int:
        """Status of /health; 0 where no server answers."""
        try:
            with urllib.request.urlopen(f"{self.base_url}/health", timeout=5.0) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def wait_ready(self) -> None:
        """Wait until /health answers 200."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self.health() != 200:
            is_alive = self.process.poll() is None
            if not is_alive or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the server did not become ready:\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def stop(self) -> int:
        """Ctrl-C, then wait; its exit status. Kills it if it takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop within {_STOP_TIMEOUT_S} s:\n{self.log_tail()}") from None
