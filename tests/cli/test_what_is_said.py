"""Input → sentence: what a person wrote, or the world lacks, is answered by what is wrong and what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from histrio.cli.main import main
from histrio.config.gguf.folder import CACHE_VARIABLE
from histrio.contracts.backend import Capability, Probe
from histrio.errors import ModelError
from histrio.plugins.registry import Plugins

WriteModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def paper_plugins(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> Iterator[None]:
    monkeypatch.setattr("histrio.plugins.registry.installed_plugins", lambda: plugins)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(capsys: pytest.CaptureFixture[str], *argv: str, starts_alike: bool = True) -> str:
    """The one line on stderr of a check that fails. A start says the same and has the same exit code, except for what
    only a device process finds out."""
    code = main([*argv, "--check"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    if starts_alike:
        assert (main(argv), capsys.readouterr()) == (code, ("", err))
    return err.removeprefix("rt-launch: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[[stages]]\nlayers = "0:2"\n', "stages: no such table; did you mean [[stage]]?"),
        ("[[api]]\n", "api: there is only one: write [api] with single brackets"),
        ('[api]\napi-keys = [""]\n', "api.api-keys[0]: must be a string of length >= 1, not an empty string"),
        ("a = " + "[" * 5000, "not valid TOML: it is nested too deep"),
        ("a = " + "1" * 5000, "not valid TOML"),
    ],
)
def test_of_a_topology(content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.toml"
    file.write_text(content + ('[model]\npath = "demo"\n' if content.startswith("[") else ""))
    assert words in said(capsys, str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbf[model]\npath = 'demo'\n", "the file begins with a byte order mark (BOM)"),
        ("[model]".encode("utf-16"), "this is not a text file in UTF-8"),
        (b"#" * (5 * 2**20), "the file is larger than 4 MiB"),
    ],
)
def test_of_a_file_that_is_no_topology(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.toml"
    file.write_bytes(content)
    assert words in said(capsys, str(file))


def test_of_a_path_to_a_model(
    write_model: WriteModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "made"))
    folder = write_model()
    (tmp_path / "x.gguf").touch()
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "x-q4.gguf").touch()
    (tmp_path / "cache" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "cache" / "snapshots" / "abc" / "config.json").touch()
    table = {
        "x.gguf": "x.gguf is not a GGUF file: it is empty",
        "./ggufs": "x-q4.gguf is not a GGUF file: it is empty",
        f"{folder}/config.json": "is a file; give the folder that holds config.json",
        f"{folder}/none/deeper": f"there is no folder {folder}/none/deeper ({folder} is there)",
        f"{folder} ": "begins or ends with a blank",
        "https://hub.example/Qwen/Qwen3-0.6B": "not by a web address",
        "./cache": "did you mean cache/snapshots/abc?",
        "y.safetensors": "there is no file y.safetensors here; and a model is named by its folder",
    }
    for path, words in table.items():
        assert words in said(capsys, "--model", path), path


def test_of_devices(write_model: WriteModel, factory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_model())
    factory.machine = Probe(available=True, devices=["cuda:0", "cpu"])
    for device in ("cuda:1", "mps", "abacus"):
        words = f"--device: the backend 'torch' cannot use '{device}' here; it sees cuda:0, cpu"
        assert words in said(capsys, "--model", folder, "--device", device, starts_alike=False)
    for device in ("cuda", "cuda:0", "cpu", "auto"):
        assert main(["--model", folder, "--device", device, "--check"]) == 0, "a control: these are there"


def test_of_a_service_that_cannot_serve_the_model(
    write_model: WriteModel, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(model: Any) -> None:
        raise ModelError(f"{model.path}/tokenizer.json is missing")

    plugins.edges.get("api").check_model = refuse  # type: ignore[attr-defined]
    assert "paper-model/tokenizer.json is missing" in said(capsys, "--model", str(write_model()))


def test_of_a_model_that_names_no_context(write_model: WriteModel, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(max_position_embeddings=None)
    assert "model.max-sequence-length: is needed" in said(capsys, "--model", str(folder)).replace(
        "--max-sequence-length: is", "model.max-sequence-length: is"
    )
    assert main(["--model", str(folder), "--max-sequence-length", "100", "--check"]) == 0
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 300}))
    assert main(["--model", str(folder), "--check"]) == 0
    assert "context    300 tokens" in capsys.readouterr().out


def test_of_what_cannot_act(write_model: WriteModel, factory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_model())
    factory.model = Probe(available=True, capabilities=[Capability.BATCH])
    assert main(["--model", folder, "--check"]) == 0
    assert "the prefix cache cannot act: stage0 cannot share blocks" in capsys.readouterr().out
    assert main(["--model", folder, "--check", "--disable-prefix-cache"]) == 0
    assert "the prefix cache" not in capsys.readouterr().out
    factory.model = Probe(available=True, capabilities=[Capability.BATCH, Capability.PREFIX_SHARE])
    assert main(["--model", folder, "--check"]) == 0
    assert "the prefix cache" not in capsys.readouterr().out, "a control: it can"
