"""Which encoders this backend runs, told from config.json alone.

An encoder is run by transformers' own code, whole and with its texts padded, so that nothing of it has to be known but
that padding changes no result. The tests hold that for each type that stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histrio.config.model_kind import ModelKind, model_kind, num_labels
from histrio_torch.quantized import quantized_refusal

__all__ = ["ENCODERS", "classifier_refusal", "encoder_refusal", "is_encoder", "kind_of"]

ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "roberta",
    "xlm-roberta",
)
"""By `model_type`."""


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the model's tokens attend to those behind them, so that texts are computed whole."""
    return config.get("model_type") in ENCODERS and kind_of(config) != "generate"


def encoder_refusal(config: Mapping[str, Any]) -> str | None:
    """Why this encoder does not run; None where it does."""
    if "n_embd" in config:
        return "its config.json is that of its remote code, which is never run; use one that transformers has saved"

    if config.get("is_decoder"):
        return "it is set to look back only (is_decoder in config.json)"

    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"its positions are {config['position_embedding_type']}, which transformers does not compute any more"

    return quantized_refusal(config) or classifier_refusal(config)


def classifier_refusal(config: Mapping[str, Any]) -> str | None:
    """Why the head of a model that scores is not served; None where it is, or there is none."""
    if kind_of(config) != "score" or num_labels(config) == 1:
        return None

    return f"its head gives {num_labels(config)} numbers (id2label in config.json), and a score is one"


def kind_of(config: Mapping[str, Any]) -> ModelKind:
    """Which head the model has."""
    return model_kind(str((config.get("architectures") or [""])[0]))
