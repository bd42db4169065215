"""Log lines: for people in a terminal, one JSON object per line for collectors.

One rule stands above the format: no text of a request is ever logged, nor generated text. Control characters are
escaped, so that nothing a line quotes can forge another line.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import IO, Any, Literal

import msgspec

__all__ = ["JsonFormatter", "TextFormatter", "set_up_logs"]

LogFormat = Literal["text", "json"]

_MAX_MESSAGE_CHARS = 4000
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1"}
_SHORT_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))}
_QUIET = {"httpx": logging.WARNING, "httpx2": logging.WARNING, "httpcore": logging.WARNING, "filelock": logging.WARNING}
"""Libraries that tell about each of their own requests."""


def set_up_logs(
    process: str, *, log_format: LogFormat = "text", level: str = "info", stream: IO[str] | None = None
) -> None:
    """Send every log line of this process to `stream` (stderr), replacing handlers that were there.

    `process` names the sender in each line. Colour only where the stream is a terminal. Call again to change.
    """
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.setFormatter(
        JsonFormatter(process) if log_format == "json" else TextFormatter(process, _is_terminal(stream))
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


class TextFormatter(logging.Formatter):
    """`12:03:04.123 INFO  engine/batching  message`, a traceback indented below."""

    def __init__(self, process: str, colour: bool = False) -> None:
        super().__init__()
        self._process = process
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{_SHORT_LEVELS.get(record.levelname, record.levelname):<5}"
        code = _COLOURS.get(record.levelno)
        if self._colour and code:
            level = f"\x1b[{code}m{level}\x1b[0m"
        sender = f"{self._process}/{_sender(record)}"
        line = f"{clock}.{int(record.msecs):03d} {level} {sender:<16}  {_message(record).translate(_ESCAPES)}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n    " + self.formatException(record.exc_info).replace("\n", "\n    ")
        return line


class JsonFormatter(logging.Formatter):
    """One object per line: time (Unix seconds), level, process, sender, message, error with its traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON without line breaks."""
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "sender": _sender(record),
            "message": _message(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _Handler(logging.StreamHandler[IO[str]]):
    """Writes above progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules or not _is_terminal(self.stream):
            super().emit(record)
            return

        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _sender(record: logging.LogRecord) -> str:
    """The actor where the record names one (`extra={"actor": …}`), else the last part of the logger's name, or the
    room of a module named `actor`."""
    actor = getattr(record, "actor", None)
    return str(actor) if actor else record.name.removeprefix("histrio.").removesuffix(".actor").rpartition(".")[2]


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if len(text) <= _MAX_MESSAGE_CHARS:
        return text
    return f"{text[:_MAX_MESSAGE_CHARS]} … ({len(text) - _MAX_MESSAGE_CHARS} characters more)"


def _is_terminal(stream: IO[str]) -> bool:
    return not stream.closed and stream.isatty()
