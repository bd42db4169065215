"""What a process was doing when it was killed is told by its record: the step, whose rows, in whose code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histrio.net import runtime_dir
from histrio.system import flight_record
from histrio.system.flight_record import MOST_ROWS, Code, Flight, FlightRow, begin_step, end_step, read_flight, seat

CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from histrio.system.flight_record import Code, begin_step, end_step, record_in, seat

def ints(*values): return np.array(values, np.int32)

record_in(Path(sys.argv[1]))
seat(2, 31)
seat(5, 32)
begin_step(17, ints(5, 2), ints(10, 0), ints(1, 4))
if sys.argv[2] == "idle":
    end_step()
with Code("sampler 'dice' (games)"):
    if sys.argv[2] == "sampler":
        os.kill(os.getpid(), signal.SIGKILL)
with Code("backend (toys)", is_request_code=False):
    with Code("grammar (forms)", is_beside=True):
        if sys.argv[2] == "grammar":
            os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "backend":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = [FlightRow(32, 10, 11), FlightRow(31, 0, 4)]


@pytest.mark.parametrize(
    ("where", "flight"),
    [
        ("sampler", Flight(17, ROWS, "sampler 'dice' (games)", True)),
        ("grammar", Flight(17, ROWS, "grammar (forms)", True)),
        ("backend", Flight(17, ROWS, "backend (toys)", False)),
        ("outside", Flight(17, ROWS, "", False)),
        ("idle", Flight(0, [], "", False)),
    ],
)
def test_what_a_process_was_doing_when_it_was_killed_outlives_it(where: str, flight: Flight, tmp_path: Path) -> None:
    file = tmp_path / "engine.1.flight"
    child = subprocess.run([sys.executable, "-c", CHILD, str(file), where], env=dict(os.environ), timeout=15)

    assert child.returncode == -signal.SIGKILL
    assert read_flight(file) == flight


def test_a_process_that_never_began_has_no_record(tmp_path: Path) -> None:
    file = tmp_path / "engine.1.flight"
    assert read_flight(file) is None
    file.write_bytes(b"cut")
    assert read_flight(file) is None


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(flight_record, "_memory", flight_record._memory)
    flight_record.record_in(tmp_path / "record")
    return tmp_path / "record"


def ints(values: range) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


@pytest.mark.parametrize(("num_rows", "num_recorded"), [(MOST_ROWS, MOST_ROWS), (MOST_ROWS + 1, 0)])
def test_a_step_has_all_its_rows_in_the_record_or_none(num_rows: int, num_recorded: int, file: Path) -> None:
    for slot in range(num_rows):
        seat(slot, slot + 2**40)
    begin_step(3, ints(range(num_rows)), ints(range(num_rows)), ints(range(1, num_rows + 1)))
    flight = read_flight(file)
    assert flight is not None
    assert (flight.step, len(flight.rows)) == (3, num_recorded)
    assert flight.rows[:2] == [FlightRow(2**40, 0, 1), FlightRow(2**40 + 1, 1, 3)][: len(flight.rows)]


def test_the_folder_is_asked_for_room_for_it(file: Path) -> None:
    assert 0 < file.stat().st_size <= runtime_dir._FILE_BYTES < 2 * file.stat().st_size


def test_a_name_that_is_too_long_is_cut(file: Path) -> None:
    begin_step(1, ints(range(1)), ints(range(1)), ints(range(1, 2)))
    with Code("sampler " + "ü" * 200):
        flight = read_flight(file)
    end_step()
    assert flight is not None
    assert flight.code.startswith("sampler üüü")
    assert len(flight.rows) == 1, "a control: what stands behind it is whole"
