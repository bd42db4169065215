"""The chain that tests drive stages with: blocks, processes, errors; and the tiny models it is fed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histrio.errors import BackendError, DoesNotFit
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.conformance.hosts import LocalHost
from histrio.testing.conformance.remote import RemoteHost
from histrio.testing.harness import HarnessOptions
from histrio.testing.models import MODELS, VOCAB_SIZE, write_model
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from tests.conformance.broken_backend import SeparateFactory

PROMPT = [5, 6, 7, 8, 9, 10]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy")


def test_no_block_belongs_to_two_slots(folder: Path) -> None:
    chain = StageChain(ToyFactory(), folder, (2,), HarnessOptions(num_cache_blocks=12))
    chain.step([ChainRow(0, PROMPT), ChainRow(1, PROMPT[:3])])
    chain.step([ChainRow(0, [1] * 9), ChainRow(1, [2] * 6)])
    blocks = [block for table in chain.tables.values() for block in table]
    assert len(blocks) == len(set(blocks)) == 4 + 3

    chain.leave(0)
    chain.step([ChainRow(2, PROMPT)])
    assert set(chain.tables[2]) <= set(blocks)
    assert not set(chain.tables[2]) & set(chain.tables[1])
    chain.close()


def test_kept_blocks_are_not_dealt_again(folder: Path) -> None:
    chain = StageChain(ToyFactory(), folder, (), HarnessOptions(num_cache_blocks=4))
    chain.step([ChainRow(0, PROMPT)])
    kept = chain.tables[0]
    chain.keep(kept)
    chain.leave(0)
    chain.step([ChainRow(0, PROMPT)])

    assert not set(kept) & set(chain.tables[0])
    chain.close()


def test_stages_that_need_a_process_each_get_one_and_say_the_same(folder: Path) -> None:
    chain = StageChain(SeparateFactory(), folder, (1,))
    assert [type(host) for host in chain.hosts] == [RemoteHost, RemoteHost]
    assert chain.greedy(PROMPT, 5) == toy_continuation(PROMPT, 5, num_layers=4, vocab_size=VOCAB_SIZE)
    assert chain.greedy(PROMPT[1:], 5) != chain.greedy(PROMPT, 5)
    chain.close()
    chain.close()

    whole = StageChain(SeparateFactory(), folder)
    assert [type(host) for host in whole.hosts] == [LocalHost], "a control: one stage is at home here"
    whole.close()
    with pytest.raises(BackendError, match="warp"):
        StageChain(SeparateFactory(), folder, (1,), HarnessOptions(stage_options={"warp": 1}))


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(DoesNotFit):
        StageChain(ToyFactory(), folder, (), HarnessOptions(num_cache_blocks=2**44))


@pytest.mark.timeout(90)  # imports transformers
@pytest.mark.parametrize("name", MODELS)
def test_tiny_models_are_read_whole_by_transformers_and_wander(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = write_model(name, tmp_path / name)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), "every weight has its place, and every place its weight"
    assert transformers.AutoTokenizer.from_pretrained(folder)("ab")["input_ids"]

    prompts = torch.from_numpy(np.random.default_rng(0).integers(3, 250, (4, 7)))
    output = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=16, do_sample=False, eos_token_id=None
    )
    assert all(len(set(row[7:].tolist())) > 4 for row in output), "a stream too dull to prove anything"
