"""Packages that are not there, for tests on a CPU: anything can be imported from them, nothing in them computes.

SGLang imports Triton and torchvision wherever it runs, and on a CPU calls neither. Installing them would double the
environment, and PyPI's torchvision does not load beside a torch that was built for CPUs.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["stand_in"]


class _AbsentClass(type):
    """Has whatever attribute it is asked for: its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)

        return f"{cls.__name__}.{name}"


class _Absent:
    """A class or object that takes whatever it is given."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Keeps nothing."""


class AbsentModule(ModuleType):
    """A module that has whatever it is asked for: classes to inherit from, and submodules that serve as decorators."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        found = _AbsentClass(name, (_Absent,), {}) if name[0].isupper() else AbsentModule(f"{self.__name__}.{name}")
        setattr(self, name, found)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`@jit` gives the function itself, `@jit(...)` a decorator that does."""
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]

        return lambda function: function


class _Finder:
    """Finds every submodule of the absent packages."""

    packages: tuple[str, ...] = ()

    @classmethod
    def find_spec(cls, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        package, dot, _rest = name.partition(".")
        return ModuleSpec(name, cls, is_package=True) if dot and package in cls.packages else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return AbsentModule(spec.name)

    @staticmethod
    def exec_module(_module: ModuleType) -> None:
        """Nothing to run."""


def stand_in(package: str, **contents: Any) -> None:
    """Make `package`, which is being imported, an absent one that has these contents."""
    module = AbsentModule(package)
    module.__spec__ = sys.modules[package].__spec__
    module.__dict__.update(contents)
    sys.modules[package] = module
    _Finder.packages += (package,)
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
