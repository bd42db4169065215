"""The Hugging Face hub: fetches what a model needs, and says in one sentence what went wrong.

Only safetensors, GGUF, JSON, tokenizer files and chat templates are fetched: no pickled weights and no code.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from histrio.config.gguf.choice import choose_gguf
from histrio.errors import ModelUnavailable

__all__ = ["fetch_gguf", "fetch_snapshot", "remote_tensors"]

_CONFIGURATION = ["*.json", "tokenizer*", "*.jinja"]
_WEIGHTS = ["*.safetensors"]
_BESIDE_GGUF = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
_NEVER = ["*/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.py"]
"""Never fetched: other copies of the weights, pickles, code, and subfolders, which hold exports to other formats."""
_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests")
"""Packages whose errors mean the network or the hub."""
_SHIPPED = "demo"
"""A name that is no id of the hub."""


def fetch_snapshot(repo: str, revision: str | None, offline: bool, weights: bool) -> Path:
    """The repository's folder in the hub's cache; without `weights` it has only the configuration.

    Raises `ModelUnavailable`.
    """
    patterns = _CONFIGURATION + (_WEIGHTS if weights else [])
    return _download(repo, revision, offline, patterns, _NEVER)


def fetch_gguf(repo: str, tag: str, revision: str | None, offline: bool) -> Path:
    """The GGUF file of a repository that `tag` names (the first of its parts), and what describes it better.

    Without the hub what is in its cache is used. Raises `ModelUnavailable`; `UnsupportedModel` with the names there
    are, where none or several match.
    """
    chosen = choose_gguf(_names(repo, revision, offline), tag, repo)
    patterns = [*map(glob.escape, chosen), *_BESIDE_GGUF]
    return _download(repo, revision, offline, patterns, []) / chosen[0]


def remote_tensors(repo: str, *, revision: str | None, offline: bool) -> list[tuple[str, int]] | None:
    """Name and bytes of every tensor of a hub's model, read from the headers of its files; None if that cannot be."""
    if offline or _is_offline():
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


def _names(repo: str, revision: str | None, offline: bool) -> list[str]:
    """Names of the repository's files; where the hub cannot be asked, of those that are on this machine."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if offline or _is_offline():
        return _names_here(repo, revision, offline)
    try:
        return list(HfApi().list_repo_files(repo, revision=revision))
    except Exception as error:
        reason = _reason(error, repo, revision, offline)
        if reason is None:
            raise
        if isinstance(error, HfHubHTTPError | HFValidationError):
            raise ModelUnavailable(reason) from None
    try:
        return _names_here(repo, revision, offline)
    except ModelUnavailable:
        raise ModelUnavailable(f"{reason}; and no file of it is on this machine") from None


def _names_here(repo: str, revision: str | None, offline: bool) -> list[str]:
    folder = _download(repo, revision, True, ["*.gguf"], [])
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix.lower() == ".gguf"]


def _download(repo: str, revision: str | None, offline: bool, patterns: Sequence[str], never: Sequence[str]) -> Path:
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
                allow_patterns=list(patterns),
                ignore_patterns=list(never),
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
    if repo.lower() == _SHIPPED:
        return f" (did you mean {_SHIPPED!r}?)"
    return " (and no folder of that name is here)"
