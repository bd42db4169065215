"""Loading plugins: one that is broken stops nothing, and every message names who is meant."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from histrio.backend import Traits
from histrio.errors import PluginError
from histrio.hooks import hookimpl
from histrio.plugins import Plugins, load_plugins

GOOD = """
from types import SimpleNamespace
from histrio.backend import Traits
from histrio.hooks import hookimpl

@hookimpl
def register_backends(register):
    register(SimpleNamespace(name="{backend}", traits=Traits(contract=1)))
"""


def offering(*names: str) -> Any:
    """A plugin with these backends."""

    class Offer:
        @hookimpl
        def register_backends(self, register: Callable[[Any], None]) -> None:
            for name in names:
                register(SimpleNamespace(name=name, traits=Traits(contract=1)))

    return Offer()


def install(site: Path, module: str, source: str) -> None:
    """A distribution with one plugin module, as pip would leave it in a site folder."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[histrio]\n{module}_entry = {module}\n")


def load(site: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.syspath_prepend(str(site))
    here = [point for point in entry_points(group="histrio") if point.name.endswith("_entry")]
    assert here
    return load_plugins(here)


def test_an_installed_distribution_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "pl_found", GOOD.format(backend="abacus"))
    plugins = load(tmp_path, monkeypatch)
    assert plugins.backends.owners == {"abacus": "pl_found_entry [pl_found 1.2]"}
    assert plugins.failed == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_library_nobody_has", "ModuleNotFoundError: No module named 'a_library_nobody_has'"),
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = = 1", "SyntaxError"),
        (GOOD.format(backend="x").replace("register_backends", "register_backend"), "did you mean 'register_backends'"),
        (GOOD.format(backend="x").replace("(register)", "(registry)", 1), "PluginValidationError"),
        (GOOD.format(backend="x") + "    raise OSError('late')", "OSError: late"),
        (
            GOOD.format(backend="x").replace("contract=1", "contract=2"),
            "version 2 of the contract, and this histrio has 1",
        ),
    ],
)
def test_a_plugin_that_cannot_load_is_recorded_and_others_work(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = abs(hash(source))
    install(tmp_path, f"pl_broken_{number}", source)
    install(tmp_path, f"pl_good_{number}", GOOD.format(backend="abacus"))
    plugins = load(tmp_path, monkeypatch)
    assert list(plugins.backends.owners) == ["abacus"]
    assert [failed.name for failed in plugins.failed] == [f"pl_broken_{number}_entry [pl_broken_{number} 1.2]"]
    assert reason in plugins.failed[0].reason
    assert plugins.providers["register_backends"] == [f"pl_good_{number}_entry [pl_good_{number} 1.2]"]


def test_a_name_claimed_twice_names_both_plugins() -> None:
    plugins = Plugins()
    plugins.add(offering("abacus"), "first")
    with pytest.raises(PluginError, match="'abacus' is registered by both first and second"):
        plugins.add(offering("abacus"), "second")


def test_one_plugin_cannot_offer_a_name_twice() -> None:
    with pytest.raises(PluginError, match="by both only and only"):
        Plugins().add(offering("abacus", "abacus"), "only")


def test_an_unknown_name_lists_the_known_ones_their_owners_and_what_failed() -> None:
    plugins = load_plugins([EntryPoint("broken", "a_module_nobody_has", "histrio")])
    plugins.add(offering("abacus"), "first")
    with pytest.raises(PluginError) as caught:
        plugins.backends.get("abakus")
    text = str(caught.value)
    assert "did you mean 'abacus'" in text
    assert "abacus (by first)" in text
    assert "the plugin broken cannot load: ModuleNotFoundError" in text


def test_a_target_found_twice_on_the_path_is_loaded_once() -> None:
    point = EntryPoint("twice", "histrio.hooks", "histrio")
    plugins = load_plugins([point, point])
    assert plugins.failed == []
    assert [name for name, _ in plugins.manager.list_name_plugin()] == ["twice"]


def test_one_module_under_two_names_is_refused_and_stays_usable() -> None:
    plugins = Plugins()
    plugin = offering("abacus")
    plugins.add(plugin, "first")
    plugins.add(plugin, "second")
    assert [failed.name for failed in plugins.failed] == ["second"]
    assert plugins.backends.owners == {"abacus": "first"}
    assert plugins.manager.is_registered(plugin)


def test_the_distributions_of_this_repository_load() -> None:
    plugins = load_plugins()
    assert plugins.failed == []
    assert "torch" in plugins.backends
    assert "api" in plugins.edges
    assert {"temperature", "top_k", "top_p"} <= set(plugins.samplers.owners)
