"""From conversations to batches: token ids, and which of them the model has to learn to say."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.conversations import generate_conversations
from demo.messages import Conversation

__all__ = ["Batch", "make_batches"]

NUM_POOLED_CONVERSATIONS = 1500
NUM_LONGEST_TOKENS = 4096
LENGTH_STEP = 16


@dataclass(frozen=True)
class Batch:
    """Conversations of similar length; each starts at position 0, so causal attention needs no mask."""

    ids: Tensor
    """int64, (rows, tokens), padded on the right."""
    is_target: Tensor
    """bool, (rows, tokens - 1): whether the token after this one is said by the assistant."""


def make_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, num_batch_tokens: int, long_share: float
) -> Iterator[Batch]:
    """Endless batches of at most `num_batch_tokens` tokens, padding included (one long conversation may exceed it)."""
    conversations = generate_conversations(seed, long_share)
    rng = random.Random(seed)
    while True:
        pool = [_encode(tokenizer, c) for c in itertools.islice(conversations, NUM_POOLED_CONVERSATIONS)]
        batches = list(_grouped(pool, num_batch_tokens))
        rng.shuffle(batches)
        yield from map(_collate, batches)


def _encode(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> tuple[list[int], list[bool]]:
    pieces: list[tuple[str, bool]] = []
    for text, is_said in conversation.segments():
        if pieces and pieces[-1][1] == is_said:
            pieces[-1] = (pieces[-1][0] + text, is_said)
        else:
            pieces.append((text, is_said))

    ids: list[int] = []
    is_target: list[bool] = []
    for (_, is_said), encoding in zip(pieces, tokenizer([text for text, _ in pieces])["input_ids"], strict=True):
        ids += encoding
        is_target += [is_said] * len(encoding)
    return ids[:NUM_LONGEST_TOKENS], is_target[:NUM_LONGEST_TOKENS]


def _grouped(
    pool: list[tuple[list[int], list[bool]]], num_batch_tokens: int
) -> Iterator[list[tuple[list[int], list[bool]]]]:
    group: list[tuple[list[int], list[bool]]] = []
    for row in sorted(pool, key=lambda row: len(row[0])):
        if group and _padded(len(row[0])) * (len(group) + 1) > num_batch_tokens:
            yield group
            group = []
        group.append(row)
    yield group


def _padded(num_tokens: int) -> int:
    return -(-num_tokens // LENGTH_STEP) * LENGTH_STEP


def _collate(group: list[tuple[list[int], list[bool]]]) -> Batch:
    num_tokens = _padded(max(len(ids) for ids, _ in group))
    ids = torch.zeros(len(group), num_tokens, dtype=torch.long)
    is_target = torch.zeros(len(group), num_tokens, dtype=torch.bool)
    for row, (row_ids, row_targets) in enumerate(group):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        is_target[row, : len(row_ids)] = torch.tensor(row_targets)
    return Batch(ids, is_target[:, 1:])
