"""Loading plugins: one that is broken stops nothing, and every message names the plugin."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

from histrio.cli.plugin_report import describe_plugins, plugin_sentences
from histrio.contracts.backend import Probe, StageSpec, Traits
from histrio.contracts.first_contract import StageBackend
from histrio.contracts.hooks import hookimpl
from histrio.errors import PluginError
from histrio.plugins.registry import Plugins, load_plugins
from histrio.policies import builtin as builtin_policies
from tests.plugins.plugin_pieces import BACKEND, install


class Abacus:
    """A sound backend on paper."""

    traits = Traits(contract=1)

    def __init__(self, name: str) -> None:
        self.name = name

    def probe(self) -> Probe:
        return Probe(available=True)

    def supports(self, spec: StageSpec) -> Probe:
        return Probe(available=True)

    def create(self) -> StageBackend:
        raise NotImplementedError


def offering(*names: str) -> Any:
    """A plugin with these backends."""

    class Offer:
        @hookimpl
        def register_backends(self, register: Callable[[Any], None]) -> None:
            for name in names:
                register(Abacus(name))

    return Offer()


def load(site: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.syspath_prepend(str(site))
    here = [point for point in entry_points(group="histrio") if point.name.endswith("_entry")]
    assert here
    return load_plugins(here)


def test_an_installed_distribution_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "pl_found", BACKEND)
    plugins = load(tmp_path, monkeypatch)
    assert plugins.backends.owners == {"abacus": "pl_found_entry [pl_found 1.2]"}
    assert (plugins.failed, plugins.defects) == ([], [])
    assert list(plugin_sentences(plugins)) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_missing_library", "ModuleNotFoundError: No module named 'a_missing_library'"),
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Odd(BaseException): pass\nraise Odd('bye')", "Odd: bye"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("x = = 1", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_recorded_and_others_work(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = abs(hash(source))
    install(tmp_path, f"pl_broken_{number}", source)
    install(tmp_path, f"pl_good_{number}", BACKEND)
    plugins = load(tmp_path, monkeypatch)
    assert list(plugins.backends.owners) == ["abacus"]
    assert [failed.name for failed in plugins.failed] == [f"pl_broken_{number}_entry [pl_broken_{number} 1.2]"]
    assert reason in plugins.failed[0].reason
    assert plugins.providers["register_backends"] == [f"pl_good_{number}_entry [pl_good_{number} 1.2]"]
    assert f"the plugin pl_broken_{number}_entry" in next(plugin_sentences(plugins))


def test_what_an_import_prints_is_said_and_kept_from_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "pl_chatty", "print('hello')\n" + BACKEND)
    plugins = load(tmp_path, monkeypatch)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")
    assert list(plugins.backends.owners) == ["abacus"]
    assert "prints when it is imported" in "".join(plugin_sentences(plugins))


def test_a_slow_import_is_said_with_its_time() -> None:
    plugins = Plugins()
    plugins.add(offering("abacus"), "slow")
    assert list(plugin_sentences(plugins)) == []
    plugins.loaded[0].took_s = 4.23
    (sentence,) = plugin_sentences(plugins)
    assert "the plugin slow computes for 4.2 s when it is imported" in sentence
    assert "  - computes for 4.2 s when it is imported" in describe_plugins(plugins)


def test_a_name_claimed_twice_is_neithers_and_both_plugins_are_named() -> None:
    plugins = Plugins()
    plugins.add(offering("abacus", "one"), "first")
    plugins.add(offering("abacus", "two"), "second")
    plugins.add(offering("abacus"), "third")
    text = "the backend 'abacus' is registered by both first and second; uninstall one"
    with pytest.raises(PluginError, match=text):
        plugins.backends.get("abacus")
    assert plugins.backends.owners == {"one": "first", "two": "second"}, "everything else can be used"
    assert [(each.plugin, each.text) for each in plugins.defects] == [("second", text), ("third", text)]


def test_a_name_that_comes_with_histrio_stays_its_own() -> None:
    plugins = Plugins()
    plugins.add(builtin_policies, "policies", is_own=True)

    class Usurper(builtin_policies.InOrder):
        name = "priority"

    class Offer:
        @hookimpl
        def register_batching_policies(self, register: Callable[[Any], None]) -> None:
            register(Usurper)

    plugins.add(Offer(), "usurper")
    assert plugins.batching_policies.get("priority") is builtin_policies.ByPriority
    assert "comes with histrio (policies): give this one another name" in plugins.defects[0].text


def test_one_plugin_cannot_offer_a_name_twice() -> None:
    plugins = Plugins()
    plugins.add(offering("abacus", "abacus"), "only")
    with pytest.raises(PluginError, match="'abacus' is registered twice by only: give one another name"):
        plugins.backends.get("abacus")


def test_an_unknown_name_lists_the_known_ones_their_owners_and_what_failed() -> None:
    plugins = load_plugins([EntryPoint("broken", "a_missing_module", "histrio")])
    plugins.add(offering("abacus"), "first")
    with pytest.raises(PluginError) as caught:
        plugins.backends.get("abakus")
    text = str(caught.value)
    assert "did you mean 'abacus'" in text
    assert "abacus (by first)" in text
    assert "the plugin broken cannot load: ModuleNotFoundError" in text


def test_a_target_found_twice_on_the_path_is_loaded_once() -> None:
    point = EntryPoint("twice", "histrio.policies.builtin", "histrio")
    plugins = load_plugins([point, point])
    assert (plugins.failed, plugins.defects) == ([], [])
    assert [loaded.name for loaded in plugins.loaded] == ["twice"]


def test_one_module_under_two_names_is_refused_and_stays_usable() -> None:
    plugins = Plugins()
    plugin = offering("abacus")
    plugins.add(plugin, "first")
    plugins.add(plugin, "second")
    assert [failed.name for failed in plugins.failed] == ["second"]
    assert plugins.backends.owners == {"abacus": "first"}


def test_the_distributions_of_this_repository_load() -> None:
    plugins = load_plugins()
    assert (plugins.failed, plugins.defects) == ([], [])
    assert "torch" in plugins.backends
    assert "api" in plugins.edges
    assert {"temperature", "top_k", "top_p"} <= set(plugins.samplers.owners)
