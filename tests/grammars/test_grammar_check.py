"""The front's check: what the last stage would refuse, found in a process of its own that no grammar can hurt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.errors import EngineError, Overloaded, PluginFailed, RequestError
from histrio.front import grammar_check
from histrio.front.grammar_check import GrammarChecker
from histrio.front.grammar_trial import MAX_UNENFORCED
from histrio.front.grammar_trials import TrialLimits
from histrio.messages import GrammarSpec
from histrio.testing.wait import eventually, eventually_async
from tests.grammars.trial_backends import HUNGRY_BYTES, all_backends

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # starts Python processes

SOURCE = "trial_backends:all_backends"
FINE = GrammarSpec("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}}}')
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def this_folder_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of trials import the backends by their module's name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@asynccontextmanager
async def checking(tokens: VocabularySpec, **limits: Any) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(GrammarKinds(all_backends()), tokens, TrialLimits(**limits), source=SOURCE)
    async with checker.running():
        yield checker


def began(folder: Path) -> list[int]:
    """Process ids of the trials that noted down there that they have begun."""
    return [int(each.suffix[1:]) for each in folder.glob("began.*")]


async def begun(folder: Path, count: int = 1) -> list[int]:
    """The same, once there are so many."""
    await eventually_async(lambda: len(began(folder)) >= count, timeout_s=40)
    return began(folder)


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie, which its parent has not waited for yet, does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def alternatives(count: int) -> str:
    """Rules of a single alternative each, and the one after."""
    return "\n".join(["start: n0", *(f'n{n}: n{n + 1} | "b{n}"' for n in range(count)), f'n{count}: "c"'])


async def test_what_is_not_enforced_is_told_with_its_place(toy: Any) -> None:
    one_of = {"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}
    both = {"items": {"uniqueItems": True}, "contains": {}}
    async with checking(toy.spec) as checker:
        for schema, keywords in ((one_of, ("properties.a.oneOf",)), (both, ("items.uniqueItems", "contains"))):
            spec = GrammarSpec("json_schema", json.dumps(schema))
            for _ in range(2):
                assert await checker.check(spec) == checker.accepted(spec) == keywords
        many = {"properties": {f"p{at}": {"uniqueItems": True} for at in range(100)}}
        assert len(await checker.check(GrammarSpec("json_schema", json.dumps(many)))) == MAX_UNENFORCED
        assert await checker.check(FINE) == (), "a control"


async def test_what_the_last_stage_would_refuse_is_refused_with_its_place(toy: Any) -> None:
    malformed = {"properties": {"a": {"pattern": "(a"}}}
    async with checking(toy.spec) as checker:
        await checker.check(FINE)
        assert checker.accepted(FINE) == ()
        for schema, param in ((malformed, "properties.a.pattern"), ({"items": {"pattern": "a{9,1}"}}, "items.pattern")):
            spec = GrammarSpec("json_schema", json.dumps(schema))
            with pytest.raises(RequestError) as caught:
                await checker.check(spec)
            assert (caught.value.param, caught.value.code) == (param, "unsupported_keyword")
            assert checker.accepted(spec) is None
        for text in ('start: "a"{1000000}', alternatives(2000)):
            with pytest.raises(RequestError, match="too complex to be followed"):
                await checker.check(GrammarSpec("lark", text))
        for text in ('start: "a"{1000}', alternatives(20)):
            await checker.check(GrammarSpec("lark", text))
        with pytest.raises(RequestError, match="kind"):
            await checker.check(GrammarSpec("sonnet", ""))
        with pytest.raises(RequestError, match="longer"):
            await checker.check(GrammarSpec("regex", "a" * (grammar_check.MAX_GRAMMAR_BYTES + 1)))


async def test_verdicts_are_remembered_and_equal_grammars_share_a_trial(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GrammarSpec("spin", str(tmp_path))
    refusals = []

    async def refuse(checker: GrammarChecker) -> None:
        with pytest.raises(RequestError, match=r"more than 0\.2 s of processor time") as caught:
            await checker.check(spec)
        refusals.append(caught.value)

    async with checking(toy.spec, tries_s=(0.1, 0.2)) as checker:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(refuse, checker)
        await refuse(checker)
        assert len(refusals) == 4
        assert len(began(tmp_path)) == 2, "the two tries of one trial"
        await checker.check(FINE)
        monkeypatch.setattr(checker, "_queues", [grammar_check._Queue(0.1, 1, 0)])
        await checker.check(FINE)
        await refuse(checker)
        with pytest.raises(Overloaded):
            await checker.check(GrammarSpec("regex", "a control: another one"))


@pytest.mark.parametrize(("tries_s", "comes_first"), [((0.02, 10.0), True), ((0.2, 0.05), False)])
async def test_an_honest_grammar_does_not_wait_for_hostile_ones(
    toy: Any, tmp_path: Path, tries_s: tuple[float, ...], comes_first: bool
) -> None:
    answered: list[str] = []
    async with checking(toy.spec, tries_s=tries_s) as checker:
        await checker.warm()
        async with anyio.create_task_group() as tasks:

            async def ask(name: str, spec: GrammarSpec) -> None:
                try:
                    await checker.check(spec)
                except RequestError:
                    pass
                answered.append(name)
                if name == "honest":
                    tasks.cancel_scope.cancel()

            for index in range(6):
                (tmp_path / str(index)).mkdir()
                tasks.start_soon(ask, "hostile", GrammarSpec("spin", str(tmp_path / str(index))))
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(ask, "honest", FINE)
    assert (answered[0] == "honest") is comes_first, "a control: without a short slice it waits"


async def test_too_many_slow_grammars_are_refused_and_usual_ones_are_not(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with checking(toy.spec, tries_s=(0.1, 0.2)) as checker:
        monkeypatch.setattr(checker, "_queues", [checker._queues[0], grammar_check._Queue(0.2, 1, 0)])
        with pytest.raises(Overloaded):
            await checker.check(GrammarSpec("spin", str(tmp_path)))
        await checker.check(FINE)
        assert len(began(tmp_path)) == 1


async def test_whose_client_has_gone_is_not_tried_on(toy: Any, tmp_path: Path) -> None:
    async with checking(toy.spec) as checker, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def ask() -> None:
            with scope:
                await checker.check(GrammarSpec("sleep", str(tmp_path)))

        tasks.start_soon(ask)
        (pid,) = await begun(tmp_path)
        assert is_alive(pid)
        scope.cancel()
        await eventually_async(lambda: not is_alive(pid))


async def test_a_process_that_is_killed_costs_no_request(toy: Any, tmp_path: Path) -> None:
    async with checking(toy.spec) as checker:
        for victim in ("trial", "process"):
            folder = tmp_path / victim
            folder.mkdir()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(checker.check, GrammarSpec("sleep once", str(folder)))
                (trial,) = await begun(folder)
                os.kill(trial if victim == "trial" else checker.pids[0], signal.SIGKILL)
                await begun(folder, 2)
            assert len(began(folder)) == 2
            assert not is_alive(trial)
        folder = tmp_path / "twice"
        folder.mkdir()
        errors = []

        async def ask() -> None:
            try:
                await checker.check(GrammarSpec("sleep", str(folder)))
            except EngineError as error:
                errors.append((error.status, error.code))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for count in (1, 2):
                for pid in await begun(folder, count):
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)
        assert errors == [(503, "engine_unavailable")]
        await checker.check(FINE)


async def test_memory_of_a_trial_is_bounded(toy: Any, tmp_path: Path) -> None:
    spec = GrammarSpec("eat", str(tmp_path))
    for max_bytes, is_refused in ((HUNGRY_BYTES // 2, True), (HUNGRY_BYTES * 2, False)):
        async with checking(toy.spec, max_bytes=max_bytes) as checker:
            if is_refused:
                with pytest.raises(RequestError, match="too much memory"):
                    await checker.check(spec)
            else:
                await checker.check(spec)


async def test_a_backend_that_fails_is_named_and_no_other_notices(
    toy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with checking(toy.spec, max_s=2.0) as checker:
        for kind, said in (("raise", "secret of the plugin"), ("exit", "exit code 7"), ("never", "secret")):
            caplog.clear()
            with pytest.raises(PluginFailed, match="grammar backend") as caught:
                await checker.check(GrammarSpec(kind, str(tmp_path)))
            assert "secret" not in str(caught.value)
            assert said in caplog.text
            await checker.check(FINE)
        with pytest.raises(RequestError, match="too long to check"):
            await checker.check(GrammarSpec("sleep", str(tmp_path)))
        assert "threads" in caplog.text


async def test_a_tokenizer_that_cannot_be_read_is_a_refusal_that_names_the_backend(toy: Any, tmp_path: Any) -> None:
    async with checking(VocabularySpec(str(tmp_path), toy.spec.vocab_size, toy.spec.eos_ids)) as checker:
        with pytest.raises(RequestError, match="'llguidance' cannot read this model's tokenizer") as caught:
            await checker.check(FINE)
        assert caught.value.code == "unsupported_parameter"


SERVING = """
import sys
from pathlib import Path
import anyio
from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.messages import GrammarSpec
from histrio.front.grammar_check import GrammarChecker
from trial_backends import all_backends

async def main():
    tokens = VocabularySpec(sys.argv[1], int(sys.argv[2]), (int(sys.argv[3]),))
    checker = GrammarChecker(GrammarKinds(all_backends()), tokens, source=sys.argv[4])
    async with checker.running():
        await checker.check(GrammarSpec("regex", "a"))
        print(*checker.pids, flush=True)
        await checker.check(GrammarSpec("spin", sys.argv[5]))

anyio.run(main, backend_options={"use_uvloop": True})
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_of_trials_whose_front_is_killed(toy: Any, tmp_path: Path, signum: int) -> None:
    tokens = toy.spec
    arguments = [tokens.model, str(tokens.vocab_size), str(tokens.eos_ids[0]), SOURCE, str(tmp_path)]
    command = [sys.executable, "-c", SERVING, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as front:
        assert front.stdout is not None
        pids = [int(each) for each in front.stdout.readline().split()]
        eventually(partial(began, tmp_path), timeout_s=40)
        pids += began(tmp_path)
        assert len(pids) >= 2
        assert is_alive(pids[0])
        front.send_signal(signum)
        front.wait()
    eventually(lambda: not any(is_alive(pid) for pid in [*pids, *began(tmp_path)]))
