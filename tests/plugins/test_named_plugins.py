"""Plugins that a person names: from a file or a module, in every process, and every mistake in a sentence."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from histrio.cli.main import main
from histrio.contracts.backend import StageSpec
from histrio.errors import PluginError
from histrio.plan.probe import ask_in, traits_in
from histrio.plugins.registry import installed_plugins, load_plugins
from histrio.plugins.sources import NAMED_PLUGINS, name_plugins

PLUGIN = """
from beside import DEVICES
from histrio.contracts.backend import Probe, Traits
from histrio.contracts.hooks import hookimpl


class Abacus:
    name = "{name}"
    traits = Traits(contract=1)

    def probe(self):
        print("counting")
        return Probe(available=True, devices=DEVICES)

    def supports(self, spec):
        return Probe(available=False, reason="no beads")

    def create(self):
        raise NotImplementedError


@hookimpl
def register_backends(register):
    register(Abacus())
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment, the search path and the modules are put back."""
    monkeypatch.setenv(NAMED_PLUGINS, "")
    path, handlers = sys.path[:], logging.getLogger().handlers[:]
    yield
    sys.path[:] = path
    logging.getLogger().handlers[:] = handlers
    for name in [name for name in sys.modules if name.startswith("abacus_") or name == "beside"]:
        del sys.modules[name]


def write(folder: Path, name: str) -> Path:
    """A plugin file that imports another one beside it."""
    (folder / "beside.py").write_text("DEVICES = ['beads']\n")
    file = folder / f"{name}.py"
    file.write_text(PLUGIN.format(name=name))
    return file


def named(*names: str) -> list[str]:
    """The sentences about those that cannot be loaded."""
    name_plugins(names)
    return [f"{each.name}: {each.reason}" for each in load_plugins([], os.environ.get(NAMED_PLUGINS, "")).failed]


def test_a_file_is_a_plugin_here_and_in_every_process(tmp_path: Path) -> None:
    file = write(tmp_path, "abacus_one")
    name_plugins([str(file)])
    plugins = installed_plugins()
    assert plugins.backends.owners["abacus_one"] == "abacus_one.py"
    assert "torch" in plugins.backends, "what is installed is there as well"
    assert traits_in(sys.executable, "abacus_one").level == "stage"
    answer = ask_in(sys.executable, 0, "abacus_one", StageSpec(str(tmp_path), 0, 1, 1))
    assert answer.machine is not None
    assert answer.model is not None
    assert (answer.machine.devices, answer.model.reason) == (["beads"], "no beads")
    name_plugins([])
    assert "abacus_one" not in installed_plugins().backends


def test_a_relative_path_and_a_module_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "abacus_two")
    monkeypatch.chdir(tmp_path)
    assert named("./abacus_two.py", "abacus_two.py") == []
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "abacus_three")
    name_plugins(["abacus_three"])
    plugins = load_plugins([], os.environ[NAMED_PLUGINS])
    assert plugins.backends.owners == {"abacus_three": "abacus_three"}


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("none.py", None, "none.py: there is no such file"),
        ("folder/none.py", None, "none.py: there is no such file"),
        ("my-plugin.py", "", "my-plugin.py: the file's name must be that of a Python module, such as my_plugin.py"),
        ("json.py", "", "json.py: there is another module called json: rename the file"),
        ("colorsys.py", "", "colorsys.py: there is another module called colorsys: rename the file"),
        ("torn.py", "def f(:\n", "torn.py: SyntaxError: invalid syntax (torn.py, line 1)"),
        ("leaves.py", "import sys; sys.exit(4)", "leaves.py: SystemExit: 4"),
        ("lacks.py", "import a_missing_library", "lacks.py: ModuleNotFoundError: No module named 'a_missing_lib"),
        ("no.such.module", None, "no.such.module: ModuleNotFoundError: No module named 'no'"),
        ("not a module", None, "not a module: this is neither a file that ends in .py nor the name of a module"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    name: str, source: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / name).write_text(source)
    (sentence,) = named(name)
    assert sentence.startswith(said)


def test_a_path_with_a_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="cannot contain ':'"):
        name_plugins([str(tmp_path / "a:b" / "x.py")])


def test_the_command_lists_it_and_does_not_start_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "abacus_four")
    assert main(["--plugins", "--plugin", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "  abacus_four.py       backend 'abacus_four'" in out
    assert "abacus_four          available on beads  (abacus_four.py)" in out
    assert err == "counting\n"

    topology = tmp_path / "t.toml"
    topology.write_text(f'[model]\npath = "demo"\n[runtime]\nplugins = ["{file}"]\n')
    assert main([str(topology), "--plugins"]) == 0
    assert "abacus_four.py" in capsys.readouterr().out

    assert main(["--model", "demo", "--plugin", str(tmp_path / "gone.py")]) == 2
    assert capsys.readouterr().err == "rt-launch: --plugin: gone.py cannot be loaded: there is no such file\n"
    topology.write_text('[model]\npath = "demo"\n[runtime]\nplugins = "x.py"\n')
    assert main([str(topology), "--plugins"]) == 2
    assert "runtime.plugins: must be a list, not a string" in capsys.readouterr().err


def test_a_defect_that_is_not_used_stops_nothing_and_one_that_is_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "abacus_five")
    file.write_text(file.read_text().replace("supports(self, spec)", "supports(self)"))
    assert main(["--model", "demo", "--backend", "toy", "--plugin", str(file), "--check"]) == 1
    err = capsys.readouterr().err
    assert "the plugin abacus_five.py: the backend 'abacus_five' has the method supports()" in err
    assert err.splitlines()[-1].startswith("rt-launch: stage[0]:"), "a control: the toy refuses the model, nothing else"
    assert main(["--model", "demo", "--plugin", str(file), "--backend", "abacus_five", "--check"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "rt-launch: --backend: the backend 'abacus_five' has the method supports(), which is called as"
    )
