from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn, cast

import anyio
import psutil
import pytest

from histrio.children.child import PARENT_GONE
from histrio.children.launch import launch
from histrio.children.spawn import ChildProcess, ChildSpec, describe_exit, spawn
from histrio.errors import BackendError, EngineError
from histrio.testing.wait import eventually_async

pytestmark = pytest.mark.anyio
ENV = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


async def start(entry: str, payload: object, *, python: str | None = None) -> ChildProcess:
    spec = ChildSpec(entry=f"child_entries:{entry}", payload=payload, name="facts.1")
    return await spawn(spec, env=ENV, python=python)


def cut_life_line(child: ChildProcess) -> None:
    child.cut_life_line()


async def number_in(file: Path) -> int:
    await eventually_async(file.exists)
    return int(await anyio.Path(file).read_text())


async def test_child_gets_its_call_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    child = await start("write_facts", {"text": "ä" * 100_000, "file": str(tmp_path / "facts")})
    assert await child.wait() == await child.wait() == "ended"
    assert not child.is_running
    facts = (tmp_path / "facts").read_text().split("\n")
    assert facts == ["ä" * 100_000, "1", "True", "True", "", "rt:facts.1"]


async def test_the_users_own_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "2")
    child = await start("write_facts", {"text": "", "file": str(tmp_path / "facts")})
    await child.wait()
    assert (tmp_path / "facts").read_text().split("\n")[1] == "2"


async def test_failure_is_told_by_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    child = await start("fail", None)
    assert await child.wait() == "ended with exit code 1"
    assert "a bug in the child" in capfd.readouterr().err


async def test_a_child_prepares_for_an_order_that_comes_later(tmp_path: Path) -> None:
    file = tmp_path / "facts"
    environment = {**ENV, "PREPARED_FILE": str(tmp_path / "prepared")}
    child = ChildProcess("early", launch("early", env=environment, prepare="child_entries:get_ready"))
    await eventually_async((tmp_path / "prepared").exists)
    assert not file.exists()
    await child.begin(ChildSpec("child_entries:write_facts", {"text": "now", "file": str(file)}, "facts.1"))
    assert await child.wait() == "ended"
    assert file.read_text().startswith("now\n")


async def test_what_cannot_be_prepared_is_left_to_the_order(tmp_path: Path) -> None:
    file = tmp_path / "facts"
    child = ChildProcess("early", launch("early", env=ENV, prepare="child_entries:fail"))
    await child.begin(ChildSpec("child_entries:write_facts", {"text": "now", "file": str(file)}, "facts.1"))
    assert await child.wait() == "ended"
    assert file.exists()


async def test_a_prepared_child_without_an_order_ends_with_its_life_line(tmp_path: Path) -> None:
    environment = {**ENV, "PREPARED_FILE": str(tmp_path / "prepared")}
    child = ChildProcess("early", launch("early", env=environment, prepare="child_entries:get_ready"))
    child.cut_life_line()
    assert await child.wait() == "ended with exit code 1"


async def test_missing_entry_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    child = await start("nothing_of_this_name", None)
    assert await child.wait() == "ended with exit code 1"
    assert "nothing_of_this_name" in capfd.readouterr().err


async def test_missing_interpreter_is_named() -> None:
    with pytest.raises(BackendError, match=r"'facts\.1' with /nonexistent/python: No such file"):
        await start("fail", None, python="/nonexistent/python")


async def test_what_the_system_lacks_for_now_is_told_from_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*_command: object, **_options: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(EngineError, match="Too many open files"):
        await start("fail", None)


async def test_signal_is_told_by_name(tmp_path: Path) -> None:
    child = await start("wait_for_ever", str(tmp_path / "number"))
    assert await number_in(tmp_path / "number") == child.pid
    assert child.is_running
    child.kill()
    assert await child.wait() == "killed by signal 9 (SIGKILL)"
    child.kill()


async def test_child_stops_in_order_when_terminated(tmp_path: Path) -> None:
    child = await start("stop_in_order", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    assert await child.terminate() == "ended"
    assert (tmp_path / "number").read_text() == "stopped"
    assert await child.terminate() == "ended"


async def test_child_without_a_way_to_stop_ends_at_once_when_terminated(tmp_path: Path) -> None:
    child = await start("wait_for_ever", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    assert await child.terminate() == "killed by signal 15 (SIGTERM)"


async def test_child_that_refuses_is_killed(tmp_path: Path) -> None:
    child = await start("refuse_to_stop", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    assert await child.terminate(grace_s=0.1) == "killed by signal 9 (SIGKILL)"


class Unending:
    """A process that the system cannot end: it hangs in a driver, say."""

    pid = 1

    def wait(self) -> int:
        threading.Event().wait()
        return 0

    def terminate(self) -> None:
        pass

    kill = terminate


async def test_child_that_cannot_be_ended_is_waited_for_only_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histrio.children.spawn._ABANDON_AFTER_S", 0.01)
    child = ChildProcess("stuck.1", cast("subprocess.Popen[bytes]", Unending()))
    with anyio.move_on_after(0.1) as waiting:
        await child.wait_or_abandon()
    assert waiting.cancelled_caught, "nothing killed it yet"
    child.kill()
    assert "has not ended it" in await child.wait_or_abandon()
    assert "has not ended it" in await child.terminate(grace_s=0.01)


async def test_child_stops_in_order_when_its_life_line_is_cut(tmp_path: Path) -> None:
    child = await start("stop_in_order", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    cut_life_line(child)
    assert await child.wait() == "ended"
    assert (tmp_path / "number").read_text() == "stopped"


async def test_child_that_refuses_ends_when_its_life_line_is_cut(tmp_path: Path) -> None:
    child = await start("refuse_to_stop", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    cut_life_line(child)
    assert await child.wait() == describe_exit(PARENT_GONE)


async def test_ctrl_c_reaches_only_the_root(tmp_path: Path) -> None:
    child = await start("wait_for_ever", str(tmp_path / "number"))
    await number_in(tmp_path / "number")
    assert os.getpgid(child.pid) != os.getpgid(0)
    os.kill(child.pid, signal.SIGINT)
    with anyio.move_on_after(0.2) as waiting:
        await child.wait()
    assert waiting.cancelled_caught
    await child.terminate()


@pytest.mark.parametrize(
    "entry",
    [
        "wait_for_ever",
        "stop_in_order",
        pytest.param("stall", marks=pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")),
    ],
)
async def test_children_die_with_their_killed_parent(tmp_path: Path, entry: str) -> None:
    files = [tmp_path / "first", tmp_path / "second"]
    grandchildren = [(f"child_entries:{entry}", str(file)) for file in files]
    parent = await start("start_grandchildren", {"grandchildren": grandchildren, "file": str(tmp_path / "parent")})
    await number_in(tmp_path / "parent")
    numbers = [await number_in(file) for file in files]
    assert all(map(_lives, numbers))
    parent.kill()
    await parent.wait()
    await eventually_async(lambda: not any(map(_lives, numbers)))


def _lives(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended"), (3, "ended with exit code 3"), (-15, "killed by signal 15 (SIGTERM)"), (-99, "killed by signal 99")],
)
async def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
