"""The folders of the source tree are layers: a module imports what is below it, and nothing imports in a circle."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "runtime", ROOT / "api", *sorted((ROOT / "plugins").iterdir())]
LAYERS = {
    "histrio": (
        ("errors", "messages", "system", "demo"),
        ("config", "net"),
        ("contracts", "actors"),
        ("plugins", "policies", "children", "kit"),
        ("front", "batching", "kv", "stage", "replica", "hosts"),
        ("plan",),
        ("processes",),
        ("cli",),
    ),
    "histrio_api": (
        ("http", "schemas"),
        ("error_shapes", "keys", "request_log", "text", "usage"),
        ("errors",),
        ("shared",),
        ("request",),
        ("answer",),
        ("forms",),
        ("routes",),
        ("service",),
        ("plugin",),
    ),
}
"""Package → its rooms, the lowest first. Rooms of one layer do not import each other, but for those in `NEIGHBOURS`."""
NEIGHBOURS = {("histrio.messages", "histrio.errors")}
FREE = {"histrio.testing", "histrio_api.testing"}
"""Use everything, and nothing of the service uses them."""

SHARED = {"histrio_torch.arrays", "histrio_torch.devices", "histrio_torch.wire"}
"""Modules of a plugin that other plugins may import: they take or give torch tensors, so the kit cannot have them."""

Imports = Mapping[str, set[str]]


def find_modules(folder: Path) -> dict[str, Path]:
    """Name → file of every module below `folder`."""
    found = {}
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def read_imports(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module → modules that it imports anywhere, inside functions and under TYPE_CHECKING too."""
    return {name: set(_imported(file, modules)) - {name} for name, file in modules.items()}


def _imported(file: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name in modules)
            case ast.ImportFrom(module=str(module), names=names):
                for each in names:
                    full = f"{module}.{each.name}"
                    yield full if full in modules else module
            case _:
                pass


def find_circle(imports: Imports) -> list[str]:
    """The modules of one circle of imports, empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def find_upward(imports: Imports) -> list[str]:
    """`a -> b` for every import inside a package of `LAYERS` that goes up, or sideways into another room."""
    levels = {
        f"{package}.{room}": level
        for package, layers in LAYERS.items()
        for level, rooms in enumerate(layers)
        for room in rooms
    }
    wrong = []
    for module, imported in imports.items():
        room = _room(module)
        if room is None or room in FREE:
            continue
        for other in imported:
            below = _room(other)
            if below is None or below == room or (room, below) in NEIGHBOURS or _package(below) != _package(room):
                continue
            if below in FREE or levels[below] >= levels[room]:
                wrong.append(f"{module} -> {other}")
    return sorted(wrong)


def find_foreign(imports: Imports) -> list[str]:
    """`a -> b` for every import of another plugin's module that is not one of `SHARED`; tests' helpers may."""
    return sorted(
        f"{module} -> {other}"
        for module, imported in imports.items()
        for other in imported - SHARED
        if _plugin(other) and _plugin(module) not in (None, _plugin(other)) and ".testing." not in f"{other}."
    )


def find_undeclared(imports: Imports, dependencies: Mapping[str, set[str]]) -> list[str]:
    """`package -> package` for every plugin that imports another one which its pyproject.toml does not ask for."""
    pairs = {(_plugin(module), _plugin(other)) for module, imported in imports.items() for other in imported}
    return sorted(
        f"{package} -> {other}"
        for package, other in pairs
        if package and other and other not in {package, *dependencies[package]}
    )


def _plugin(module: str) -> str | None:
    package = module.split(".")[0]
    return package if package.startswith("histrio_") and package != "histrio_api" else None


def _room(module: str) -> str | None:
    package, _, rest = module.partition(".")
    return f"{package}.{rest.split('.')[0]}" if package in LAYERS and rest else None


def _package(room: str) -> str:
    return room.partition(".")[0]


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Of all packages together."""
    modules = {name: file for source in SOURCES for name, file in find_modules(source).items()}
    return read_imports(modules)


def test_nothing_imports_in_a_circle(imports: Imports) -> None:
    assert find_circle(imports) == []


def test_no_import_goes_up(imports: Imports) -> None:
    assert find_upward(imports) == []


def test_every_room_has_its_layer(imports: Imports) -> None:
    rooms = {room for module in imports if (room := _room(module)) is not None}
    layered = {f"{package}.{room}" for package, layers in LAYERS.items() for layer in layers for room in layer}
    assert rooms == layered | FREE


def test_a_planted_import_from_the_request_half_into_the_answer_half_is_found() -> None:
    imports = {
        "histrio_api.request.received": {
            "histrio_api.answer.generation",
            "histrio_api.shared.edge",
            "histrio.messages",
        },
        "histrio_api.answer.generation": {"histrio_api.request.received", "histrio.contracts.gateway"},
        "histrio_api.shared.edge": {"histrio_api.request.received", "histrio_api.testing"},
    }
    assert find_upward(imports) == [
        "histrio_api.request.received -> histrio_api.answer.generation",
        "histrio_api.shared.edge -> histrio_api.request.received",
        "histrio_api.shared.edge -> histrio_api.testing",
    ]


def test_plugins_import_of_each_other_only_what_is_shared(imports: Imports) -> None:
    assert find_foreign(imports) == []
    assert {other for imported in imports.values() for other in imported} >= SHARED
    planted = {"histrio_vllm.engine": {"histrio_sglang.weights", "histrio_torch.wire", "histrio.errors"}}
    assert find_foreign(planted) == ["histrio_vllm.engine -> histrio_sglang.weights"]


def test_a_plugin_depends_on_the_plugins_that_it_imports(imports: Imports) -> None:
    dependencies = {}
    for folder in (ROOT / "plugins").iterdir():
        for package in (path.name for path in folder.glob("histrio_*") if path.is_dir()):
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            dependencies[package] = {each.replace("-", "_") for each in project["dependencies"]}
    without_tests = {module: imported for module, imported in imports.items() if ".testing." not in f"{module}."}
    assert find_undeclared(without_tests, dependencies) == []
    dependencies["histrio_vllm"].remove("histrio_torch")
    assert find_undeclared(without_tests, dependencies) == ["histrio_vllm -> histrio_torch"]


def test_a_planted_circle_and_a_planted_upward_import_are_found(tmp_path: Path) -> None:
    for name, text in {
        "kv/actor.py": "def late():\n    from histrio.kv import manager\n",
        "kv/manager.py": "from histrio.kv.prefix import x\n",
        "kv/prefix.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import histrio.kv.actor\n",
        "contracts/backend.py": "from histrio.stage import slots\n",
        "stage/slots.py": "from histrio.front.requests import y\n",
        "front/requests.py": "from histrio.contracts import backend\n",
    }.items():
        file = tmp_path / "histrio" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    imports = read_imports(find_modules(tmp_path))
    assert set(find_circle(imports)) >= {"histrio.kv.actor"} or set(find_circle(imports)) >= {"histrio.stage.slots"}
    assert find_upward(imports) == [
        "histrio.contracts.backend -> histrio.stage.slots",
        "histrio.stage.slots -> histrio.front.requests",
    ]
    del imports["histrio.contracts.backend"]
    assert set(find_circle(imports)) == {"histrio.kv.actor", "histrio.kv.manager", "histrio.kv.prefix"}
