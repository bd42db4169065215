"""Progress of loading: bars on a terminal, few log lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from histrio.processes.progress import LoadingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_is_a_line_per_tenth(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO), LoadingProgress(1, stream) as progress:
        for step in range(1001):
            progress.update(0, step / 1000)
    assert len(caplog.messages) <= 11
    assert caplog.messages[0] == "stage 0: 0 % loaded"
    assert caplog.messages[-1] == "stage 0: 100 % loaded"
    assert stream.getvalue() == ""


def test_stages_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), LoadingProgress(2, io.StringIO()) as progress:
        progress.update(1, 0.5, "model-00001.safetensors")
        progress.update(0, 0.1)
        assert progress.fraction == pytest.approx(0.3)
    assert caplog.messages == ["stage 1: 50 % loaded (model-00001.safetensors)", "stage 0: 10 % loaded"]


def test_the_end_is_always_told_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), LoadingProgress(1, io.StringIO()) as progress:
        for fraction in (0.95, 1.0, 1.0):
            progress.update(0, fraction)
    assert [message.split()[2] for message in caplog.messages] == ["95", "100"]


def test_a_stage_that_starts_anew_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), LoadingProgress(1, io.StringIO()) as progress:
        progress.update(0, 1.0)
        progress.update(0, 0.2)
    assert [message.split()[2] for message in caplog.messages] == ["100", "20"]


def test_fractions_out_of_range_are_bounded() -> None:
    progress = LoadingProgress(1, io.StringIO())
    progress.update(0, 7.0)
    assert progress.fraction == 1.0
    progress.update(0, -1.0)
    assert progress.fraction == 0.0


def test_on_a_terminal_each_stage_has_a_bar_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stream = Terminal()
    with caplog.at_level(logging.INFO), LoadingProgress(2, stream) as progress:
        progress.update(0, 0.5, "embedding")
        progress.update(1, 1.0)
    text = stream.getvalue()
    assert "stage 0  50%" in text
    assert "stage 1 100%" in text
    assert "embedding" in text
    assert caplog.messages == []


def test_closing_twice_is_harmless() -> None:
    progress = LoadingProgress(1, Terminal())
    progress.update(0, 0.5)
    progress.close()
    progress.close()
    assert progress.fraction == 0.5
