"""From the name of a model to a folder on this machine: a shipped one, an existing folder, or an id of the hub.

Only safetensors, JSON, tokenizer files and chat templates are fetched: no pickled weights and no code. Whatever goes
wrong becomes one sentence that says what failed and what to do; the hub's own tracebacks never reach a user.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["DEMO", "DEMO_DRAFT", "is_folder", "locate_model", "remote_tensors"]

DEMO = "demo"
"""Id of the small model that ships with histrio."""
DEMO_DRAFT = "demo-draft"
"""Id of the still smaller one that drafts for it."""

_CONFIGURATION = ["*.json", "tokenizer*", "*.jinja"]
_WEIGHTS = ["*.safetensors"]
_NEVER = ["*/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.py"]
"""Never fetched: other copies of the weights, pickles, code, and subfolders, which hold exports to other formats."""
_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests")
"""Packages whose errors mean the network or the hub."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def locate_model(path: str, *, revision: str | None = None, offline: bool = False, weights: bool = True) -> Path:
    """Folder with config.json of the model `path` names, fetched from the hub if it has to be.

    Without `weights` only the configuration is fetched. Raises `ModelUnavailable`, `UnsupportedModel`.
    """
    if path in (DEMO, DEMO_DRAFT):
        return _shipped(path)

    folder = Path(path).expanduser()
    if not os.path.isdir(folder):  # unlike Path.is_dir it never raises
        _check_path(path, folder)
        folder = _fetch(path, revision, offline, weights)
        if weights and not any(folder.glob("*.safetensors")):
            raise UnsupportedModel(f"the model {path} has no *.safetensors on the hub, and nothing else is read")

    _check_files(folder)
    return folder.resolve()


def is_folder(path: str) -> bool:
    """Whether a model's path names a folder of this machine, so that nothing has to be fetched."""
    return path not in (DEMO, DEMO_DRAFT) and os.path.isdir(Path(path).expanduser())


def remote_tensors(repo: str, *, revision: str | None, offline: bool) -> list[tuple[str, int]] | None:
    """Name and bytes of every tensor of a hub's model, read from the headers of its files; None if that cannot be."""
    if offline or _is_offline() or is_folder(repo):
        return None

    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        metadata = HfApi().get_safetensors_metadata(repo, revision=revision)
    except (NotASafetensorsRepoError, SafetensorsParsingError):
        return None
    except Exception as error:
        if _reason(error, repo, revision, offline) is None:
            raise
        return None
    return [
        (name, tensor.data_offsets[1] - tensor.data_offsets[0])
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    ]


def _shipped(name: str) -> Path:
    try:
        from histrio.demo import draft_path, target_path

        folder = target_path() if name == DEMO else draft_path()
    except (ImportError, FileNotFoundError):
        folder = None
    if folder is None or not (folder / "config.json").is_file():
        raise ModelUnavailable("this installation of histrio does not contain the demo model; reinstall the package")
    return folder


def _check_path(path: str, folder: Path) -> None:
    """Refuse what can be no id of the hub, and say what was probably meant. Raises `ModelError`."""
    if path != path.strip():
        raise ModelUnavailable("the model's path begins or ends with a blank; remove it")
    if path.startswith(("http://", "https://")):
        raise ModelUnavailable("a model is named by its folder or its id on the hub (OWNER/NAME), not by a web address")
    if os.path.exists(folder):
        if path.lower().endswith(".gguf"):
            raise UnsupportedModel(f"{path} is a GGUF file, which is not read; {_ABOUT_GGUF}")
        raise UnsupportedModel(f"{path} is a file; give the folder that holds config.json and *.safetensors")
    if path.startswith(("/", "./", "../", "~", ".")) or path.count("/") > 1 or "\\" in path or path.endswith("/"):
        raise ModelUnavailable(f"there is no folder {path}{_nearest(folder)}")
    if path.lower().endswith((".gguf", ".safetensors")):
        raise ModelUnavailable(
            f"there is no file {path} here; and a model is named by its folder, or its id on the hub"
        )


