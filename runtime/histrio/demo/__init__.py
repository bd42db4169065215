"""The small chat model that ships with histrio, and the draft model that speculates for it.

Both were trained by `demo.train`; the weights are bfloat16 and are meant to run in float32.
"""

from pathlib import Path

__all__ = ["draft_path", "target_path"]

_FOLDER = Path(__file__).parent


def target_path() -> Path:
    """The folder of the chat model."""
    return _FOLDER / "target"


def draft_path() -> Path:
    """The folder of the draft model, which has the same tokenizer."""
    return _FOLDER / "draft"
