"""A model folder of a GGUF file: the JSON files that its metadata make, and a link to the file.

Folders are kept in the user's cache, one for each state of each file, and the oldest are removed. What lies beside the
file and describes the model better than the file can is taken instead: its tokenizer and its chat template.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.model import GgufModel, read_gguf_model, split_files
from histrio.config.gguf.model_config import generation_config, make_config
from histrio.config.gguf.pointer import POINTER, GgufPointer, file_state
from histrio.config.gguf.vocabulary import make_tokenizer, make_tokenizer_config
from histrio.config.model_files import open_model_file
from histrio.errors import ModelError

__all__ = ["CACHE_VARIABLE", "MOST_FOLDERS", "cache_folder", "folder_of_gguf"]

CACHE_VARIABLE = "HISTRIO_GGUF_CACHE"
"""Environment variable that names another folder for what is made of GGUF files."""
MOST_FOLDERS = 32
"""So many are kept, those that were used last."""
_FORM = 1
"""Counted up where a change here makes other folders of the same files."""
_HASHED_BYTES = 2**20
"""Of the beginning of each file."""
_UNFINISHED = ".new-"
_ABANDONED_S = 3600
"""An unfinished folder of that age was left by a process that ended."""
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
"""Files beside a GGUF file that win over what is in it."""


def folder_of_gguf(file: Path) -> Path:
    """The model folder of a GGUF file, made if it is not there. Any part of a split set stands for the set.

    Raises `ModelError` with file and fault, `UnsupportedModel` with the remedy, `ModelUnavailable` for missing parts.
    """
    file = file.absolute()
    files = split_files(file)
    beside = [each for name in _BESIDE if (each := file.parent / name).is_file()]
    cache = cache_folder()
    folder = cache / f"{files[0].stem[:60]}-{_identity(files, beside)}"
    if (folder / POINTER).is_file():
        os.utime(folder)
        return folder

    try:
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache))
    except OSError as error:
        raise ModelError(
            f"{cache} cannot be written ({error.strerror}), and what is read out of {file} is kept there; set "
            f"{CACHE_VARIABLE} to another folder"
        ) from None
    try:
        _fill(unfinished, read_gguf_model(file), beside)
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _remove_oldest(cache, keep=folder)
    return folder


def cache_folder() -> Path:
    """Where the folders are."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "histrio" / "gguf"


def _identity(files: list[Path], beside: list[Path]) -> str:
    """The same for the same files in the same state."""
    digest = hashlib.sha256(f"{_FORM}".encode())
    for file in (*files, *beside):
        digest.update(msgspec.json.encode(file_state(file)))
    for file in files:
        with open_model_file(file) as stream:
            digest.update(stream.read(_HASHED_BYTES))
    return digest.hexdigest()[:16]


def _fill(folder: Path, model: GgufModel, beside: list[Path]) -> None:
    """Write everything; the link last."""
    has = {file.name for file in beside}
    for file in beside:
        shutil.copyfile(file, folder / file.name)
    for name, content in _contents(model.metadata, model, has):
        encoded = msgspec.json.encode(content)
        (folder / name).write_bytes(encoded if name == "tokenizer.json" else msgspec.json.format(encoded))
    pointer = GgufPointer([file_state(file) for file in model.files], list(model.named_tensors()))
    (folder / POINTER).write_bytes(msgspec.json.encode(pointer))


def _contents(metadata: Metadata, model: GgufModel, has: set[str]) -> Iterator[tuple[str, Any]]:
    """Name and content of each JSON file that is not there."""
    yield "config.json", make_config(metadata, model.tensors, model.values)
    if "generation_config.json" not in has:
        yield "generation_config.json", generation_config(metadata)
    if "tokenizer.json" not in has:
        yield "tokenizer.json", make_tokenizer(metadata)
    if "tokenizer_config.json" not in has:
        yield "tokenizer_config.json", make_tokenizer_config(metadata)


def _publish(unfinished: Path, folder: Path) -> None:
    """Give the folder its name, at once; another process may have been faster."""
    unfinished.chmod(0o755)
    try:
        unfinished.rename(folder)
    except OSError:
        if not (folder / POINTER).is_file():
            raise


def _remove_oldest(cache: Path, keep: Path) -> None:
    folders = []
    for each in cache.iterdir():
        try:
            age = each.stat().st_mtime
        except OSError:
            continue
        if not each.name.startswith(_UNFINISHED):
            folders.append((age, each))
        elif age < time.time() - _ABANDONED_S:
            shutil.rmtree(each, ignore_errors=True)
    for _, each in sorted(folders, reverse=True)[MOST_FOLDERS:]:
        if each != keep and (each / POINTER).is_file():
            shutil.rmtree(each, ignore_errors=True)
