"""The demo model's exam: sums that nobody taught it, and a few questions to read the answers of.

python -m demo.evaluate MODEL
"""

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.arithmetic import held_out_sums
from demo.models import load_model
from demo.texts import make_passage, notes_exchange
from demo.tokenizer import load_tokenizer

__all__ = ["answers", "is_right", "score_notes", "score_quotes", "score_sums"]

NUM_EXAM_SUMS = 200
QUOTE_SEED = 100_000
PHRASINGS = (
    "What is {a} + {b}?",
    "What's {a}+{b}?",
    "Calculate {a} plus {b}",
    "{a} + {b}",
    "Add {a} and {b}.",
)
SAMPLES = (
    "Hello!",
    "What is histrio?",
    "Which port does the endpoint listen on?",
    "How do I start histrio?",
    "What happens when a host dies?",
    "How do the actors talk to each other?",
    "Tell me a short story about Anna and a fox.",
    "Count from 3 to 25.",
    "Name five colours.",
    "Anna is 31 years old and lives in Rome. Answer in JSON.",
    "What is 45 - 17?",
    "What is 7 times 8?",
    "What is the price of a zorvel?",
    "What is 36 + 48? Think step by step.",
    "Repeat the following passage word for word:\n\nThe purple sailor counts 47 honest mirrors while a glimpork sings "
    "under the frozen bridge, and nobody in Lisbon believes the gardener.",
)


def answers(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[str], num_answer_tokens: int
) -> list[str]:
    """The model's greedy answer to each question, computed as one left-padded batch."""
    prompts: Any = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions], add_generation_prompt=True, tokenize=False
    )
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        output: Any = model.generate(  # type: ignore[misc]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=num_answer_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def is_right(answer: str, a: int, b: int) -> bool:
    """Whether the last number of the answer is a + b."""
    numbers = re.findall(r"\d+", answer)
    return bool(numbers) and int(numbers[-1]) == a + b


def score_sums(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, phrasing: str, num_sums: int = NUM_EXAM_SUMS
) -> list[str]:
    """The wrong answers to the first `num_sums` held-out sums, asked in one phrasing; empty when all are right."""
    sums = held_out_sums()[:num_sums]
    said = answers(model, tokenizer, [phrasing.format(a=a, b=b) for a, b in sums], 24)
    return [text for text, (a, b) in zip(said, sums, strict=True) if not is_right(text, a, b)]


def score_quotes(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, num_quotes: int) -> int:
    """How many of `num_quotes` fresh passages of 30 to 90 words the model repeats word for word."""
    rng = random.Random(QUOTE_SEED)
    passages = [make_passage(rng, rng.randint(30, 90)) for _ in range(num_quotes)]
    questions = [f"Repeat the following passage word for word:\n\n{passage}" for passage in passages]
    said = answers(model, tokenizer, questions, 400)
    return sum(text == passage for text, passage in zip(said, passages, strict=True))


def score_notes(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, num_notes: int, num_trials: int) -> int:
    """How many of `num_trials` times the model finds one note among `num_notes`, about 13 tokens each."""
    rng = random.Random(QUOTE_SEED)
    exchanges = [notes_exchange(rng, num_notes) for _ in range(num_trials)]
    said = answers(model, tokenizer, [question.content for question, _ in exchanges], 40)
    return sum(text == answer.content for text, (_, answer) in zip(said, exchanges, strict=True))


def main() -> None:
    """Print how many held-out sums are right in each phrasing, the other scores, then sample answers."""
    parser = argparse.ArgumentParser(description="Examine a demo model, greedily and in float32.")
    parser.add_argument("model", type=Path, help="folder with the model, as written by demo.train")
    parser.add_argument("--samples", type=int, default=len(SAMPLES), help="how many sample answers to print")
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model), load_tokenizer(arguments.model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{num_parameters:,} parameters")
    for phrasing in PHRASINGS:
        wrong = score_sums(model, tokenizer, phrasing)
        print(
            f"{NUM_EXAM_SUMS - len(wrong)}/{NUM_EXAM_SUMS} held-out sums right, asked as {phrasing!r}; wrong: {wrong}"
        )

    print(f"{score_quotes(model, tokenizer, 40)}/40 passages quoted word for word")
    for num_notes in (10, 50, 150):
        print(f"{score_notes(model, tokenizer, num_notes, 8)}/8 notes found among {num_notes}")

    for question in SAMPLES[: arguments.samples]:
        print(f"\n> {question}\n{answers(model, tokenizer, [question], 300)[0]}")


if __name__ == "__main__":
    main()
