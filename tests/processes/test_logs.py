"""Log lines in both formats."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from histrio.processes.logs import set_up_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def output() -> Iterator[Callable[..., io.StringIO]]:
    """Set up logs into a buffer; puts the loggers back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def start(log_format: str = "text", level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
        stream = stream or io.StringIO()
        set_up_logs("engine", log_format=log_format, level=level, stream=stream)  # type: ignore[arg-type]
        return stream

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_text_line_has_time_level_process_sender_and_message(output: Callable[..., io.StringIO]) -> None:
    stream = output()
    logging.getLogger("histrio.batching.actor").info("%d sequences", 3)
    assert stream.getvalue().endswith(" INFO  engine/batching   3 sequences\n")
    assert len(stream.getvalue().split()[0]) == len("12:03:04.123")


def test_an_actor_named_by_the_record_is_the_sender(output: Callable[..., io.StringIO]) -> None:
    stream = output()
    logging.getLogger("histrio.supervisor").warning("restarted", extra={"actor": "stage0"})
    assert " WARN  engine/stage0 " in stream.getvalue()


def test_json_is_one_object_per_line(output: Callable[..., io.StringIO]) -> None:
    stream = output("json")
    logging.getLogger("histrio.kv.actor").info("two\nlines")
    logging.getLogger("histrio.kv.actor").info("next")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["process"], first["sender"]) == ("info", "engine", "kv")
    assert (first["message"], second["message"]) == ("two\nlines", "next")
    assert second["time"] >= first["time"] > 1_600_000_000


def test_a_json_error_has_its_traceback(output: Callable[..., io.StringIO]) -> None:
    stream = output("json")
    try:
        raise ZeroDivisionError("bug")
    except ZeroDivisionError:
        logging.getLogger("histrio.x").exception("it failed")
    line = json.loads(stream.getvalue())
    assert line["error"] == "ZeroDivisionError"
    assert "Traceback" in line["traceback"]


def test_a_text_error_has_its_traceback_indented(output: Callable[..., io.StringIO]) -> None:
    stream = output()
    try:
        raise ZeroDivisionError("bug")
    except ZeroDivisionError:
        logging.getLogger("histrio.x").exception("it failed")
    head, *rest = stream.getvalue().splitlines()
    assert head.endswith("it failed")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    ZeroDivisionError: bug"


def test_a_message_cannot_forge_a_line_or_colour_the_terminal(output: Callable[..., io.StringIO]) -> None:
    stream = output()
    logging.getLogger("histrio.x").info("%s", "a\n12:00:00 ERROR forged \x1b[31m")
    assert stream.getvalue().count("\n") == 1
    assert "a\\x0a12:00:00" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_long_message_is_cut(output: Callable[..., io.StringIO]) -> None:
    stream = output()
    logging.getLogger("histrio.x").info("%s", "y" * 9000)
    assert stream.getvalue().endswith("y … (5000 characters more)\n")


def test_colour_is_for_terminals_only(output: Callable[..., io.StringIO]) -> None:
    plain, terminal = output(), Terminal()
    logging.getLogger("histrio.x").error("bad")
    output(stream=terminal)
    logging.getLogger("histrio.x").error("bad")
    assert "\x1b[31m" not in plain.getvalue()
    assert "\x1b[31mERROR\x1b[0m" in terminal.getvalue()


def test_the_level_hides_what_is_below(output: Callable[..., io.StringIO]) -> None:
    stream = output(level="warning")
    logging.getLogger("histrio.x").info("hidden")
    logging.getLogger("histrio.x").warning("shown")
    assert "hidden" not in stream.getvalue()
    assert "shown" in stream.getvalue()


def test_setting_up_twice_does_not_double_lines(output: Callable[..., io.StringIO]) -> None:
    output()
    stream = output()
    logging.getLogger("histrio.x").info("once")
    assert stream.getvalue().count("once") == 1
