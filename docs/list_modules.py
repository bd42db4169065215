"""Rewrites the module tables of docs/architecture.md from the first sentences of the modules themselves.

python docs/list_modules.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = (
    "runtime/histrio",
    "api/histrio_api",
    "plugins/torch_backend/histrio_torch",
    "plugins/mlx_backend/histrio_mlx",
    "plugins/sglang_backend/histrio_sglang",
    "plugins/samplers/histrio_samplers",
    "plugins/grammars/histrio_grammars",
    "plugins/speculative/histrio_speculative",
)
BEGIN, END = "<!-- modules: python docs/list_modules.py -->\n", "<!-- end of modules -->\n"


def module_files() -> list[Path]:
    """Every module of the packages that has anything in it, folder by folder."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted((file for file in files if file.name != "__init__.py"), key=_place)


def tables() -> str:
    """A table per folder, a line per module."""
    lines: list[str] = []
    folder = None
    for file in module_files():
        if file.parent != folder:
            folder = file.parent
            lines += ["", f"### `{folder.relative_to(ROOT).as_posix()}/`", "", "| module | what for |", "|---|---|"]
        lines.append(f"| `{file.name}` | {_first_sentences(file)} |")
    return "\n".join([*lines[1:], ""])


def rewritten(page: str) -> str:
    """The page with its tables replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _place(file: Path) -> tuple[int, str, str]:
    package = next(index for index, package in enumerate(PACKAGES) if file.is_relative_to(ROOT / package))
    return package, file.parent.as_posix(), file.name


def _first_sentences(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
