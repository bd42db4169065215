"""How large a grammar may be; `docs/structured-output.md` lists it. A grammar within these limits compiles quickly."""

from __future__ import annotations

__all__ = ["LIMITS"]

LIMITS = {
    "bytes": 65_536,
    "depth": 64,
    "properties": 1_000,
    "enum values": 5_000,
    "choices": 5_000,
    "structures": 128,
    "pattern characters": 2_000,
    "multipleOf": 10_000,
}
"""What is counted → the most there may be of it. Depth counts objects and arrays of the schema's JSON."""
