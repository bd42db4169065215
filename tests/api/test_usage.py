"""Usage: counted, kept over restarts and disks that are full, and shown to whom it belongs."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from histrio.contracts.gateway import Delta
from histrio.errors import TopologyError
from histrio.messages import Extras, RequestState
from histrio_api.keys.key import hash_of
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.usage import ledger
from histrio_api.usage.counts import GROUPS, Counts, Place, Question
from histrio_api.usage.ledger import UsageLedger, utc_today
from histrio_api.usage.usage_file import UsageFile

pytestmark = pytest.mark.anyio

MODEL = "test/scripted"
TODAY = date(2026, 3, 1)
ALL = Question("2026-01-01", "2026-12-31", None, GROUPS)
BODY = {"model": MODEL, "prompt": "Hello", "max_tokens": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


def on_disk(path: Path) -> list[tuple[Any, ...]]:
    """What another program reads."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT key, requests, completion_tokens, errors FROM usage ORDER BY key").fetchall()
    connection.close()
    return found


async def test_sums_survive_a_restart_and_old_days_are_forgotten(path: Path) -> None:
    day = [TODAY]
    for tokens in (5, 7):
        kept = UsageLedger(UsageFile(path), 10, lambda: day[0])
        async with kept.writing():
            kept.count("a", "m", Counts(1, 2, 1, tokens))
            kept.count("a", "m", Counts(errors=1))
            kept.count("b", "m", Counts(1))
    assert on_disk(path) == [("a", 2, 12, 2), ("b", 2, 0, 0)]
    day[0] = TODAY + timedelta(10)
    kept = UsageLedger(UsageFile(path), 10, lambda: day[0])
    async with kept.writing():
        assert len(await kept.rows(ALL)) == 2
        day[0] += timedelta(1)
        assert await kept.rows(ALL) == []


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (ALL._replace(groups=("key",)), {"a": 5, "b": 3}),
        (ALL._replace(groups=("day",)), {"2026-03-01": 4, "2026-03-02": 4}),
        (ALL._replace(groups=("model",), key="a"), {"m": 1, "n": 4}),
        (ALL._replace(groups=("key",), end="2026-03-01"), {"a": 1, "b": 3}),
        (ALL._replace(groups=("key",), start="2026-03-03"), {}),
    ],
)
async def test_rows_are_grouped_as_asked(path: Path, question: Question, expected: dict[str, int]) -> None:
    day = [TODAY]
    kept = UsageLedger(UsageFile(path), 10, lambda: day[0])
    async with kept.writing():
        kept.count("a", "m", Counts(1))
        kept.count("b", "m", Counts(3))
        day[0] += timedelta(1)
        kept.count("a", "n", Counts(4))
        rows = await kept.rows(question)
    assert {row[question.groups[0]]: row["requests"] for row in rows} == expected


async def test_a_full_disk_is_said_once_and_nothing_is_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = UsageFile(path)
    kept = UsageLedger(file, 10, lambda: TODAY)
    async with kept.writing():
        (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
        file._connection.execute(f"PRAGMA max_page_count = {pages}")
        for nth in range(500):
            kept.count(f"key{nth}", "m" * 100, Counts(1))
        assert await kept.rows(ALL) == []
        kept.count("key0", "m" * 100, Counts(1))
        await kept.rows(ALL)
        said = [each for each in caplog.messages if "usage cannot be written" in each]
        assert len(said) == 1
        assert "full" in said[0]
        file._connection.execute("PRAGMA max_page_count = 1000000")
        assert sum(row["requests"] for row in await kept.rows(ALL)) == 501
        assert "usage is written again" in caplog.messages


async def test_what_waits_to_be_written_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_PENDING", 3)
    kept = UsageLedger(UsageFile(path), 10, lambda: TODAY)
    for name in "abcdea":
        kept.count(name, "m", Counts(1))
    async with kept.writing():
        assert [row["requests"] for row in await kept.rows(ALL)] == [2, 1, 1]


async def test_a_file_that_another_program_writes_is_waited_for(path: Path) -> None:
    kept = UsageLedger(UsageFile(path), 10, lambda: TODAY)
    other = sqlite3.connect(path, isolation_level=None)
    async with kept.writing():
        kept.count("a", "m", Counts(1))
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kept.rows, ALL)
            await anyio.wait_all_tasks_blocked()
            kept.count("b", "m", Counts(1))
            other.execute("COMMIT")
    other.close()
    assert [row[0] for row in on_disk(path)] == ["a", "b"]


@pytest.mark.parametrize("kind", ["text", "folder", "nowhere", "newer"])
def test_what_is_no_usage_file_is_refused(path: Path, kind: str) -> None:
    match kind:
        case "text":
            path.write_text("this is a letter, and no database" * 100)
        case "folder":
            path.mkdir()
        case "nowhere":
            path = path / "below" / "usage.db"
        case _:
            UsageFile(path)._connection.execute("PRAGMA user_version = 9")
    with pytest.raises(TopologyError, match=rf"^api\.usage-file: {path}: "):
        UsageFile(path)


