"""Trains a demo model on this machine's processor.

    python -m demo.train --out runs/target --minutes 75
    python -m demo.train --out runs/draft --model draft --tokenizer runs/target/model --minutes 12

Matrices learn by Muon (Jordan et al., 2024), the rest by AdamW. The learning rate warms up, stays, and falls to zero in
the last part of the time ("warm-up, stable, decay"), so a stopped run may be resumed with more or fewer minutes. Time
in which the process is paused does not count.
"""

import argparse
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.batches import Batch, make_batches
from demo.evaluate import score_sums
from demo.models import SHAPES, build_model, load_model, save_model
from demo.tokenizer import load_tokenizer, train_tokenizer

__all__ = ["main"]

NUM_WARM_UP_STEPS = 60
LONGEST_STEP_S = 10.0
"""A step that took longer was interrupted; only so much of it counts."""
NUM_STEPS_PER_LINE = 20
NUM_INTERIM_SUMS = 60
EMBEDDING_RATE_SHARE = 0.2


@dataclass
class Progress:
    """How far a run is; stored with the weights."""

    num_steps: int = 0
    num_tokens: int = 0
    active_s: float = 0.0
    recent_losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the command line says; see `parse_options` for what each means."""

    out: Path
    model: str
    tokenizer: Path | None
    teacher: Path | None
    minutes: float
    resume: bool
    decay: float
    long_share: float
    rate: float
    batch_tokens: int
    save_minutes: float
    threads: int
    seed: int
    compile: bool


class Run:
    """A model in training, with its optimizers and its progress."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = options.out
        self.tokenizer = find_tokenizer(options)
        self.teacher = load_model(options.teacher) if options.teacher else None
        torch.manual_seed(options.seed)
        self.model = build_model(options.model, self.tokenizer)
        self.body: Any = torch.compile(self.model.model, dynamic=True) if options.compile else self.model.model
        self.optimizers = make_optimizers(self.model, options.rate)
        self.progress = Progress()
        self.is_stopped = False

    def stop(self, *_: object) -> None:
        """End after the step that is running, with a checkpoint."""
        self.is_stopped = True

    def rate_share(self) -> float:
        """The share of the peak learning rate that is right for this moment."""
        warm_up = min(1.0, (self.progress.num_steps + 1) / NUM_WARM_UP_STEPS)
        return min(warm_up, self.remaining_share() / self.options.decay)

    def remaining_share(self) -> float:
        """How much of the time is left, from 1 to 0."""
        return max(0.0, 1 - self.progress.active_s / (self.options.minutes * 60))

    def train(self) -> None:
        """Take steps until the time is over; saves the model and a checkpoint from time to time and at the end."""
        batches, has_long_ones = self._batches(), self.is_decaying
        next_save_s = self.progress.active_s + self.options.save_minutes * 60
        while not self.is_stopped and self.remaining_share() > 0:
            if self.is_decaying and not has_long_ones:
                batches, has_long_ones = self._batches(), True

            self._timed_step(next(batches))
            if self.progress.active_s >= next_save_s:
                next_save_s += self.options.save_minutes * 60
                self.save()
        self.save()

    @property
    def is_decaying(self) -> bool:
        """Whether the learning rate is on its way to zero; long conversations are kept for then."""
        return self.remaining_share() < self.options.decay

    def _batches(self) -> Iterator[Batch]:
        seed = self.options.seed + 1 + self.progress.num_steps
        long_share = self.options.long_share if self.is_decaying else 0.0
        return make_batches(self.tokenizer, seed, self.options.batch_tokens, long_share)

    def _timed_step(self, batch: Batch) -> None:
        start_s = time.perf_counter()
        self.progress.recent_losses.append(self._step(batch))
        self.progress.num_steps += 1
        self.progress.num_tokens += batch.ids.numel()
        self.progress.active_s += min(time.perf_counter() - start_s, LONGEST_STEP_S)
        if self.progress.num_steps % NUM_STEPS_PER_LINE == 0:
            self._print_line()

    def _print_line(self) -> None:
        progress = self.progress
        loss = sum(progress.recent_losses) / len(progress.recent_losses)
        progress.recent_losses.clear()
        num_filled = round(20 * (1 - self.remaining_share()))
        bar = "#" * num_filled + "." * (20 - num_filled)
        passed = f"{progress.active_s / 60:5.1f}/{self.options.minutes:g} min  step {progress.num_steps}"
        speed = f"{progress.num_tokens / 1e6:.2f} M tokens ({progress.num_tokens / progress.active_s:,.0f}/s)"
        print(f"[{bar}] {passed}  {speed}  loss {loss:.4f}", flush=True)

    def _step(self, batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.body(input_ids=batch.ids, use_cache=False).last_hidden_state
            logits = self.model.lm_head(hidden[:, :-1][batch.is_target]).float()

        loss = functional.cross_entropy(logits, batch.ids[:, 1:][batch.is_target])
        total = loss if self.teacher is None else 0.3 * loss + 0.7 * self._distance_to_teacher(batch, logits)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = self.rate_share()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _distance_to_teacher(self, batch: Batch, logits: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden = self.teacher.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            wanted = self.teacher.lm_head(hidden[:, :-1][batch.is_target]).float()
        return functional.kl_div(
            functional.log_softmax(logits, -1),
            functional.log_softmax(wanted, -1),
            log_target=True,
            reduction="batchmean",
        )

    def save(self) -> None:
        """Write the checkpoint and the rounded model, and print how many held-out sums are right by now."""
        save_model(self.model, self.tokenizer, self.folder / "model")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": vars(self.progress),
        }
        torch.save(state, self.folder / "checkpoint.new")
        (self.folder / "checkpoint.new").replace(self.folder / "checkpoint.pt")
        wrong = score_sums(load_model(self.folder / "model"), self.tokenizer, "What is {a} + {b}?", NUM_INTERIM_SUMS)
        print(f"saved; {NUM_INTERIM_SUMS - len(wrong)}/{NUM_INTERIM_SUMS} held-out sums right; {wrong[:4]}", flush=True)

    def resume(self) -> None:
        """Continue from the checkpoint in the run's folder."""
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.progress = Progress(**state["progress"])


def find_tokenizer(options: Options) -> PreTrainedTokenizerFast:
    """The tokenizer of another model if one is named, else the run's own, trained when it is not there yet."""
    named = options.tokenizer or options.teacher
    if named:
        return load_tokenizer(named)

    folder = options.out / "tokenizer"
    return load_tokenizer(folder) if folder.exists() else train_tokenizer(folder)


def make_optimizers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02)
    adam = torch.optim.AdamW(others, lr=rate * EMBEDDING_RATE_SHARE, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers: list[torch.optim.Optimizer] = [muon, adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def parse_options() -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a histrio demo model on the CPU.")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run; the finished model is in OUT/model")
    add("--model", choices=tuple(SHAPES), default="target", help="which shape to train")
    add("--tokenizer", type=Path, help="model whose tokenizer is taken; without it one is trained")
    add("--teacher", type=Path, help="model with the same tokenizer, whose distribution is learnt as well")
    add("--minutes", type=float, default=75, help="training time, pauses not counted")
    add("--resume", action="store_true", help="continue the run in OUT; --minutes counts from its beginning")
    add("--decay", type=float, default=0.35, help="last share of the time, in which the learning rate falls to zero")
    add("--long-share", type=float, default=0.012, help="share of long conversations while the rate falls")
    add("--rate", type=float, default=0.012, help="peak learning rate of Muon")
    add("--batch-tokens", type=int, default=6144, help="tokens in one step, padding included")
    add("--save-minutes", type=float, default=5, help="minutes between checkpoints")
    add("--threads", type=int, default=2, help="threads that compute")
    add("--seed", type=int, default=1, help="seed of weights and conversations")
    add("--no-compile", dest="compile", action="store_false", help="do without torch.compile (slower, starts at once)")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Train, or continue to train, as the command line says."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    run = Run(options)
    if options.resume:
        run.resume()

    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    print(
        f"{options.model}: {num_parameters:,} parameters, {len(run.tokenizer):,} tokens in the vocabulary", flush=True
    )
    run.train()


if __name__ == "__main__":
    main()
