"""Policies: which request enters first, which is accepted at all, and one of each from a file outside of the tree."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from histrio.batching.lease import BlockLease
from histrio.batching.scheduler import Scheduler
from histrio.batching.step_plan import SchedulerLimits
from histrio.config.settings import AdmissionSettings, BatchingSettings
from histrio.contracts.gateway import Submission, TokenStream
from histrio.contracts.options import NoOptions
from histrio.contracts.policy import BatchingPolicy, Load
from histrio.errors import Overloaded
from histrio.front.requests import RequestTable, Ticket
from histrio.messages import Ask, Generate, RequestState, TokenRow
from histrio.plan.policies import admission_policy, batching_policy
from histrio.plugins.registry import Plugins, installed_plugins
from histrio.policies.builtin import (
    BoundedTokens,
    BoundedTokensOptions,
    ByPriority,
    Credits,
    InOrder,
    PriorityOptions,
    ShortestFirst,
    ShortestFirstOptions,
)
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

GREEDY: dict[str, Any] = {"temperature": 0.0}
BY_PRIORITY, IN_ORDER = ByPriority(PriorityOptions()), InOrder(NoOptions())
SHORTEST_FIRST = ShortestFirst(ShortestFirstOptions())
HOOKS_PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
BOUNCER = """
from histrio.errors import Overloaded
from histrio.contracts.hooks import hookimpl
from histrio.contracts.options import NoOptions


class EvenOnly:
    name = "even-only"
    options = NoOptions
    loads = []

    def __init__(self, options):
        pass

    def admit(self, submission, load):
        self.loads.append(load)
        if len(submission.ids) % 2:
            raise Overloaded("odd prompts come later", retry_after_s=7)


@hookimpl
def register_admission_policies(register):
    register(EvenOnly)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=3)


def command(number: int, num_tokens: int = 4, priority: int = 0) -> Generate:
    return Generate(number, [1] * num_tokens, num_tokens, num_tokens + 4, Ask(priority=priority))


# --- which enters first---------------------------------------------------------------------------------------------


def entered(policy: BatchingPolicy | None, commands: list[Generate]) -> list[int]:
    """The requests in the order in which they enter a batch of one."""
    limits = SchedulerLimits(1, 10_000, 4, 100_000, has_prefix_cache=False)
    lease = BlockLease()
    lease.add(list(range(9000)), 0)
    scheduler = Scheduler(limits, lease, handicap=policy.handicap) if policy else Scheduler(limits, lease)
    for each in commands:
        scheduler.add(each)
    found = []
    for _ in commands:
        plan = scheduler.plan()
        assert plan is not None
        found.append(plan.sequences[0].request)
        scheduler.cancel(found[-1], RequestState.CANCELLED)
    return found


def test_the_number_of_a_priority_decides_and_equal_ones_enter_as_they_came() -> None:
    commands = [command(1, priority=2), command(2), command(3, priority=1), command(4)]
    assert entered(BY_PRIORITY, commands) == [2, 4, 3, 1]
    assert entered(IN_ORDER, commands) == [1, 2, 3, 4], "a control: another policy, another order"


def test_a_scheduler_that_is_told_nothing_goes_by_priority() -> None:
    commands = [command(number, priority=(5 * number) % 3) for number in range(1, 90)]
    assert entered(None, commands) == entered(BY_PRIORITY, commands) != entered(IN_ORDER, commands)


def test_short_prompts_enter_before_long_ones_of_the_same_priority() -> None:
    commands = [command(1, 4000), command(2, 900), command(3, 5, priority=1), command(4, 5), command(5, 100)]
    assert entered(SHORTEST_FIRST, commands) == [4, 5, 2, 1, 3]
    assert entered(BY_PRIORITY, commands) == [1, 2, 4, 5, 3]


@pytest.mark.parametrize(
    ("policy", "most"),
    [(SHORTEST_FIRST, 64), (BY_PRIORITY, 0), (IN_ORDER, 0)],
)
def test_a_long_prompt_is_overtaken_by_a_bounded_number(policy: BatchingPolicy, most: int) -> None:
    commands = [command(1, 30_000), *(command(number, 5) for number in range(2, 200))]
    assert most - 1 <= entered(policy, commands).index(1) <= most


def test_options_say_what_priorities_and_lengths_are_worth() -> None:
    by_priority = [command(1, priority=1), *(command(number) for number in range(2, 60))]
    for places in (0, 3, 32):
        assert entered(ByPriority(PriorityOptions(places)), by_priority).index(1) == places
    by_length = [command(1, 1000), *(command(number, 5) for number in range(2, 60))]
    cases = ((ShortestFirstOptions(), 7), (ShortestFirstOptions(32, 100), 10), (ShortestFirstOptions(32, 10, 20), 20))
    for options, places in cases:
        assert entered(ShortestFirst(options), by_length).index(1) == places
    both = ShortestFirst(ShortestFirstOptions(places_per_priority=5))
    assert entered(both, by_priority).index(1) == 5, "the worth of a priority is the same setting there"


