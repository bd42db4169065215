"""Start an interpreter that waits for its order; `histrio.children.spawn` gives it one.

It imports neither an event loop nor anything else that takes long, so that `rt-launch` may start a child first of all.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from histrio.errors import BackendError, EngineError

__all__ = ["launch"]

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC})
"""Errors of a system that lacks something only for the moment, such as descriptors."""


def launch(
    name: str,
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    prepare: str = "",
) -> subprocess.Popen[bytes]:
    """Start `histrio.children.child` by this interpreter or another one that has histrio installed.

    `env` is added to the parent's environment; `pass_fds` are descriptors that the child has too, under the same
    numbers. `prepare` is `module:function`, which the child calls while it waits for its order. Raises `BackendError`
    if the interpreter cannot be started, and `EngineError` if only the system cannot do it now; both name `name`.
    """
    interpreter = python or sys.executable
    command = [interpreter, "-m", "histrio.children.child", *([prepare] if prepare else [])]
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, **(env or {})}
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, start_new_session=True, pass_fds=pass_fds
        )
    except OSError as error:
        refusal = f"cannot start process {name!r} with {interpreter}: {error.strerror}"
        raise (EngineError(refusal) if error.errno in _PASSING else BackendError(refusal)) from error
