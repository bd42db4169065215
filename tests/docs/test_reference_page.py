"""The reference of contracts is what its script writes, and has every class of every contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from histrio.plugins.checks import CONTRACTS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current_and_complete() -> None:
    spec = importlib.util.spec_from_file_location("list_reference", DOCS / "list_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert page == module.page(), "run python docs/list_reference.py"
    for contract in CONTRACTS.values():
        for protocol in (contract.protocol, *contract.optional):
            assert f"### `{protocol.__module__}.{protocol.__name__}`" in page
    for words in (
        "- `kvcache_mem_ratio: _Ratio = 0.25` — Share of a device's memory for KV blocks.",
        "- `admit(submission: Submission, load: Load) -> None` — Raise `Overloaded`",
        "- `num_tokens: int` — Tokens that were delivered.",
        "- `PREFIX_SHARE = 'prefix_share'` — Rows may have blocks in common.",
    ):
        assert words in page
