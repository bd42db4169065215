"""Builds the native library when the package is built, so that its wheel belongs to one platform.

Where it cannot be built the package is installed without it. The backend then says what is missing.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeLibrary(BuildHookInterface):  # type: ignore[misc]
    """Hook of the wheel, an editable one too."""

    def dependencies(self) -> list[str]:
        """A compiler from the package index, where the machine has none."""
        return [] if _builder(self.root).compilers() else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in place; the wheel takes the library as an artifact."""
        builder = _builder(self.root)
        try:
            builder.build()
        except builder.CannotBuild as error:
            self.app.display_warning(f"histrio-cpu is installed without its native library: {error}")
            return

        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _builder(root: str) -> ModuleType:
    """The module that compiles; importing its package would need histrio."""
    spec = importlib.util.spec_from_file_location("histrio_cpu_build", Path(root, "histrio_cpu", "build.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
