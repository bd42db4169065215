"""Rewrites docs/modules.md from the first sentences of the modules themselves.

python docs/list_modules.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "modules.md"
PACKAGES = (
    "runtime/histrio",
    "api/histrio_api",
    "plugins/torch_backend/histrio_torch",
    "plugins/cpu_backend",
    "plugins/mlx_backend/histrio_mlx",
    "plugins/sglang_backend/histrio_sglang",
    "plugins/vllm_backend/histrio_vllm",
    "plugins/samplers/histrio_samplers",
    "plugins/grammars/histrio_grammars",
    "plugins/speculative/histrio_speculative",
    "demo",
)
HEAD = """# Modules

This page has every module in one line. `python docs/list_modules.py` generates it from the modules
themselves. The folders are layers; `tests/docs/test_import_directions.py` lists them, the lowest
first, and checks every import."""


def module_files() -> list[Path]:
    """Every module of the packages that has anything in it, folder by folder."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted((file for file in files if file.name != "__init__.py"), key=_sort_key)


def page() -> str:
    """The whole page: a table per folder, a line per module."""
    lines = [HEAD]
    folder = None
    for file in module_files():
        if file.parent != folder:
            folder = file.parent
            lines += ["", f"## `{folder.relative_to(ROOT).as_posix()}/`", "", "| module | what for |", "|---|---|"]
        lines.append(f"| `{file.name}` | {_first_sentences(file)} |")
    return "\n".join([*lines, ""])


def _sort_key(file: Path) -> tuple[int, str, str]:
    package = next(index for index, package in enumerate(PACKAGES) if file.is_relative_to(ROOT / package))
    return package, file.parent.as_posix(), file.name


def _first_sentences(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