# --- which is accepted ----------------------------------------------------------------------------------------------


def loaded(num_requests: int, num_tokens: int, num_cache_tokens: int = 1000) -> Load:
    return Load(num_requests, 100, num_tokens, num_cache_tokens)


def test_tokens_beyond_a_multiple_of_the_cache_have_to_wait() -> None:
    policy = BoundedTokens(BoundedTokensOptions(times=2.0))
    submission = Submission([1] * 100, 400)
    policy.admit(submission, loaded(3, 1500))
    with pytest.raises(Overloaded, match="come to 1501 tokens, and this one to 500 more; 2000"):
        policy.admit(submission, loaded(3, 1501))
    with pytest.raises(Overloaded):
        policy.admit(Submission([1] * 100, 400, num_choices=2), loaded(3, 1500))


def test_an_idle_replica_and_one_that_loads_accept_whatever_comes() -> None:
    policy = BoundedTokens(BoundedTokensOptions(times=0.1))
    submission = Submission([1] * 100, 900, num_choices=8)
    policy.admit(submission, loaded(0, 0))
    policy.admit(submission, loaded(5, 5000, num_cache_tokens=0))
    with pytest.raises(Overloaded):
        policy.admit(submission, loaded(1, 10))


def test_credits_leave_it_at_the_number_of_requests() -> None:
    Credits(NoOptions()).admit(Submission([1] * 100, 10**6), loaded(99, 10**9))
    table = RequestTable(1, policy=Credits(NoOptions()))
    take(table, Submission([1], 5))
    with pytest.raises(Overloaded, match="all 1 request slots"):
        table.accept(Submission([1], 5))


def take(table: RequestTable, submission: Submission) -> list[int]:
    commands = table.accept(submission)
    for each in commands:
        table.add(Ticket(each, 100.0, lambda _row: None))
    return [each.request for each in commands]


def test_the_load_counts_what_is_unfinished_however_it_ends() -> None:
    table = RequestTable(10)
    table.num_cache_tokens = 640
    first, second = take(table, Submission([1, 2, 3], 7, num_choices=2))
    third, fourth = take(table, Submission([1], 4)) + take(table, Submission([1], 1))
    assert table.load == Load(4, 10, 10 + 10 + 5 + 2, 640)
    table.deliver(TokenRow(first, [5], RequestState.FINISHED_EOS))
    table.deliver(TokenRow(third, [5], RequestState.DECODING))
    assert table.load.num_tokens == 17, "what is under way counts whole"
    assert table.remove(second)
    assert not table.remove(second)
    assert table.load == Load(2, 10, 7, 640)
    table.expire(100.0)
    assert table.load == Load(0, 10, 0, 640)
    table.deliver(TokenRow(fourth, [5], RequestState.FINISHED_EOS))
    assert table.load.num_tokens == 0


def test_a_policy_is_asked_after_the_credits_and_its_refusal_takes_none() -> None:
    asked: list[Load] = []

    class Never:
        name: ClassVar[str] = "never"
        options: ClassVar[type[msgspec.Struct]] = NoOptions

        def admit(self, submission: Submission, load: Load) -> None:
            asked.append(load)
            raise Overloaded("no")

    table = RequestTable(2, policy=Never())
    with pytest.raises(Overloaded, match="all 2 request slots"):
        table.accept(Submission([1], 1, num_choices=3))
    assert asked == []
    with pytest.raises(Overloaded, match="no"):
        table.accept(Submission([1], 1))
    assert asked == [Load(0, 2, 0, 0)]
    assert len(table) == 0


def test_those_of_the_core_are_registered_through_the_hooks() -> None:
    plugins = installed_plugins()
    for registry, names in (
        (plugins.batching_policies, ["priority", "fifo", "shortest-first"]),
        (plugins.admission_policies, ["credits", "tokens"]),
    ):
        owners = {registry.owners[name] for name in names}
        assert len(owners) == 1
        assert owners.pop().startswith("policies [histrio ")


def test_every_policy_and_option_stands_in_the_docs_with_its_default() -> None:
    page = HOOKS_PAGE.read_text(encoding="utf-8")
    plugins = installed_plugins()
    for policy in (*plugins.batching_policies, *plugins.admission_policies):
        assert f"| `{policy.name}` |" in page
        row = page.split(f"| `{policy.name}` |")[1].split("\n")[0]
        options = dict(re.findall(r"`([a-z-]+) = ([0-9.]+)`", row))
        fields = msgspec.structs.fields(policy.options)
        assert options == {field.encode_name: f"{field.default:g}" for field in fields}


# --- from outside of the tree ----------------------------------------------------------------------------------------


