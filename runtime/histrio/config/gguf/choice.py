"""Which GGUF file of several is meant: by its quantisation, as in `OWNER/NAME:Q4_K_M`, or by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from histrio.config.gguf.model import first_files, part_names
from histrio.errors import UnsupportedModel

__all__ = ["choose_gguf"]

_MOST_SHOWN = 12


def choose_gguf(names: Sequence[str], tag: str, repo: str) -> list[str]:
    """The file of `names` that `tag` names, or all parts of it. Raises `UnsupportedModel` with the names there are."""
    models = first_files(names)
    if not models:
        raise UnsupportedModel(f"the model {repo} has no GGUF files; leave out the part behind the colon")

    requested = tag.lower().removesuffix(".gguf")
    exact = [name for name in models if name.lower().rpartition("/")[2].removesuffix(".gguf") == requested]
    word = re.compile(rf"(?<![a-z0-9]){re.escape(requested)}(?![a-z0-9_])")
    found = exact or [name for name in models if word.search(name.lower())]
    if len(found) == 1:
        return part_names(found[0], names)

    shown = ", ".join((found or models)[:_MOST_SHOWN]) + (" …" if len(found or models) > _MOST_SHOWN else "")
    if found:
        raise UnsupportedModel(
            f"{len(found)} GGUF files of {repo} are called {tag[:40]}: {shown}; name one of them whole"
        )
    raise UnsupportedModel(f"no GGUF file of {repo} is called {tag[:40]}; there are: {shown}")
