"""`python -m histrio.children.child [PREPARE]`: the main program of every child process.

`PREPARE` is `module:function`, which the child calls before it reads its order: what is imported there is there then.
The parent writes one line to its standard input, a `ChildSpec` as JSON, and keeps the pipe open as the child's life
line. When it closes, the parent is gone: the child gets SIGTERM, which an entry may take as its order to stop, and 2 s
later it ends in any case.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

try:
    import msgspec
except ImportError as error:  # a stage's own environment that lacks what the core needs
    sys.exit(f"{sys.executable} has no working histrio: {error}")

__all__ = ["PARENT_GONE", "ChildSpec", "main"]

PARENT_GONE = 75
"""Exit code of a child that did not stop in order after its life line was cut."""

_GRACE_S = 2.0
_SWITCH_INTERVAL_S = 0.0005
"""How long computing Python code may keep the I/O thread waiting; Python's own 5 ms doubles a round trip's mean."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class ChildSpec(msgspec.Struct, frozen=True):
    """What a child process is to do."""

    entry: str
    """`module:function`; called on the main thread, the process ends when it returns."""
    payload: Any = None
    """The function's only argument: JSON values."""
    name: str = "child"
    """The process's name in `ps`, `top` and error messages."""


def main() -> None:
    """Read the spec from standard input and carry it out. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    life_line = _take_stdin()
    for entry in sys.argv[1:2]:
        with suppress(Exception):  # the order needs the same, and tells what is wrong with it
            _resolve(entry)()
    line = _read_line(life_line)
    if line is None:
        # No message if the parent has closed the pipe already, which happens when everything ends.
        sys.exit(
            "histrio.children.child is started by rt-launch, which tells it what to do" if os.isatty(life_line) else 1
        )

    spec = msgspec.json.decode(line, type=ChildSpec)
    _tell_kernel(spec.name)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    threading.Thread(target=_watch, args=(life_line,), name="life-line", daemon=True).start()
    _end(_carry_out(spec))


def _carry_out(spec: ChildSpec) -> int:
    """Run the entry; returns the exit code of the process."""
    try:
        _resolve(spec.entry)(spec.payload)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except ImportError as error:
        print(f"process {spec.name} cannot begin with {sys.executable}: {error}", file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """Do what is registered for the end, then exit: taking the interpreter apart would take seconds for nothing."""
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _take_stdin() -> int:
    """A descriptor of the pipe that nothing else in this process reads by accident."""
    life_line = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return life_line


def _read_line(fd: int) -> bytes | None:
    # Without a buffered reader: a daemon thread inside one makes the interpreter abort when it ends.
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = os.read(fd, 65536)
        if not part:
            return None

        parts.append(part)
    return b"".join(parts)


def _watch(life_line: int) -> None:
    while os.read(life_line, 65536):
        pass
    # To the main thread by name: it runs the handlers, and may be blocked.
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGTERM)
    threading.Event().wait(_GRACE_S)
    os._exit(PARENT_GONE)


def _tell_kernel(name: str) -> None:
    """On Linux, have this process killed when its parent ends, even if it is stuck, and named in `ps` and `top`."""
    if sys.platform != "linux":
        return

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, f"rt:{name}".encode()[:15])


def _resolve(entry: str) -> Callable[..., None]:
    module, _, name = entry.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


if __name__ == "__main__":
    main()
