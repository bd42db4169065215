"""Where plugins come from: entry points of installed distributions, and files or modules that a person names.

Each is imported by itself. Whatever an import does (raises, exits, prints, takes long) is told of that plugin and
stops no other one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from histrio.errors import PluginError
from histrio.plugins.hook_calls import one_line

__all__ = [
    "NAMED_PLUGINS",
    "Imported",
    "Source",
    "entry_point_sources",
    "import_plugin",
    "name_plugins",
    "named_sources",
]

NAMED_PLUGINS = "HISTRIO_PLUGINS"
"""Environment variable with the plugins that a person named, separated as in PATH. Child processes inherit it, those
with an interpreter of their own too."""


@dataclass(frozen=True, slots=True)
class Source:
    """One plugin that is not imported yet."""

    owner: str
    """What it is called in messages."""
    load: Callable[[], object]
    is_own: bool = False
    """The plugin comes with histrio, so its offers keep their names against those of other plugins."""
    is_named: bool = False
    """A person asked for it by name."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    plugin: object
    """None where `failure` says why."""
    failure: str
    took_s: float
    """Seconds of computing; waiting for a busy machine does not count."""
    has_printed: bool


def entry_point_sources(points: Iterable[EntryPoint]) -> list[Source]:
    """Each target once, as a distribution may be found twice on the path; those that come with histrio first."""
    found = {(point.name, point.value): point for point in points}
    sources = [Source(_owner(found[key]), found[key].load, _is_own(found[key])) for key in sorted(found)]
    return sorted(sources, key=lambda source: not source.is_own)


def name_plugins(names: Sequence[str]) -> None:
    """Make this process and those that it starts load these files and modules, and no others besides entry points.

    Raises `PluginError` for a name that cannot be one.
    """
    named = [_absolute(name) if _is_file(name) else name for name in names]
    for name in named:
        if os.pathsep in name:
            raise PluginError(f"the path of a plugin cannot contain {os.pathsep!r}: rename the folder")
    if named:
        os.environ[NAMED_PLUGINS] = os.pathsep.join(dict.fromkeys(named))
    else:
        os.environ.pop(NAMED_PLUGINS, None)


def named_sources(value: str) -> list[Source]:
    """The sources that the environment variable names."""
    names = [name for name in value.split(os.pathsep) if name]
    return [Source(Path(name).name if _is_file(name) else name, _loader(name), is_named=True) for name in names]


def import_plugin(source: Source) -> Imported:
    """Import it. Whatever it prints goes to standard error, because standard output may carry an answer."""
    printed = _Watched()
    began_s = time.thread_time()
    plugin, failure = None, ""
    try:
        with contextlib.redirect_stdout(printed):
            plugin = source.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, and whatever else a module can think of
        failure = str(error) if isinstance(error, PluginError) else one_line(error)
    return Imported(plugin, failure, time.thread_time() - began_s, printed.is_used)


class _Watched(io.TextIOBase):
    """Standard error under another name, which notices that it was written to."""

    def __init__(self) -> None:
        self.is_used = False

    def write(self, text: str) -> int:
        """Pass it on."""
        self.is_used = self.is_used or bool(text.strip())
        return sys.stderr.write(text)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name or os.sep in name


def _absolute(name: str) -> str:
    return str(Path(name).expanduser().absolute())


def _loader(name: str) -> Callable[[], ModuleType]:
    return (lambda: _import_file(Path(name))) if _is_file(name) else (lambda: _import_module(name))


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError("this is neither a file that ends in .py nor the name of a module")
    return importlib.import_module(name)


def _import_file(file: Path) -> ModuleType:
    """The file as a module under its own name, so that what it defines can be pickled; its folder is searched last."""
    if not file.is_file():
        raise PluginError("there is no such file")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise PluginError("the file's name must be that of a Python module, such as my_plugin.py")

    folder, module = str(file.parent), sys.modules.get(file.stem)
    if module is not None and _file_of(module) == file:
        return module
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.find_spec(file.stem)
    if module is not None or spec is None or spec.origin is None or Path(spec.origin).resolve() != file.resolve():
        raise PluginError(f"there is another module called {file.stem}: rename the file")
    return importlib.import_module(file.stem)


def _file_of(module: ModuleType) -> Path | None:
    origin: Any = getattr(module, "__file__", None)
    return Path(origin).absolute() if isinstance(origin, str) else None


def _owner(point: EntryPoint) -> str:
    dist = point.dist
    return f"{point.name} [{dist.name} {dist.version}]" if dist is not None else point.name


def _is_own(point: EntryPoint) -> bool:
    name = point.dist.name if point.dist is not None else ""
    return name == "histrio" or name.startswith("histrio-")
