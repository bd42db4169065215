"""Tiny random models of every proven family, and a chain of stages in one process: for tests of this backend and its users."""

from histrio_torch.testing.chain import ChainRow, StageChain
from histrio_torch.testing.families import FAMILIES, make_model

__all__ = ["FAMILIES", "ChainRow", "StageChain", "make_model"]
