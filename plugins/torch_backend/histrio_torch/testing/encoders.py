"""Tiny random encoders, saved as transformers saves them, with or without a head that scores pairs of texts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["ENCODER_LENGTH", "make_encoder", "states_of", "write_pair_tokenizer"]

ENCODER_LENGTH = 64
"""Tokens that every one of them takes."""
_PADDING_ROWS = 2
_PLAIN: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": ENCODER_LENGTH,
    "pad_token_id": 1,
}
_BEHIND_PADDING = {"max_position_embeddings": ENCODER_LENGTH + _PADDING_ROWS}
_ONE_TYPE = {**_BEHIND_PADDING, "type_vocab_size": 1}
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "camembert": _ONE_TYPE,
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "distilbert": {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "modernbert": {
        "local_attention": 8,
        "num_hidden_layers": 4,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "mpnet": _BEHIND_PADDING,
    "roberta": _ONE_TYPE,
    "xlm-roberta": _ONE_TYPE,
}


def make_encoder(model_type: str, folder: Path, *, scores: bool = False, **settings: Any) -> Any:
    """Save one in `folder`; returns it as transformers has it, in evaluation mode. With `scores` it has a head of one
    label. `settings` go on top of the type's."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    given = {**_PLAIN, **_OWN.get(model_type, {}), **({"id2label": {0: "LABEL_0"}} if scores else {}), **settings}
    config = AutoConfig.for_model(model_type, **given)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        kind: Any = AutoModelForSequenceClassification if scores else AutoModel
        model = kind.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / math.sqrt(parameter.shape[-1]))
    model.save_pretrained(folder)
    return model


def states_of(model: Any, ids: Sequence[int], types: Sequence[int] | None = None) -> Any:
    """What transformers makes of one text: float64 [tokens, hidden], or [1] of a model that scores."""
    import torch

    arguments = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), **arguments)
    found = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found[0].double().numpy()


def write_pair_tokenizer(folder: Path, words: Sequence[str], *, has_types: bool = True) -> None:
    """A tokenizer.json of words that joins texts as BERT's does; without types as RoBERTa's."""
    import tokenizers

    names = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *words]
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: at for at, name in enumerate(names)}, "[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    plain.add_special_tokens(names[:4])
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1" if has_types else "[CLS] $A [SEP] [SEP] $B [SEP]"
    plain.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    plain.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]", "sep_token": "[SEP]"}))
