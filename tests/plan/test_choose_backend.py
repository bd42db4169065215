"""`auto` is the native backend where nothing speaks against it, and torch elsewhere; a name is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.config.settings import MemorySettings
from histrio.config.topology import StageTable, parse_tables
from histrio.contracts.backend import Probe, StageSpec
from histrio.contracts.hooks import hookimpl
from histrio.errors import BackendError
from histrio.plan import choose
from histrio.plan.resolve import resolve
from histrio.plugins.registry import Plugins
from tests.plan.paper import PaperFactory


class Native(PaperFactory):
    """A backend under the name of the native one."""

    name = "cpu"


class NativePlugin:
    def __init__(self, factory: Native) -> None:
        self.factory = factory

    @hookimpl
    def register_backends(self, register: Callable[[Any], None]) -> None:
        register(self.factory)


@pytest.fixture
def native(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Native:
    """Installed on a machine without an accelerator."""
    monkeypatch.setattr(choose, "find_accelerator", lambda: "")
    factory = Native()
    plugins.add(NativePlugin(factory), "native [native 1.0]")
    return factory


def chosen(plugins: Plugins, folder: Path, *stages: dict[str, Any], **engine: Any) -> list[str]:
    """The backend of each stage."""
    tables = {"model": {"path": str(folder)}, "engine": engine, "stage": list(stages) or [{}]}
    return [stage.backend for stage in resolve(parse_tables(tables), plugins).stages]


def test_the_native_backend_is_taken_where_nothing_speaks_against_it(
    native: Native, plugins: Plugins, write_model: Callable[..., Path]
) -> None:
    folder = write_model()
    assert chosen(plugins, folder) == ["cpu"]
    assert chosen(plugins, folder, {"device": "cpu"}, {}) == ["cpu", "cpu"]
    assert chosen(plugins, folder, {"backend": "torch"}, {}) == ["torch", "cpu"]


def test_without_it_torch_computes(plugins: Plugins, write_model: Callable[..., Path]) -> None:
    assert chosen(plugins, write_model()) == ["torch"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (StageSpec("x", 0, 6, 6, device="cuda"), "the device is cuda"),
        (StageSpec("x", 0, 6, 6, memory=MemorySettings(kv_cache_dtype="int8")), "keeps no keys and values as int8"),
        (StageSpec("x", 0, 6, 6, adapter="y"), "applies no adapters"),
        (StageSpec("x", 0, 6, 6, device="cpu"), ""),
    ],
)
def test_what_it_cannot_do_is_torchs(spec: StageSpec, reason: str, native: Any) -> None:
    said = choose._reason_against(StageTable(), spec, native)

    assert reason in said
    assert bool(said) is bool(reason)


def test_a_stage_of_another_environment_is_torchs(native: Any) -> None:
    assert choose._reason_against(StageTable(python="x"), StageSpec("x", 0, 6, 6), native)


@pytest.mark.parametrize("kind", ["machine", "model", "raises", "accelerator"])
def test_a_refusal_or_an_accelerator_leaves_it_to_torch(
    kind: str,
    native: Native,
    plugins: Plugins,
    write_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing() -> Probe:
        raise BackendError("it was not built")

    match kind:
        case "machine":
            monkeypatch.setattr(native, "probe", lambda: Probe(False, "it was not built", "build it"))
        case "model":
            native.model = Probe(False, "it was not built for this model", "use torch")
        case "raises":
            monkeypatch.setattr(native, "probe", failing)
        case _:
            monkeypatch.setattr(choose, "find_accelerator", lambda: "it was not built, for there is cuda")
    with caplog.at_level(logging.INFO):
        assert chosen(plugins, write_model()) == ["torch"]
    assert "it was not built" in caplog.text


@pytest.mark.parametrize(
    ("build", "devices", "visible", "found"),
    [
        ("2.13.0+cu130", ["/dev/nvidia0"], None, "cuda"),
        ("2.13.0", ["/dev/kfd"], None, "cuda"),
        ("2.13.0+cu130", ["/dev/nvidia0"], "", ""),
        ("2.13.0+cpu", ["/dev/nvidia0"], None, ""),
        ("2.13.0+cu130", [], None, ""),
    ],
)
def test_accelerators_are_found_without_torch(
    build: str, devices: list[str], visible: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "version", lambda _name: build)
    monkeypatch.setattr(choose, "_exists", devices.__contains__)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose.find_accelerator() == found
