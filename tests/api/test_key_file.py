"""Key files: which users may read them, what is wrong with them, and that they are read again when they change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from histrio.cli.commands import main
from histrio.errors import TopologyError
from histrio_api.keys import ring
from histrio_api.keys.key import ApiKey, hash_of, new_key
from histrio_api.keys.key_file import read_keys, write_keys
from histrio_api.keys.ring import KeyRing

pytestmark = pytest.mark.anyio

ALICE = ApiKey(name="alice", hash=hash_of(b"a"), models=["org/model"], tokens_per_minute=5, highest_priority=2)
BOB = ApiKey(name="bob", hash=hash_of(b"b"), admin=True)

Keys = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def keys(file: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    """Run `histrio keys` on the file: what it printed, behind its exit code where that is not 0."""

    def run(*arguments: str) -> str:
        code = main(["keys", *arguments, "--file", str(file)])
        said = capsys.readouterr()
        return said.out if code == 0 else f"{code} {said.err}"

    return run


def test_what_is_written_is_read_and_only_the_owner_may(file: Path) -> None:
    write_keys(file, [ALICE, BOB])
    assert read_keys(file) == [ALICE, BOB]
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["keys.toml"], "nothing is left beside it"
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(TopologyError, match=rf"keys\.toml: .*\(mode {mode:04o}\); chmod 600 it"):
            read_keys(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[key]\n", r"not valid TOML: .*line 1"),
        ("[[kei]]\n", "kei: unknown key; did you mean 'key'"),
        ("[key]\n", "key: must be a list"),
        ('[[key]]\nname = "a"\n', r"key\[0\]\.hash: is missing"),
        ('[[key]]\nname = "a b"\nhash = "x"\n', r"key\[0\]\.name: must be a string matching"),
        ('[[key]]\nname = "a"\nhash = "secret"\n', r"key\[0\]\.hash: must be a string matching"),
        (f'[[key]]\nname = "a"\nhash = "{ALICE.hash}"\nrpm = 1\n', r"key\[0\]\.rpm: unknown key"),
        (f'[[key]]\nname = "a"\nhash = "{ALICE.hash}"\nmodels = [1]\n', r"key\[0\]\.models\[0\]: must be a string"),
        (f'[[key]]\nname = "a"\nhash = "{ALICE.hash}"\ntokens-per-minute = 0\n', "must be an integer >= 1, not 0"),
        (2 * f'[[key]]\nname = "a"\nhash = "{ALICE.hash}"\n', "two keys are named a"),
        (
            f'[[key]]\nname = "a"\nhash = "{ALICE.hash}"\n[[key]]\nname = "b"\nhash = "{ALICE.hash}"\n',
            "has the hash of another",
        ),
    ],
)
def test_a_mistake_is_named_by_file_and_place_and_nothing_of_it_is_repeated(
    file: Path, text: str, message: str
) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(TopologyError, match=rf"^{file}: .*{message}") as caught:
        read_keys(file)
    assert "secret" not in str(caught.value)


def test_keys_are_created_once_shown_once_and_revoked(file: Path, keys: Keys) -> None:
    secret = keys("create", "--name", "alice", "--requests-per-minute", "7", "--model", "org/model").strip()
    (key,) = read_keys(file)
    assert key.hash == f"sha256:{sha256(secret.encode()).hexdigest()}"
    assert (key.requests_per_minute, key.models) == (7, ["org/model"])
    assert secret not in file.read_text()
    assert keys("create", "--name", "alice").startswith("2 histrio keys: ")
    assert keys("create", "--name", "carol", "--tokens-per-minute", "0").startswith("2 histrio keys: --tokens-per-m")
    assert "admin" not in keys("list")
    keys("create", "--name", "bob", "--admin")
    assert keys("list") == "alice  requests-per-minute=7  models=org/model\nbob  admin\n"
    assert keys("revoke", "--name", "alice") == ""
    assert "no key of this name" in keys("revoke", "--name", "alice")
    assert [each.name for each in read_keys(file)] == ["bob"]


def test_commands_at_the_same_time_lose_no_key(file: Path) -> None:
    names = [f"key{nth}" for nth in range(8)]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda name: main(["keys", "create", "--file", str(file), "--name", name]), names))
    assert codes == [0] * 8
    assert sorted(each.name for each in read_keys(file)) == names


def test_new_keys_are_long_and_never_the_same() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) >= 43, "256 bits"


def test_a_key_is_found_by_what_was_sent_alone() -> None:
    found = KeyRing(["plain"], [ALICE], None)
    for sent, name in ((b"a", "alice"), (b"plain", found.find(b"plain").key.name)):  # type: ignore[union-attr]
        limits = found.find(sent)
        assert limits is not None
        assert limits.key.name == name
    for sent in (b"", b"A", b"plain ", b"alice", ALICE.hash.encode(), bytes.fromhex(ALICE.hash[7:])):
        assert found.find(sent) is None
    assert not KeyRing().asks, "a control"


async def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ring, "LOOK_S", 0.001)
    write_keys(file, [])
    found = KeyRing(file=file)
    assert found.asks, "no client gets in before there is a key"

    async def until(is_done: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not is_done():  # noqa: ASYNC110 - what is waited for announces nothing
                await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.watch)
        write_keys(file, [ALICE, BOB])
        await until(lambda: found.find(b"a"))
        found.limits_of("alice").reserve(4)
        file.write_text("[[key]\n")  # noqa: ASYNC240 - a moment
        await until(lambda: "stay as they were" in caplog.text)
        assert f"{file}: not valid TOML" in caplog.text
        assert found.find(b"a") is not None
        file.unlink()  # noqa: ASYNC240 - a moment
        await until(lambda: "there is no such file" in caplog.text)
        assert found.find(b"b") is not None
        write_keys(file, [ALICE])
        await until(lambda: not found.find(b"b"))
        assert found.limits_of("alice").headers()["x-ratelimit-remaining-tokens"] == "1", "what it has used is known"
        assert found.limits_of("bob").key.admin is False
        tasks.cancel_scope.cancel()


def test_a_name_that_topology_and_file_both_have_is_refused(file: Path) -> None:
    write_keys(file, [ALICE])
    with pytest.raises(TopologyError, match="two keys are named alice"):
        KeyRing(hashed=[ApiKey(name="alice", hash=BOB.hash)], file=file)
