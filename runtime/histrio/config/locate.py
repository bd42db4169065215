"""From the name of a model to a folder on this machine: a shipped one, a folder, a GGUF file, or an id of the hub.

Whatever goes wrong becomes one sentence that says what failed and what to do.
"""

from __future__ import annotations

import os
from pathlib import Path

from histrio.config.gguf.folder import folder_of_gguf
from histrio.config.gguf.model import first_files, model_name
from histrio.config.gguf.pointer import is_gguf_folder
from histrio.config.hub import fetch_gguf, fetch_snapshot
from histrio.errors import ModelUnavailable, UnsupportedModel

__all__ = ["DEMO", "DEMO_DRAFT", "is_local", "local_name", "locate_model"]

DEMO = "demo"
"""Id of the small model that ships with histrio."""
DEMO_DRAFT = "demo-draft"
"""Id of the still smaller one that drafts for it."""

_GGUF = ".gguf"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_SHOWN = 6


def locate_model(
    path: str, *, revision: str | None = None, offline: bool = False, weights: bool = True, form: str = "auto"
) -> Path:
    """Folder with config.json of the model `path` names, fetched from the hub if it has to be.

    Without `weights` only the configuration is fetched; that of a GGUF file is in the file, so it is fetched whole. The
    folder of a GGUF file is made of it, in the user's cache. `form` is `safetensors`, `gguf`, or `auto`, which takes
    safetensors where a folder has both. Raises `ModelUnavailable`, `UnsupportedModel`.
    """
    found = _locate(path, revision, offline, weights, form)
    if form == "gguf" and not is_gguf_folder(found):
        raise UnsupportedModel(
            f"{path} has no GGUF file, and format = gguf asks for one; of a hub's model name it: {path}:Q4_K_M"
        )
    if form == "safetensors" and is_gguf_folder(found):
        raise UnsupportedModel(f"{path} is a GGUF file, and format = safetensors asks for another")
    return found


def _locate(path: str, revision: str | None, offline: bool, weights: bool, form: str) -> Path:
    if path in (DEMO, DEMO_DRAFT):
        return _shipped(path)

    local = Path(path).expanduser()
    if os.path.isdir(local):  # unlike Path.is_dir it never raises
        gguf = None if form == "safetensors" else _gguf_in(local, is_preferred=form == "gguf")
        if gguf is not None:
            return folder_of_gguf(gguf)
        _check_files(local)
        return local.resolve()
    if os.path.isfile(local) and path.lower().endswith(_GGUF):
        return folder_of_gguf(local)

    _check_path(path, local)
    repo, colon, tag = path.partition(":")
    if colon:
        return folder_of_gguf(fetch_gguf(repo, tag, revision, offline))
    folder = fetch_snapshot(path, revision, offline, weights)
    if weights and not any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f"the model {path} has no *.safetensors on the hub; if it has GGUF files, name one of them: {path}:Q4_K_M"
        )
    _check_files(folder)
    return folder.resolve()


def is_local(path: str) -> bool:
    """Whether a model's path names a folder or a GGUF file of this machine, so that nothing has to be fetched."""
    local = Path(path).expanduser()
    return path not in (DEMO, DEMO_DRAFT) and (os.path.isdir(local) or os.path.isfile(local))


def local_name(path: str) -> str:
    """What a model of this machine is called: its folder, or its file without the ending. Of a link its own name."""
    local = Path(os.path.abspath(Path(path).expanduser()))
    return local.name if os.path.isdir(local) else model_name(local)


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
        raise UnsupportedModel(
            f"{path} is a file; give the folder that holds config.json and *.safetensors, or a file in *{_GGUF}"
        )
    if path.startswith(("/", "./", "../", "~", ".")) or path.count("/") > 1 or "\\" in path or path.endswith("/"):
        raise ModelUnavailable(f"there is no folder {path}{_nearest(folder)}")
    if ":" not in path and path.lower().endswith((_GGUF, ".safetensors")):
        raise ModelUnavailable(
            f"there is no file {path} here; and a model is named by its folder, its GGUF file, or its id on the hub"
        )
    if path.endswith(":"):
        raise ModelUnavailable(f"{path} names no GGUF file behind the colon, such as {path}Q4_K_M")


def _nearest(folder: Path) -> str:
    """Which part of a path is there: what is wrong comes behind it."""
    there = next((str(parent) for parent in folder.parents if os.path.isdir(parent)), "")
    return f" ({there} is there)" if there not in ("", ".", "/") else ""


def _gguf_in(folder: Path, *, is_preferred: bool = False) -> Path | None:
    """The only model in GGUF files of a folder that holds no other, or no matter which others.

    Raises `UnsupportedModel` where there are several.
    """
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return None  # said by `_check_files`
    if not is_preferred and "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return None

    found = first_files(names)
    if len(found) > 1:
        shown = ", ".join(found[:_MOST_SHOWN]) + (" …" if len(found) > _MOST_SHOWN else "")
        raise UnsupportedModel(f"{folder} holds {len(found)} models in GGUF files ({shown}); name one of the files")
    return folder / found[0] if found else None


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
