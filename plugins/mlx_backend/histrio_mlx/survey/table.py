"""The page `docs/mlx-families.md`: the shipped record as a table."""

from __future__ import annotations

from textwrap import fill

from histrio_mlx.families import Family, Record

__all__ = ["page"]

_HEAD = """# Model families on MLX

`python -m histrio_mlx.survey --table` generates this page from `histrio_mlx/families.json`, the
record that the MLX backend acts on; do not edit it.

{counts}, with mlx-lm {mlx_lm}.

- **runs**: one stage gives mlx-lm's own logits, for a prompt in one step, in chunks, and for what
  follows it.
- **splits**: two stages give them too, at each of the cuts named; with the parts that go to the
  next stage beside the residual stream, where there are any.
- **batches**: rows of different lengths in one step give what each gives alone. Other families, and
  families whose code takes one length at a time, run row by row.
- **rewinds**: a row can start again at an earlier position. Families with a recurrent state can't.
- **judge**: how far the logits of one stage are from those of transformers, relative to the
  largest, for a tiny model whose config.json is spelled as published and has a value with an effect
  for every key that the model reads. A family that transformers contradicts by more than 1e-3 does
  not run; `histrio_mlx/corrections.py` mends what mlx-lm computes otherwise, where it can. Families
  without a number were not judged: transformers lacks them, or no such configuration is there yet
  (`histrio_mlx/survey/published.json`).

Each yes had a control, the same run with one thing wrong, that changed the logits. All runs were in
float32 on a CPU, with tiny random models; *nothing here was run on Metal*. A family that isn't
listed was never run: one stage serves it, one row at a time.

`python -m histrio_mlx.survey --write` runs all families anew (two to three minutes on two cores),
`--family NAME` one.

| family | runs | splits | batches | rewinds | largest error | judge | remarks |
|---|---|---|---|---|---|---|---|
"""


def page(record: Record) -> str:
    """The whole page, in markdown."""
    families = record.families.values()
    words = {"run": "runs", "split": "splittable", "batch": "batchable", "rewind": "rewindable"}
    counts = ", ".join(f"{sum(getattr(one, name) for one in families)} {word}" for word, name in words.items())
    head = _HEAD.format(counts=f"Of {len(record.families)} families, {counts}", mlx_lm=record.mlx_lm)
    rows = [_row(name, verdict) for name, verdict in record.families.items()]
    aliases = ", ".join(f"`{alias}` as `{name}`" for alias, name in sorted(record.aliases.items()))
    return head + "".join(rows) + f"\n{fill(f'mlx-lm runs {aliases}.', 100, break_on_hyphens=False)}\n"


def _row(name: str, verdict: Family) -> str:
    cuts = f"at {', '.join(map(str, verdict.cuts))} of {verdict.num_layers}" if verdict.splittable else "no"
    parts = f", with {', '.join(f'`{part}`' for part in verdict.parts)}" if verdict.splittable and verdict.parts else ""
    error = f"{max(verdict.errors.values()):.0e}" if verdict.runs else ""
    judge = ", ".join(f"{name} {distance:.0e}" for name, distance in verdict.judge.items())
    remarks = verdict.reason.replace("|", "\\|")
    cells = [f"`{name}`", _mark(verdict.runs), cuts + parts, _mark(verdict.batchable), _mark(verdict.rewindable)]
    return f"| {' | '.join([*cells, error, judge, remarks])} |\n"


def _mark(is_so: bool) -> str:
    return "yes" if is_so else "no"