_ABOUT_GGUF = (
    "take the safetensors form of the model, or make it: with transformers and gguf installed, "
    "AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME).save_pretrained(NEW), and the same with AutoTokenizer"
)


def _nearest(folder: Path) -> str:
    """Which part of a path is there: what is wrong comes behind it."""
    there = next((str(parent) for parent in folder.parents if os.path.isdir(parent)), "")
    return f" ({there} is there)" if there not in ("", ".", "/") else ""


def _check_files(folder: Path) -> None:
    """Refuse by name what is no model, or holds its weights only in a form that is not read.

    A folder without any weights passes: whether it needs some is the backend's matter.
    """
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise ModelUnavailable(f"{folder} cannot be read: {error.strerror}") from None

    if any(name.endswith(".safetensors") for name in names) and "config.json" in names:
        return
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if ggufs:
        raise UnsupportedModel(f"{folder} holds GGUF weights ({ggufs[0]}), which are not read; {_ABOUT_GGUF}")
    if "config.json" not in names:
        raise UnsupportedModel(
            f"{folder} has no config.json, so it is not a model in the layout of transformers{_inner_model(folder)}"
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise UnsupportedModel(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when they are loaded; "
            "convert them to safetensors"
        )


def _inner_model(folder: Path) -> str:
    """A model that lies deeper, as in the cache of the hub."""
    found = next((file for pattern in ("*", "snapshots/*") for file in folder.glob(f"{pattern}/config.json")), None)
    return "" if found is None else f"; did you mean {found.parent}?"


def _fetch(repo: str, revision: str | None, offline: bool, weights: bool) -> Path:
    """The repository's snapshot in the hub's cache; downloads what is missing, with bars on a terminal."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty():
        enable_progress_bars()
    else:
        disable_progress_bars()
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=offline or _is_offline(),
                allow_patterns=_CONFIGURATION + (_WEIGHTS if weights else []),
                ignore_patterns=_NEVER,
            )
        )
    except Exception as error:
        reason = _reason(error, repo, revision, offline)
        if reason is None:
            raise
        raise ModelUnavailable(reason) from None


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _reason(error: Exception, repo: str, revision: str | None, offline: bool) -> str | None:
    """What went wrong with the hub, in one sentence; None for what is not the hub's (a bug)."""
    from huggingface_hub import errors

    version = f" at revision {revision}" if revision else ""
    match error:
        case errors.GatedRepoError():
            return f"the model {repo} is gated: accept its licence on the hub and set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"the model {repo} has no revision {revision} on the hub"
        case errors.RepositoryNotFoundError():
            return f"the hub has no model {repo}{_hint(repo)}; if it is private, set HF_TOKEN"
        case errors.HFValidationError():
            return f"{repo!r} is neither `demo`, nor a folder, nor a model id of the hub (OWNER/NAME)"
        case errors.LocalEntryNotFoundError() if offline or _is_offline():
            switch = "`offline` is set" if offline else "HF_HUB_OFFLINE is set"
            return f"the model {repo}{version} is not (completely) on this machine and {switch}{_hint(repo)}"
        case errors.LocalEntryNotFoundError():
            return (
                f"the model {repo}{version} is not on this machine and the hub cannot be reached: "
                f"{_cause(error)}{_hint(repo)}; check the network"
            )
        case errors.HfHubHTTPError():
            return f"the hub refused the model {repo}{version}: {_cause(error)}"
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS:
        return f"the model {repo}{version} cannot be fetched: {_cause(error)}"
    return None


def _cause(error: Exception) -> str:
    """The innermost reason, in one short line."""
    innermost: BaseException = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    return (str(innermost).strip() or type(innermost).__name__).splitlines()[0][:200]


def _hint(repo: str) -> str:
    """A folder that was probably meant: people leave out a part of the path."""
    if "/" in repo and Path(repo.split("/")[0]).is_dir():
        return f" (and there is no folder {repo} here)"
    if repo.lower() == DEMO:
        return f" (did you mean {DEMO!r}?)"
    return " (and no folder of that name is here)"