def test_counts_have_a_column_each(path: Path) -> None:
    file = UsageFile(path)
    file.add({Place("2026-03-01", "a", "m"): Counts(*range(1, 1 + len(Counts.__struct_fields__)))})
    (row,) = file.rows(ALL)
    assert [row[name] for name in Counts.__struct_fields__] == list(range(1, 1 + len(Counts.__struct_fields__)))
    file.close()


@pytest.fixture(scope="module")
def gateway(model_folder: Path) -> ScriptedGateway:
    def script(submission: Any, choice: int) -> Any:
        cached = Delta([5], RequestState.DECODING, Extras(num_cached_tokens=1))
        return [cached, *saying([6])]

    return ScriptedGateway(served_model(model_folder), script)


@pytest.fixture(scope="module")
def ask(gateway: ScriptedGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., httpx.Response]]:
    keys = [
        {"name": name, "hash": hash_of(name.encode()), "admin": name == "chief"} for name in ("ann", "ben", "chief")
    ]
    file = tmp_path_factory.mktemp("usage") / "usage.db"
    with (
        running_endpoint(gateway, key=keys, **{"usage-file": str(file)}) as url,
        httpx.Client(base_url=url) as client,
    ):

        def asked(name: str, method: str, path: str, **given: Any) -> httpx.Response:
            return client.request(method, path, headers={"x-api-key": name}, **given)

        yield asked


def test_a_key_sees_its_own_usage_and_an_admin_all(
    ask: Callable[..., httpx.Response], gateway: ScriptedGateway
) -> None:
    spent = ask("ann", "POST", "/v1/completions", json=BODY).json()["usage"]
    ask("ann", "POST", "/v1/completions", json=BODY | {"stream": True})
    ask("ben", "POST", "/v1/completions", json=BODY)
    assert ask("ben", "POST", "/v1/completions", json=BODY | {"n": -1}).status_code == 400
    ask("wrong", "POST", "/v1/completions", json=BODY)
    own = ask("ann", "GET", "/v1/usage", params={"group_by": "key,model"}).json()
    assert own["data"] == [
        {
            "key": "ann",
            "model": MODEL,
            "requests": 2,
            "prompt_tokens": 2 * spent["prompt_tokens"],
            "cached_tokens": 2,
            "completion_tokens": 2 * spent["completion_tokens"],
            "reasoning_tokens": 0,
            "errors": 0,
        }
    ]
    assert ask("ben", "GET", "/v1/usage").json()["total"]["errors"] == 1
    whole = ask("chief", "GET", "/v1/usage", params={"group_by": "key"}).json()
    assert [row["key"] for row in whole["data"]] == ["ann", "ben"], "a wrong key is no key"
    assert whole["total"]["requests"] == 3
    assert whole["end"] == utc_today().isoformat()


def test_what_goes_wrong_in_a_stream_or_with_its_client_is_counted(
    ask: Callable[..., httpx.Response], gateway: ScriptedGateway
) -> None:
    def total() -> dict[str, int]:
        found: dict[str, int] = ask("chief", "GET", "/v1/usage").json()["total"]
        return found

    before, script = total(), gateway.script
    try:
        gateway.script = lambda submission, choice: [Delta([5], RequestState.DECODING), RuntimeError("a bug")]
        assert "error" in ask("ben", "POST", "/v1/completions", json=BODY | {"stream": True}).text
        assert ask("ben", "POST", "/v1/completions", json=BODY).status_code == 500
        gateway.script = lambda submission, choice: [Delta([5], RequestState.DECODING), Gate()]
        with pytest.raises(httpx.ReadTimeout):
            ask("ben", "POST", "/v1/completions", json=BODY, timeout=0.3)
        assert gateway.streams[-1].was_cancelled.wait(10)
    finally:
        gateway.script = script
    after = total()
    assert after["errors"] - before["errors"] == 2, "a client that leaves is no error"
    assert after["requests"] - before["requests"] == 3
    assert after["completion_tokens"] - before["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"start": "yesterday"}, "start"),
        ({"end": "2026-02-30"}, "end"),
        ({"start": "2026-02-02", "end": "2026-02-01"}, "start"),
        ({"group_by": "day,colour"}, "group_by"),
        ({"until": "x"}, "query"),
    ],
)
def test_a_question_that_makes_no_sense_is_a_400(
    ask: Callable[..., httpx.Response], params: dict[str, str], param: str
) -> None:
    response = ask("ann", "GET", "/v1/usage", params=params)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert ask("ann", "GET", "/v1/usage", params={"start": "0001-01-01", "end": "0001-01-01"}).json()["data"] == []
    assert ask("ann", "GET", "/v1/usage", params={"end": "0001-01-05", "group_by": ""}).json()["data"] == []


def test_usage_is_kept_only_where_a_file_is_named(gateway: ScriptedGateway) -> None:
    with running_endpoint(gateway) as url:
        response = httpx.get(f"{url}/v1/usage")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "usage_not_kept")
