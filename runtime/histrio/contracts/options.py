"""Options of plugins: one rule for all of them.

A plugin declares a struct with the keys of its table and their bounds. The core converts the table strictly, with the
path of a mistake in the message, before it asks the plugin anything; what the plugin gets is an instance of its struct.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from histrio.config.tables import convert_table

__all__ = ["NoOptions", "as_options", "with_options"]

K = TypeVar("K", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table of what leaves nothing to choose."""


def as_options(options: Any, kind: type[K], path: str) -> K:
    """Options as an instance of `kind`, which they may be already; `path` is where their table stands in the topology.

    Raises `TopologyError`.
    """
    return options if isinstance(options, kind) else convert_table(options, kind, path)


def with_options(spec: S, plugin: object, path: str) -> S:
    """`spec`, with its field `options` as what `plugin.options` declares; as it is where nothing is declared.

    Raises `TopologyError`.
    """
    kind = getattr(plugin, "options", None)
    if kind is None:
        return spec

    options: Any = spec.options  # type: ignore[attr-defined]
    return msgspec.structs.replace(spec, options=as_options(options, kind, path))
