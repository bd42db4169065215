"""Models in GGUF files: a file, a folder that holds one, and a file of the hub by its quantisation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from histrio.config.gguf.choice import choose_gguf
from histrio.config.gguf.folder import CACHE_VARIABLE
from histrio.config.gguf.pointer import read_pointer
from histrio.config.locate import is_local, local_name, locate_model
from histrio.config.weights import read_layer_bytes, weight_files
from histrio.errors import ModelError, ModelUnavailable, UnsupportedModel
from histrio.kit.checkpoint import find_weight_files
from histrio.testing.gguf import Q8_0
from histrio.testing.gguf_models import write_gguf_model
from histrio.testing.models import write_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    return write_gguf_model(write_model("qwen3", folder / "model"), folder / "tiny-Q8_0.gguf", Q8_0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    """In a folder of its own."""
    folder = tmp_path / "models"
    folder.mkdir()
    return Path(shutil.copy(written, folder / written.name))


def test_a_file_and_the_folder_that_holds_it_alone_are_the_same_model(file: Path) -> None:
    folder = locate_model(str(file))
    assert (folder / "config.json").is_file()
    assert read_pointer(folder).paths == [file]
    assert locate_model(str(file.parent)) == folder
    (file.parent / "mmproj-f16.gguf").touch()
    assert locate_model(str(file.parent)) == folder


def test_a_folder_with_safetensors_is_what_it_was(file: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (file.parent / name).write_text("{}")
    assert locate_model(str(file.parent)) == file.parent.resolve()


def test_the_form_of_the_weights_may_be_asked_for(file: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (file.parent / name).write_text("{}")
    folder = str(file.parent)
    assert locate_model(folder, form="gguf") == locate_model(str(file), form="gguf") == locate_model(str(file))
    assert locate_model(folder, form="safetensors") == locate_model(folder) == file.parent.resolve()
    with pytest.raises(UnsupportedModel, match="is a GGUF file, and format = safetensors asks for another"):
        locate_model(str(file), form="safetensors")
    file.unlink()
    with pytest.raises(UnsupportedModel, match=r"has no GGUF file, and format = gguf asks for one"):
        locate_model(folder, form="gguf")


def test_a_folder_with_several_files_names_them(file: Path) -> None:
    shutil.copy(file, file.with_name("tiny-Q4_0.gguf"))
    with pytest.raises(UnsupportedModel, match=r"holds 2 models in GGUF files \(tiny-Q4_0\.gguf, tiny-Q8_0\.gguf\)"):
        locate_model(str(file.parent))


def test_a_broken_file_is_named(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"tiny-Q8_0\.gguf: cut short"):
        locate_model(str(file))


@pytest.mark.parametrize(
    ("path", "fragment"),
    [("none.gguf", "there is no file none.gguf here"), ("owner/name:", "names no GGUF file behind the colon")],
)
def test_what_names_no_file_is_refused(path: str, fragment: str) -> None:
    with pytest.raises(ModelUnavailable, match=fragment):
        locate_model(path)


def test_files_are_local_and_have_names(file: Path, tmp_path: Path) -> None:
    assert is_local(str(file))
    assert not is_local("owner/name:Q4_K_M")
    assert local_name(str(file)) == "tiny-Q8_0"
    assert local_name(str(file.parent)) == "models"
    assert local_name(str(tmp_path / "big-00001-of-00003.gguf")) == "big"


def test_the_bytes_of_layers_are_those_of_the_file(file: Path) -> None:
    folder = locate_model(str(file))
    sizes = read_layer_bytes(folder, 3, 258)
    total = sum(tensor.num_bytes for tensor in read_pointer(folder).tensors)
    assert sum(sizes.layers) + sizes.embedding + sizes.head == total
    assert len(set(sizes.layers)) == 1
    assert weight_files(folder) == [file]
    with pytest.raises(ModelError, match="num_hidden_layers is 4, but there are no weights of layer 3"):
        read_layer_bytes(folder, 4, 258)
    with pytest.raises(ModelError, match="vocab_size is 300, but the embedding in the weights has 258 rows"):
        read_layer_bytes(folder, 3, 300)


@pytest.mark.parametrize("pattern", [None, "model*.safetensors"])
def test_backends_that_read_safetensors_say_which_backend_runs_the_file(file: Path, pattern: str | None) -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny-Q8_0\.gguf is a GGUF file, which the backend `cpu` runs"):
        find_weight_files(locate_model(str(file)), pattern)


NAMES = [
    "README.md",
    "mmproj-Q8_0.gguf",
    "x-IQ4_NL.gguf",
    "x-Q4_K_M.gguf",
    "x-Q4_K_S.gguf",
    "x-UD-Q4_K_S.gguf",
    "Q8_0/x-Q8_0-00001-of-00002.gguf",
    "Q8_0/x-Q8_0-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("Q4_K_M", ["x-Q4_K_M.gguf"]),
        ("q4_k_m", ["x-Q4_K_M.gguf"]),
        ("x-q4_k_s", ["x-Q4_K_S.gguf"]),
        ("x-Q4_K_S.gguf", ["x-Q4_K_S.gguf"]),
        ("UD-Q4_K_S", ["x-UD-Q4_K_S.gguf"]),
        ("Q8_0", ["Q8_0/x-Q8_0-00001-of-00002.gguf", "Q8_0/x-Q8_0-00002-of-00002.gguf"]),
    ],
)
def test_a_quantisation_or_a_name_finds_one_file_with_all_its_parts(tag: str, expected: list[str]) -> None:
    assert choose_gguf(NAMES, tag, "owner/name") == expected


@pytest.mark.parametrize(
    ("names", "tag", "fragment"),
    [
        (NAMES, "Q4_K_S", "2 GGUF files of owner/name are called Q4_K_S: x-Q4_K_S.gguf, x-UD-Q4_K_S.gguf; name one"),
        (NAMES, "Q4_K", "no GGUF file of owner/name is called Q4_K; there are: Q8_0/x-Q8_0-00001-of-00002.gguf, x-IQ4"),
        (["model.safetensors"], "Q4_K", "the model owner/name has no GGUF files"),
    ],
)
def test_none_and_several_are_refused_with_the_names_there_are(names: list[str], tag: str, fragment: str) -> None:
    with pytest.raises(UnsupportedModel, match=fragment):
        choose_gguf(names, tag, "owner/name")


Hub = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub(file: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with the file, or one whose list of files is an error; returns what was downloaded."""

    def install(listing: Exception | None = None, cached: Exception | None = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def list_repo_files(self: object, repo: str, revision: str | None = None) -> list[str]:
            if listing is not None:
                raise listing
            return ["README.md", "tiny-Q4_0.gguf", file.name]

        def snapshot_download(repo_id: str, **options: Any) -> str:
            calls.append({"repo_id": repo_id, **options})
            if cached is not None:
                raise cached
            return str(file.parent)

        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return install


@pytest.mark.parametrize("weights", [True, False])
def test_of_the_hubs_files_one_is_fetched_and_the_tokenizer_beside_it(hub: Hub, file: Path, weights: bool) -> None:
    calls = hub()
    folder = locate_model("owner/name:q8_0", revision="v1", weights=weights)
    assert read_pointer(folder).paths == [file]
    (call,) = calls
    assert (call["repo_id"], call["revision"], call["local_files_only"]) == ("owner/name", "v1", False)
    assert call["allow_patterns"][0] == "tiny-Q8_0.gguf"
    assert "tokenizer.json" in call["allow_patterns"]
    assert not any(pattern.startswith("*") for pattern in call["allow_patterns"])


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_hub_what_is_on_this_machine_is_used(hub: Hub, file: Path, offline: bool) -> None:
    calls = hub(listing=OSError("no route"))
    folder = locate_model("owner/name:Q8_0", offline=offline)
    assert read_pointer(folder).paths == [file]
    assert calls[0]["local_files_only"] is True


def test_without_the_hub_and_without_the_file_both_are_said(hub: Hub) -> None:
    hub(listing=OSError("no route"), cached=errors.LocalEntryNotFoundError("none"))
    with pytest.raises(ModelUnavailable, match="cannot be fetched: no route; and no file of it is on this machine"):
        locate_model("owner/name:Q8_0")
    with pytest.raises(ModelUnavailable, match=r"is not .* on this machine and `offline` is set"):
        locate_model("owner/name:Q8_0", offline=True)


def test_what_the_hub_says_of_a_model_is_no_reason_to_look_elsewhere(hub: Hub) -> None:
    response: Any = SimpleNamespace(status_code=404, headers={}, request=None)
    calls = hub(listing=errors.RepositoryNotFoundError("404", response=response))
    with pytest.raises(ModelUnavailable, match="the hub has no model owner/name"):
        locate_model("owner/name:Q8_0")
    assert calls == []


def test_a_bug_is_not_dressed_up_as_the_hubs_fault(hub: Hub) -> None:
    hub(listing=ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        locate_model("owner/name:Q8_0")


def test_a_model_without_safetensors_is_told_of_the_colon(hub: Hub, file: Path) -> None:
    hub()
    with pytest.raises(UnsupportedModel, match=r"has no \*\.safetensors on the hub; .* owner/name:Q4_K_M"):
        locate_model("owner/name")
