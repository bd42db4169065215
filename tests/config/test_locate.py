"""Where a model comes from: the demo, a folder, the hub; and one plain sentence when it cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from histrio.config.hub import remote_tensors
from histrio.config.locate import locate_model
from histrio.errors import ModelUnavailable, UnsupportedModel


def make_folder(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def response(status: int) -> Any:
    """What the hub's errors carry of a response, whichever HTTP library the client uses."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Put an answer (a folder, or an error to raise) in place of the hub; returns the calls made."""

    def install(answer: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, **options: Any) -> str:
            calls.append({"repo_id": repo_id, **options})
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return install


def test_an_existing_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "config.json", "model.safetensors")
    assert locate_model(str(folder)) == folder.resolve()


def test_a_relative_folder_of_one_word_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "model", "config.json", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert locate_model("model") == folder.resolve()


@pytest.mark.parametrize("path", ["./none", "/none/such", "~/none-such", "a/b/c", "../none", "none/"])
def test_what_looks_like_a_folder_is_never_asked_of_the_hub(path: str, hub: Callable[[Any], list[Any]]) -> None:
    calls = hub(RuntimeError("asked"))
    with pytest.raises(ModelUnavailable, match="there is no folder"):
        locate_model(path)
    assert calls == []


@pytest.mark.parametrize(
    ("names", "fragment"),
    [
        ((), "no config.json"),
        (("config.json", "pytorch_model.bin"), r"only pickled weights \(pytorch_model.bin\)"),
    ],
)
def test_weights_in_other_forms_are_refused_by_name(tmp_path: Path, names: tuple[str, ...], fragment: str) -> None:
    folder = make_folder(tmp_path / "model", *names)
    with pytest.raises(UnsupportedModel, match=fragment):
        locate_model(str(folder))


def test_a_folder_without_any_weights_is_left_to_the_backend(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "config.json")
    assert locate_model(str(folder)) == folder.resolve()


def test_a_hub_model_without_safetensors_is_refused(tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    hub(make_folder(tmp_path / "snapshot", "config.json"))
    with pytest.raises(UnsupportedModel, match="the model owner/name has no"):
        locate_model("owner/name")


def test_the_hub_gives_safetensors_and_texts_but_no_pickles_and_no_code(
    tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]]
) -> None:
    folder = make_folder(tmp_path / "snapshot", "config.json", "model.safetensors")
    calls = hub(folder)
    assert locate_model("owner/name", revision="v1") == folder.resolve()
    (call,) = calls
    assert (call["repo_id"], call["revision"], call["local_files_only"]) == ("owner/name", "v1", False)

    from huggingface_hub.utils import filter_repo_objects

    files = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "modeling_evil.py",
        "onnx/model.safetensors",
        "README.md",
    ]
    kept = set(
        filter_repo_objects(files, allow_patterns=call["allow_patterns"], ignore_patterns=call["ignore_patterns"])
    )
    assert kept == set(files[:7])


def test_a_check_fetches_no_weights(tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    calls = hub(make_folder(tmp_path / "snapshot", "config.json"))
    locate_model("owner/name", weights=False)
    assert "*.safetensors" not in calls[0]["allow_patterns"]
    assert "*.json" in calls[0]["allow_patterns"]


@pytest.mark.parametrize("variable", [None, "1", "true"])
def test_offline_is_a_setting_or_a_variable(
    variable: str | None, tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = hub(make_folder(tmp_path / "snapshot", "config.json", "model.safetensors"))
    if variable is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", variable)
    locate_model("owner/name", offline=variable is None)
    assert calls[0]["local_files_only"] is True


FAILURES = {
    "no network": (
        chained(errors.LocalEntryNotFoundError("Got: ConnectError\nlong text"), OSError("Name or service not known")),
        "is not on this machine and the hub cannot be reached: Name or service not known",
    ),
    "no such repository": (errors.RepositoryNotFoundError("404", response=response(404)), "the hub has no model"),
    "gated": (errors.GatedRepoError("403", response=response(403)), "accept its licence on the hub and set HF_TOKEN"),
    "no such revision": (errors.RevisionNotFoundError("404", response=response(404)), "has no revision v9"),
    "hub is down": (errors.HfHubHTTPError("503 Server Error\nmore", response=response(503)), "503 Server Error"),
    "not an id": (errors.HFValidationError("bad"), "neither `demo`, nor a folder, nor a model id"),
    "disk full": (OSError(28, "No space left on device"), "cannot be fetched: .*No space left"),
}


@pytest.mark.parametrize("case", list(FAILURES))
def test_what_the_hub_says_becomes_one_sentence(case: str, hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    error, fragment = FAILURES[case]
    hub(error)
    with pytest.raises(ModelUnavailable, match=fragment) as caught:
        locate_model("owner/name", revision="v9")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_offline_and_not_cached_names_the_switch(hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    hub(errors.LocalEntryNotFoundError("not cached"))
    with pytest.raises(ModelUnavailable, match=r"not \(completely\) on this machine and `offline` is set"):
        locate_model("owner/name", offline=True)


def test_a_mistyped_folder_is_hinted_at(
    tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    hub(errors.RepositoryNotFoundError("404", response=response(404)))
    with pytest.raises(ModelUnavailable, match="there is no folder models/qwen here"):
        locate_model("models/qwen")


def test_an_error_of_the_http_client_is_the_networks(hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    timeout = type("ReadTimeout", (Exception,), {"__module__": "httpx"})("timed out")
    hub(timeout)
    with pytest.raises(ModelUnavailable, match="cannot be fetched: timed out"):
        locate_model("owner/name")


def test_a_bug_is_not_dressed_up_as_the_hubs_fault(hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    hub(ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        locate_model("owner/name")


def test_remote_headers_give_name_and_bytes_of_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": SimpleNamespace(data_offsets=(10, 30)), "b": SimpleNamespace(data_offsets=(30, 31))}
    metadata = SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})
    monkeypatch.setattr(huggingface_hub.HfApi, "get_safetensors_metadata", lambda self, repo, revision=None: metadata)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert remote_tensors("owner/name", revision=None, offline=False) == [("a", 20), ("b", 1)]
    assert remote_tensors("owner/name", revision=None, offline=True) is None


@pytest.mark.parametrize("error", [OSError("no network"), errors.NotASafetensorsRepoError("none")])
def test_remote_headers_are_an_estimate_one_can_do_without(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, repo: str, revision: str | None = None) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "get_safetensors_metadata", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert remote_tensors("owner/name", revision=None, offline=False) is None


def test_the_real_client_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="`offline` is set"):
        locate_model("owner/name-that-is-not-cached", offline=True)


def test_a_demo_that_was_not_shipped_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histrio.demo.target_path", lambda: tmp_path)
    with pytest.raises(ModelUnavailable, match="does not contain the demo model"):
        locate_model("demo")


def test_the_demo_is_found_where_it_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "target", "config.json", "model.safetensors")
    monkeypatch.setattr("histrio.demo.target_path", lambda: tmp_path / "target")
    assert locate_model("demo") == tmp_path / "target"
