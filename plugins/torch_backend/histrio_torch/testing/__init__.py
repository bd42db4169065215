"""For tests of this backend and its users: tiny random models, and what transformers says of them."""

from histrio_torch.testing.families import FAMILIES, MAX_LENGTH, NUM_LAYERS, OTHERS, VOCAB_SIZE, make_model
from histrio_torch.testing.reference import MOST_ERROR, Excuses, Reference, logits_error, refer

__all__ = [
    "FAMILIES",
    "MAX_LENGTH",
    "MOST_ERROR",
    "NUM_LAYERS",
    "OTHERS",
    "VOCAB_SIZE",
    "Excuses",
    "Reference",
    "logits_error",
    "make_model",
    "refer",
]
