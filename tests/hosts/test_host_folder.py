from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histrio.errors import WireError
from histrio.hosts.folder import HostFolder, host_folder


def test_a_machine_has_one_key_for_ever_in_a_private_file(tmp_path: Path) -> None:
    folder = host_folder(tmp_path / "a" / "b")
    peer_id = folder.key().peer_id
    assert host_folder(tmp_path / "a" / "b").key().peer_id == peer_id
    assert host_folder(tmp_path / "other").key().peer_id != peer_id
    assert stat.S_IMODE((folder.path / "identity").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_many_processes_that_begin_at_once_have_the_same_key(folder: HostFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: HostFolder(folder.path).key().peer_id, range(16)))
    assert len(set(keys)) == 1


def test_a_key_that_others_can_read_is_not_used(folder: HostFolder) -> None:
    folder.key()
    (folder.path / "identity").chmod(0o640)
    with pytest.raises(WireError, match="chmod 600"):
        folder.key()


@pytest.mark.parametrize("text", ["", "hello", "ab" * 31, "ab" * 33, "\x00\xff"])
def test_a_damaged_key_is_told(folder: HostFolder, text: str) -> None:
    folder.key()
    (folder.path / "identity").write_text(text)
    with pytest.raises(WireError, match=r"damaged|32 bytes"):
        folder.key()


def test_the_folder_is_the_users_if_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert host_folder().path == tmp_path / "histrio"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert host_folder().path == tmp_path / "home" / ".config" / "histrio"


def test_values_are_written_whole_one_after_the_other(folder: HostFolder) -> None:
    def add(index: int) -> None:
        with HostFolder(folder.path).changing("list.json", list[int], []) as values:
            values.append(index)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert sorted(folder.read("list.json", list[int], [])) == list(range(40))
    assert folder.changed_at("list.json") > folder.changed_at("absent.json") == 0
    assert {each.name for each in folder.path.iterdir()} == {"list.json", ".lock"}, "nothing half-written stays"


def test_a_change_that_fails_changes_nothing(folder: HostFolder) -> None:
    with folder.changing("list.json", list[int], []) as values:
        values.append(1)

    def fail() -> None:
        with folder.changing("list.json", list[int], []) as values:
            values.append(2)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert folder.read("list.json", list[int], []) == [1]


def test_a_damaged_file_is_told_with_its_name(folder: HostFolder) -> None:
    (folder.path / "list.json").write_text('["a"')
    with pytest.raises(WireError, match=r"list\.json is damaged"):
        folder.read("list.json", list[int], [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WireError, match="cannot be made"):
        host_folder(tmp_path / "a")


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(WireError, match="cannot be made"):
        host_folder(tmp_path / "a" / "b")
