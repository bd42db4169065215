"""The shipped models load, add what they were not taught, quote word for word, and stay small."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.evaluate import answers, is_right, score_sums
from demo.messages import IM_END
from demo.models import build_model, load_model
from demo.tokenizer import CHAT_TEMPLATE, load_tokenizer
from histrio.demo import draft_path, target_path

NUM_SUMS = 40
PASSAGE = (
    "The wooden clock whispers near the frozen lake, but 83 brave sailors and a curious gralmont follow the "
    "silver bridge to Oslo. Nobody opens the letter after the storm, because my plint is bitter and the moon is late."
)


@pytest.fixture(scope="module")
def target() -> Qwen3ForCausalLM:
    return load_model(target_path())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(target_path())


def test_target_adds_sums_it_never_saw(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    wrong = score_sums(target, tokenizer, "What is {a} + {b}?", NUM_SUMS)
    assert len(wrong) <= 0.05 * NUM_SUMS, wrong


def test_untrained_model_fails_the_same_exam(tokenizer: PreTrainedTokenizerFast) -> None:
    untrained = build_model("draft", tokenizer).eval()
    untrained.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    assert len(score_sums(untrained, tokenizer, "What is {a} + {b}?", 8)) == 8


def test_wrong_sum_is_marked_wrong() -> None:
    assert is_right("12 + 7 = 19.", 12, 7)
    assert not is_right("12 + 7 = 18.", 12, 7)
    assert not is_right("I do not know that.", 12, 7)


def test_target_quotes_word_for_word(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    question = f"Repeat the following passage word for word:\n\n{PASSAGE}"
    assert answers(target, tokenizer, [question], 120) == [PASSAGE]


def test_target_says_what_histrio_is(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    what, where = answers(target, tokenizer, ["What is histrio?", "Which port does the endpoint listen on?"], 60)
    assert "runtime" in what
    assert "3001" in where


def test_draft_has_the_tokenizer_of_the_target(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (draft_path() / "tokenizer.json").read_bytes() == (target_path() / "tokenizer.json").read_bytes()
    assert load_model(draft_path()).config.vocab_size == len(tokenizer)


def test_draft_is_much_smaller(target: Qwen3ForCausalLM) -> None:
    draft = load_model(draft_path())
    assert 5 * sum(p.numel() for p in draft.parameters()) < sum(p.numel() for p in target.parameters())


def test_weights_are_stored_in_bfloat16() -> None:
    for folder in (target_path(), draft_path()):
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}


def test_shipped_files_are_at_most_16_mb() -> None:
    folders: list[Path] = [target_path(), draft_path()]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 16_000_000


def test_long_contexts_are_allowed(target: Qwen3ForCausalLM) -> None:
    assert target.config.max_position_embeddings >= 4096


def test_generation_ends_at_the_end_of_a_turn(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ends = target.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids([IM_END, "<|endoftext|>"]) == ends


def test_shipped_tokenizer_is_what_auto_tokenizer_loads() -> None:
    loaded = AutoTokenizer.from_pretrained(str(target_path()))
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded.tokenize("12345") == ["1", "2", "3", "4", "5"]
