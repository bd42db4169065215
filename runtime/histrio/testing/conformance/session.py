"""A run of the kit: the backend from the command line, its models as parameters of the tests, capabilities, the report.

Loaded by the plugin when `--backend` is given.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.backend import Capability
from histrio.errors import HistrioError
from histrio.testing.conformance.kit import Kit, all_cuts
from histrio.testing.conformance.plugin import KIT
from histrio.testing.conformance.remote import WorkerPool
from histrio.testing.conformance.report import Recorder
from histrio.testing.conformance.resolve import judge_at
from histrio.testing.conformance.subject import EngineSubject, StageSubject

__all__ = ["engine", "reader", "subject"]

_KIT = pytest.StashKey[Kit]()


def pytest_configure(config: pytest.Config) -> None:
    """Find the backend and write the models. What is wrong with either ends the run with its reason."""
    folder = tempfile.TemporaryDirectory(prefix="histrio-kit-")
    config.add_cleanup(folder.cleanup)
    options = dict(_option(text) for text in config.getoption("--backend-option"))
    try:
        kit = Kit(config.getoption("--backend"), options, Path(folder.name), config.getoption("--backend-model"))
        if (judge := config.getoption("--judge")) is not None:
            kit.judge = judge_at(judge)
    except HistrioError as error:
        raise pytest.UsageError(str(error)) from error

    config.stash[_KIT] = kit
    report = config.getoption("--conformance-report")
    if report is not None:
        config.pluginmanager.register(Recorder(kit, Path(report)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs with every model that the backend supports, and tests of splits at every cut."""
    if not _is_ours(metafunc.definition):
        return

    kit = metafunc.config.stash[_KIT]
    if "reader" in metafunc.fixturenames:
        metafunc.parametrize("reader", list(kit.text_models) or [_none("reads whole texts")], indirect=True)
        return

    fixture = "subject" if kit.level == "stage" else "engine"
    if fixture not in metafunc.fixturenames:
        return

    if "cuts" not in metafunc.fixturenames:
        metafunc.parametrize(fixture, list(kit.models) or [_none("generates")], indirect=True)
        return

    pairs = [(name, cuts) for name, model in kit.models.items() for cuts in all_cuts(model.num_layers)]
    names = [f"{name}-{'+'.join(map(str, cuts))}" for name, cuts in pairs]
    if not pairs:
        metafunc.parametrize((fixture, "cuts"), [_none("generates", "")])
        return

    metafunc.parametrize((fixture, "cuts"), pairs, indirect=[fixture], ids=names)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the other level are not for this backend. The others go model by model, as one is open at a time."""
    kit = config.stash[_KIT]
    foreign = [item for item in items if _is_ours(item) and not item.path.name.startswith(f"test_{kit.level}_")]
    if foreign:
        config.hook.pytest_deselected(items=foreign)
        items[:] = [item for item in items if item not in foreign]
    ranks = {name: rank for rank, name in enumerate([*kit.models, *kit.text_models])}
    items.sort(key=lambda item: ranks.get(_model_of(item), -1))


@pytest.fixture(scope="session")
def _workers() -> Iterator[WorkerPool]:
    with WorkerPool() as pool:
        yield pool


@pytest.fixture(scope="session")
def _subjects() -> Iterator[dict[str, Any]]:
    made: dict[str, StageSubject | EngineSubject] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def subject(request: pytest.FixtureRequest, _workers: WorkerPool, _subjects: dict[str, Any]) -> StageSubject:
    """The stage backend with one model; the test is skipped if a capability it needs is not declared."""
    kit = request.config.stash[_KIT]
    model = kit.models[request.param]
    found: StageSubject = _one_open(_subjects, model.name, lambda: StageSubject(kit, model, _workers))
    kit.declared[request.param] = found.capabilities
    _skip_undeclared(request, found.capabilities)
    return found


@pytest.fixture
def reader(request: pytest.FixtureRequest, _workers: WorkerPool, _subjects: dict[str, Any]) -> StageSubject:
    """The stage backend with one model that reads whole texts."""
    kit = request.config.stash[_KIT]
    model = kit.text_models[request.param]
    found: StageSubject = _one_open(_subjects, model.name, lambda: StageSubject(kit, model, _workers))
    kit.declared[request.param] = found.capabilities
    return found


@pytest.fixture
def engine(request: pytest.FixtureRequest, _subjects: dict[str, Any]) -> EngineSubject:
    """The engine backend with one model; the test is skipped if a capability it needs is not declared."""
    kit = request.config.stash[_KIT]
    found: EngineSubject = _one_open(_subjects, request.param, lambda: EngineSubject(kit, kit.models[request.param]))
    kit.declared[request.param] = found.capabilities
    _skip_undeclared(request, found.capabilities)
    return found


def _one_open(subjects: dict[str, Any], name: str, make: Any) -> Any:
    """The subject of this name; others free their devices first."""
    for other in subjects.keys() - {name}:
        subjects[other].close()
    if name not in subjects:
        subjects[name] = make()
    return subjects[name]


def _skip_undeclared(request: pytest.FixtureRequest, declared: list[str]) -> None:
    for marker in request.node.iter_markers("needs"):
        missing = [str(capability) for capability in marker.args if Capability(capability) not in declared]
        if missing:
            pytest.skip(f"{', '.join(missing)} not declared")


def _none(what: str, *more: str) -> Any:
    """In place of a model where the backend runs none of this kind."""
    return pytest.param("", *more, marks=pytest.mark.skip(reason=f"it runs no model of the kit that {what}"))


def _model_of(item: pytest.Item) -> str:
    """The name of the model that a test runs with, or nothing."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return str(next((parameters[name] for name in ("subject", "reader", "engine") if name in parameters), ""))


def _is_ours(node: Any) -> bool:
    return bool(node.path.parent == KIT)


def _option(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON where it is that."""
    key, separator, value = text.partition("=")
    if not separator:
        raise pytest.UsageError(f"--backend-option {text!r}: write it as KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
