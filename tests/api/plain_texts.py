"""Any text without special tokens: hypothesis also tries strings of our sources, such as `<|im_start|>`."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["plain_texts"]


def plain_texts(max_size: int) -> st.SearchStrategy[str]:
    """Texts that decode to themselves; special tokens are left out of what is decoded."""
    return st.text(max_size=max_size).filter(lambda text: "<|" not in text)
