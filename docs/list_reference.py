"""Rewrites docs/reference.md, the contracts of all plugins, from the docstrings of the contracts themselves.

python docs/list_reference.py
"""

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from textwrap import wrap

from histrio.config.field_docs import class_source, field_docs

PAGE = Path(__file__).parent / "reference.md"
CONTRACTS = {
    "Stage backends": {
        "histrio.contracts.backend": (
            "BackendFactory TakesOptions Traits Capability StageSpec OpenedStage RunningStage GivesBack StepBatch "
            "StageOutput ArrayNamespace"
        ),
        "histrio.config.settings": "SizeSettings MemorySettings",
        "histrio.messages": "Probe StageCapacity ReplicaSize Tensor",
    },
    "Engine backends": {
        "histrio.contracts.engine_backend": "EngineFactory EngineBackend EngineEvents",
        "histrio.messages": "EngineCapacity Generate Ask TokenRow Extras RequestState",
    },
    "Samplers": {"histrio.contracts.sampler": "Sampler Observer Stateful Opening LogitsRows"},
    "Drafters": {
        "histrio.contracts.drafter": "DrafterFactory Drafter Draft DrafterSpec DrafterTools",
        "histrio.config.settings": "SpeculationSettings",
        "histrio.contracts.sampler": "DraftSampler",
        "histrio.messages": "Open",
    },
    "Grammars": {
        "histrio.contracts.grammar": (
            "GrammarBackend GrammarCapability Vocabulary VocabularySpec Matcher MaskRequest TagSpec"
        ),
        "histrio.messages": "GrammarSpec",
    },
    "Tool formats": {
        "histrio.contracts.tool_format": "ToolFormat CallParser CallPiece Found CallLayout WrittenCall FormatExample",
        "histrio.contracts.grammar": "TagStructure TagParameter",
    },
    "Reasoning formats": {
        "histrio.contracts.reasoning_format": "ReasoningFormat ReasoningParser WrittenAnswer",
        "histrio.messages": "ReasoningMarks",
    },
    "Policies": {"histrio.contracts.policy": "BatchingPolicy AdmissionPolicy HearsOfEnds Load"},
    "Services and the gateway": {
        "histrio.contracts.hooks": "EdgeService EdgeContext",
        "histrio.contracts.gateway": "Gateway Submission TokenStream Delta ServedModel GatewayStatus",
    },
    "Commands": {"histrio.contracts.command": "Command"},
    "Hooks that watch": {"histrio.contracts.observed": "FinishedRequest IntervalStats"},
}
HEAD = """# All contracts

This page lists what every kind of plugin must have and what it gets.
`python docs/list_reference.py` generates it from the docstrings. [Hooks](hooks.md) says how each
kind is registered and names an example.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, modules in CONTRACTS.items():
        lines.append(f"## {title}\n")
        for module, names in modules.items():
            for name in names.split():
                lines += _class(module, name)
    return "\n".join(lines).rstrip() + "\n"


def _class(module: str, name: str) -> list[str]:
    """A class with its fields and methods, each with its whole docstring."""
    kind = getattr(import_module(module), name)
    node, docs = class_source(kind), field_docs(kind)
    lines = [f"### `{module}.{name}`\n", *_text(ast.get_docstring(node) or ""), ""]
    lines += [line for each in node.body for line in _member(each, docs)]
    return [*lines, ""]


def _member(node: ast.stmt, docs: Mapping[str, str]) -> list[str]:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
            default = f" = {ast.unparse(node.value)}" if node.value is not None else ""
            return _entry(f"{name}: {ast.unparse(node.annotation)}{default}", docs.get(name, ""))
        case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
            return _entry(f"{name} = {ast.unparse(node.value)}", docs.get(name, ""))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("_") or name in _SHOWN:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
            is_property = any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)
            arguments = (
                "" if is_property else f"({ast.unparse(node.args)})".replace("(self, ", "(").replace("(self)", "()")
            )
            start = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
            return _entry(f"{start}{name}{arguments}{returns}", ast.get_docstring(node) or "")
        case _:
            return []


_SHOWN = ("__init__", "__anext__")


def _entry(head: str, text: str) -> list[str]:
    lines = _text(f"- `{head}`" + (f" — {text}" if text else ""))
    return [lines[0], *(f"  {line}" if line else "" for line in lines[1:])]


def _text(docstring: str) -> list[str]:
    """Paragraphs in lines of at most 98 columns, so that an item's later lines can be indented; code is not broken."""
    paragraphs = [" ".join(each.split()) for each in docstring.split("\n\n")]
    return [line for each in paragraphs for line in (*_wrapped(each), "")][:-1] if docstring else []


def _wrapped(paragraph: str) -> list[str]:
    whole = re.sub(r"(^- )?`[^`]+`", lambda code: code[0].replace(" ", "\0"), paragraph)
    lines = wrap(whole, 98, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
