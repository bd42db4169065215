from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from histrio.errors import WireError
from histrio.net.runtime_dir import check_room, runtime_dir

HOLDER = """
import sys
from pathlib import Path
from histrio.net.runtime_dir import runtime_dir
with runtime_dir(Path(sys.argv[1])) as folder:
    (folder / "engine.1").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(sockets: Path) -> Iterator[subprocess.Popen[str]]:
    """Another run, alive, that has a runtime folder beside ours."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(sockets)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        yield program
        program.kill()


def test_folder_is_private_and_removed_at_the_end(sockets: Path) -> None:
    with runtime_dir(sockets) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "engine.1").touch()
        assert folder.parent == sockets
    assert list(sockets.iterdir()) == []


def test_two_runs_have_two_folders(sockets: Path) -> None:
    with runtime_dir(sockets) as one, runtime_dir(sockets) as other:
        assert one != other
        assert one.exists()


def test_folder_of_a_killed_run_is_removed_by_the_next(sockets: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    killed = Path(holder.stdout.readline().strip())
    with runtime_dir(sockets):
        # The control: while that run lives, its folder stays.
        assert (killed / "engine.1").exists()
    holder.kill()
    holder.wait()
    assert killed.exists()
    with runtime_dir(sockets) as folder:
        assert not killed.exists()
        assert folder.exists()


def test_foreign_things_of_that_name_stay(sockets: Path) -> None:
    (sockets / "histrio-file").touch()
    (sockets / "histrio-unlocked").mkdir(mode=0o700)
    (sockets / "elsewhere").mkdir(mode=0o700)
    (sockets / "elsewhere" / "lock").touch()
    (sockets / "histrio-link").symlink_to(sockets / "elsewhere")
    before = sorted(sockets.rglob("*"))
    with runtime_dir(sockets):
        pass
    assert sorted(sockets.rglob("*")) == before


def test_user_runtime_folder_is_preferred_if_it_is_private(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sockets))
    with runtime_dir() as folder:
        assert folder.parent == sockets
    os.chmod(sockets, 0o755)
    with runtime_dir() as folder:
        assert folder.parent != sockets
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    with runtime_dir() as folder:
        assert folder.exists()


def test_too_deep_a_folder_is_refused_and_removed(sockets: Path) -> None:
    deep = sockets / ("x" * 80)
    deep.mkdir()
    with pytest.raises(WireError, match="shorter runtime folder"), runtime_dir(deep):
        pass
    assert list(deep.iterdir()) == []


def test_a_place_that_takes_no_folder_is_named_with_what_to_do(sockets: Path) -> None:
    gone = sockets / "gone"
    words = f"need a folder in {gone}: No such file or directory; name another folder in TMPDIR"
    with pytest.raises(WireError, match=words), runtime_dir(gone):
        pass


def test_a_folder_that_takes_no_sockets_is_named(sockets: Path) -> None:
    check_room(sockets / "made-anew")
    assert list((sockets / "made-anew").iterdir()) == [], "a control: there is room, and nothing is left of the trial"
    (sockets / "file").touch()
    with pytest.raises(WireError, match=f"need a folder in {sockets}"):
        check_room(sockets / "file")


def test_where_no_folder_for_temporary_files_is_left_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    with pytest.raises(WireError, match="or name a private folder in XDG_RUNTIME_DIR"), runtime_dir():
        pass
