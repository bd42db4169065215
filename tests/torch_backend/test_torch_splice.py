"""Models without code of their own here split all the same, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from histrio.errors import UnsupportedModel
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch.dry_run import check_side_channels
from histrio_torch.factory import TorchFactory
from histrio_torch.splice import find_structure
from histrio_torch.testing import MAX_LENGTH, MOST_ERROR, NUM_LAYERS, OTHERS, logits_error

SPLITTING = sorted(set(OTHERS) - {"nanochat"})


@pytest.mark.parametrize("family", SPLITTING)
def test_other_families_equal_transformers_when_split(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=21, num_tokens=1)
    chain = StageChain(TorchFactory(), tiny.folder, (1,), HarnessOptions(max_sequence_length=MAX_LENGTH))
    chain.step([ChainRow(0, reference.ids[:8], 0)])
    logits = chain.step([ChainRow(0, reference.ids[8:], 13)])

    assert logits_error(logits, reference.logits[8:]) <= MOST_ERROR
    assert logits_error(logits, reference.logits[:13]) > 3 * MOST_ERROR
    chain.close()


def test_a_norm_before_the_layers_forbids_splitting(tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("nanochat")
    reference = tiny.refer(seed=1, num_prompt_tokens=9, num_tokens=1)
    whole = StageChain(TorchFactory(), tiny.folder)

    assert logits_error(whole.step([ChainRow(0, reference.ids, 9)]), reference.logits) <= MOST_ERROR
    with pytest.raises(UnsupportedModel, match="NanoChatForCausalLM can't be split"):
        StageChain(TorchFactory(), tiny.folder, (1,))
    whole.close()


def test_a_tensor_beside_the_hidden_state_forbids_splitting() -> None:
    class Layer(nn.Module):
        def forward(self, hidden_states: Any, per_layer_input: Any = None, position_ids: Any = None) -> Any:
            return hidden_states

    layer, tensor = Layer(), torch.zeros(1)
    check_side_channels(layer, "Own")

    layer(tensor, position_ids=tensor)
    with pytest.raises(UnsupportedModel, match=r"Own can't be split.*per_layer_input"):
        layer(tensor, tensor)
    with pytest.raises(UnsupportedModel, match="per_layer_input"):
        layer(tensor, per_layer_input=(None, tensor))


def test_a_model_without_one_layer_list_is_refused(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama").model

    assert find_structure(model, NUM_LAYERS).layers_name == "layers"
    with pytest.raises(UnsupportedModel, match="0 lists of 7 layers"):
        find_structure(model, 7)
