"""Each hook has an example file that works, and its documentation names it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.grammar import GrammarKinds
from histrio.contracts.hooks import EdgeContext
from histrio.contracts.policy import Load
from histrio.contracts.reasoning_format import WrittenAnswer
from histrio.contracts.tool_format import WrittenCall
from histrio.errors import Overloaded, RequestError
from histrio.messages import Ask, Generate, GrammarSpec, RequestState
from histrio.plugins.hook_calls import hook_names
from histrio.plugins.registry import Plugins
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.tool_formats import tool_format_faults
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_samplers.temperature import Temperature

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = {
    "register_backends": "counting_backend.py",
    "register_samplers": "eta_sampler.py",
    "register_grammars": "digits_grammar.py",
    "register_tool_formats": "arrow_calls.py",
    "register_reasoning_formats": "arrow_calls.py",
    "register_edges": "line_edge.py",
    "register_drafters": "one_more_drafter.py",
    "register_batching_policies": "paid_first_policy.py",
    "register_admission_policies": "per_key_admission.py",
    "on_request_finished": "usage_hooks.py",
    "on_interval": "usage_hooks.py",
    "on_actor_failed": "usage_hooks.py",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=2)


def example(hook: str) -> tuple[ModuleType, Plugins]:
    """The file as a module, and the plugins that it is."""
    file = DOCS / "examples" / HOOKS[hook]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plugins = Plugins()
    plugins.add(module, file.name)
    assert (plugins.failed, plugins.defects) == ([], [])
    assert plugins.providers[hook] == [file.name]
    return module, plugins


def test_every_hook_has_an_example_that_its_documentation_names() -> None:
    assert list(HOOKS) == hook_names()
    sections = (DOCS / "hooks.md").read_text().split("\n## `")
    for hook, file in HOOKS.items():
        (section,) = [each for each in sections if each.startswith(f"{hook}(")]
        assert f"docs/examples/{file}" in section
        example(hook)


@pytest.mark.anyio
async def test_the_drafter_changes_no_token_and_comes_true_sometimes(model: Path) -> None:
    module, plugins = example("register_drafters")
    options = HarnessOptions(drafter=plugins.drafters.get("one-more"), drafter_options={"most-tokens": 2})
    async with serving(model, ToyFactory(), samplers=[Temperature]) as plain:
        expected = await plain.generate([3, 1, 4, 1, 5], 40)
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        assert await harness.generate([3, 1, 4, 1, 5], 40) == expected
    drafter = module.OneMore(module.OneMoreOptions(most_tokens=2))
    drafter.open(Generate(1, [7, 8, 9, 6, 7], 5, 99), [7, 8, 9, 6, 7])
    assert drafter.propose({1: 5})[1].ids == [8, 9]
    drafter.extend(1, [5])
    assert drafter.propose({1: 5}) == {}, "a control: it never said that before"


@pytest.mark.anyio
async def test_the_grammar_gives_so_many_digits(model: Path) -> None:
    _, plugins = example("register_grammars")
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    digits = {vocabulary[digit] for digit in "0123456789"}
    async with serving(model, ToyFactory(), samplers=[Temperature], grammars=list(plugins.grammars)) as harness:
        eos_ids = harness.gateway.model.eos_ids
        submission = Submission(
            [5, 6], 20, Ask({"temperature": 0.0}, eos_ids=eos_ids, grammar=GrammarSpec("digits", "4"))
        )
        tokens, state = await harness.run(submission)
        free = await harness.generate([5, 6], 5)
    assert state is RequestState.FINISHED_EOS
    assert len(tokens) == 5
    assert set(tokens[:4]) <= digits
    assert not set(free) <= digits, "a control: without the grammar other tokens come"
    backend = GrammarKinds(plugins.grammars).backend(GrammarSpec("digits", ""))
    for text in ("0", "101", "many", "-1"):
        with pytest.raises(RequestError, match="number of digits from 1 to 100"):
            backend.check(GrammarSpec("digits", text))


def test_the_formats_tell_calls_and_reasoning_from_text() -> None:
    _, plugins = example("register_tool_formats")
    arrow = plugins.tool_formats.get("arrow")
    assert tool_format_faults(arrow) == []
    source = "((think)) {% for call in calls %}-> {{ call.name }} {{ call.arguments }}{% endfor %}"
    assert arrow.recognises(WrittenCall('-> f {"k": "v"}', source, "f", {"k": "v"}))
    assert not arrow.recognises(WrittenCall('f {"k": "v"}', source, "f", {"k": "v"})), "a control"
    brackets = plugins.reasoning_formats.get("brackets")
    assert brackets.recognises(WrittenAnswer("", source, ""))
    parser = brackets.parser("maybe", has_tools=False)
    found = [parser.push(char) for char in "((So.))-> no"]
    assert "".join(reasoning for reasoning, _ in found) == "So."
    assert "".join(answer for _, answer in found) == "-> no"


def test_the_batching_policy_lets_paying_requests_overtake() -> None:
    module, _ = example("register_batching_policies")
    policy = module.PaidFirst(module.PaidFirstOptions(free_behind=3))
    assert policy.handicap(Generate(1, [1], 1, 2, Ask(cache_salt="paid:ada"))) == 0
    assert policy.handicap(Generate(2, [1], 1, 2)) == 3


@pytest.mark.anyio
async def test_the_admission_policy_bounds_each_key(model: Path) -> None:
    module, _ = example("register_admission_policies")
    policy = module.PerKey(module.PerKeyOptions(most=2))
    async with serving(
        model, ToyFactory(), samplers=[Temperature], options=HarnessOptions(admission=policy)
    ) as harness:
        submit = harness.gateway.submit
        (first,) = submit(Submission([1], 300, Ask({"temperature": 0.0}), key="a"))
        (second,) = submit(Submission([2], 300, Ask({"temperature": 0.0}), key="a"))
        with pytest.raises(Overloaded, match="this key may have 2 requests running"):
            submit(Submission([3], 5, key="a"))
        (other,) = submit(Submission([3], 5, Ask({"temperature": 0.0}), key="b"))
        first.cancel()
        (third,) = submit(Submission([3], 5, Ask({"temperature": 0.0}), key="a"))
        for stream in (second, other, third):
            stream.cancel()
    policy.admit(Submission([1], 1, num_choices=2, key="a"), Load(0, 9, 0, 0))


@pytest.mark.anyio
async def test_the_edge_answers_lines(model: Path) -> None:
    module, plugins = example("register_edges")
    async with serving(model, ToyFactory(), samplers=[Temperature]) as harness:
        expected = await harness.generate([1, 2, 3], 6)
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        context = EdgeContext(harness.gateway, module.LinesSettings(max_new_tokens=6), address.set_result)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(plugins.edges.get("lines").run, context)
            host, _, port = (await address).partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"1 2 3\nnonsense\n")
            assert await reader.readline() == (" ".join(map(str, expected)) + "\n").encode()
            assert (await reader.readline()).startswith(b"error: ")
            writer.close()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_hooks_that_watch_count_tokens_by_key(model: Path) -> None:
    _, plugins = example("on_interval")
    options = HarnessOptions(watching=plugins.watching, metrics_interval_s=0.5)
    async with serving(model, ToyFactory(), samplers=[Temperature], options=options) as harness:
        await harness.run(Submission([1, 2, 3], 7, Ask({"temperature": 0.0}), key="k1"))
        shown = {'plugin_tokens_total{plugin="usage_hooks.py",key="k1"}': 10}
        await eventually_async(lambda: harness.gateway.status.plugin_metrics == shown)