@pytest.fixture
def load_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Plugins, ModuleType]]:
    """Write a plugin of one file, and take it in as an entry point would be."""

    def load(text: str) -> tuple[Plugins, ModuleType]:
        file = tmp_path / "my_policy.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location("my_policy", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "my_policy", module)
        spec.loader.exec_module(module)
        plugins = Plugins()
        plugins.add(module, "mine")
        assert plugins.failed == []
        return plugins, module

    return load


async def finished(harness: Harness, salts: list[str]) -> list[str]:
    """The salts of requests in the order in which these end, when all have come while another one runs."""
    ended: list[str] = []
    (running,) = harness.gateway.submit(Submission([9], 480, Ask(GREEDY)))
    await running.__anext__()
    streams = [harness.gateway.submit(Submission([1, 2], 2, Ask(GREEDY, cache_salt=salt)))[0] for salt in salts]

    async def read(salt: str, stream: TokenStream) -> None:
        async for _delta in stream:
            pass
        ended.append(salt)

    async with anyio.create_task_group() as tasks:
        for salt, stream in zip(salts, streams, strict=True):
            tasks.start_soon(read, salt, stream)
        running.cancel()
    return ended


@pytest.mark.anyio
async def test_the_batching_policy_of_the_docs_orders_requests(model: Path, load_plugin: Any) -> None:
    plugins, _ = load_plugin(HOOKS_PAGE.read_text().split("```python\n")[2].split("```")[0])
    settings = BatchingSettings(batching_policy="paid-first", batching_policy_options={"free-behind": 4})
    policy = batching_policy(settings, plugins)
    salts = ["free:1", "paid:1", "free:2", "paid:2"]
    options = HarnessOptions(max_batch_size=1, policy=policy, stage_options={"step-s": 0.005})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        assert await finished(harness, salts) == ["paid:1", "paid:2", "free:1", "free:2"]
    plain = HarnessOptions(max_batch_size=1, stage_options={"step-s": 0.005})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=plain) as harness:
        assert await finished(harness, salts) == salts, "a control: without it they enter as they came"


@pytest.mark.anyio
async def test_an_admission_policy_of_one_file_is_asked_about_every_submission(model: Path, load_plugin: Any) -> None:
    plugins, module = load_plugin(BOUNCER)
    options = HarnessOptions(
        admission=admission_policy(AdmissionSettings(admission_policy="even-only"), plugins),
        max_unfinished_requests=5,
        stage_options={"step-s": 0.001},
    )
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        (stream,) = harness.gateway.submit(Submission([1, 2], 200, Ask(GREEDY)))
        with pytest.raises(Overloaded, match="odd prompts come later") as refused:
            harness.gateway.submit(Submission([1, 2, 3], 4, Ask(GREEDY)))
        assert (refused.value.status, refused.value.retry_after_s) == (429, 7)
        assert module.EvenOnly.loads == [Load(0, 5, 0, 256 * 4), Load(1, 5, 202, 256 * 4)]
        stream.cancel()
        assert len(await harness.generate([1, 2], 4)) == 4
        assert module.EvenOnly.loads[-1] == Load(0, 5, 0, 256 * 4), "what was cancelled counts no more"


@pytest.mark.anyio
async def test_the_queue_is_as_long_as_there_are_credits(model: Path) -> None:
    options = HarnessOptions(max_batch_size=1, max_unfinished_requests=3, stage_options={"step-s": 0.001})
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        streams = [harness.gateway.submit(Submission([number], 40, Ask(GREEDY)))[0] for number in range(3)]
        with pytest.raises(Overloaded, match="all 3 request slots are taken"):
            harness.gateway.submit(Submission([9], 4, Ask(GREEDY)))
        await streams[0].__anext__()
        gauges = harness.gateway.status.gauges
        streams[1].cancel()
        assert len(await harness.generate([9], 4)) == 4, "the credit came back"
        for stream in (streams[0], streams[2]):
            async for _delta in stream:
                pass
        await eventually_async(lambda: not gauges.get("running_sequences") and not gauges.get("used_blocks"))


@pytest.mark.anyio
async def test_as_many_tokens_are_accepted_as_the_blocks_hold_a_few_times(model: Path) -> None:
    options = HarnessOptions(
        num_cache_blocks=20, admission=BoundedTokens(BoundedTokensOptions(times=2.0)), stage_options={"step-s": 0.001}
    )
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        submission = Submission([1, 2], 58, Ask(GREEDY))
        streams = [harness.gateway.submit(submission)[0] for _ in range(2)]
        with pytest.raises(Overloaded, match="160"):
            harness.gateway.submit(submission)
        streams += harness.gateway.submit(Submission([1, 2], 38, Ask(GREEDY)))
        for stream in streams:
            async for _delta in stream:
                pass
        assert len(await harness.generate([1, 2], 58)) == 58
