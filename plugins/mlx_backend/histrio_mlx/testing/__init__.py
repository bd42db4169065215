"""For tests of this backend: tiny random models as transformers makes them, and a chain of MLX stages."""

from histrio_mlx.testing.chain import MlxChain, as_torch
from histrio_mlx.testing.models import FAMILIES, MAX_LENGTH, NUM_LAYERS, VOCAB_SIZE, make_model, quantize

__all__ = ["FAMILIES", "MAX_LENGTH", "NUM_LAYERS", "VOCAB_SIZE", "MlxChain", "as_torch", "make_model", "quantize"]
