"""Command line of the survey.

python -m histrio_mlx.survey                        run all families, print the verdicts
python -m histrio_mlx.survey --family llama gpt2    only these
python -m histrio_mlx.survey --write FILE           also put them into the record (default: the one that ships)
python -m histrio_mlx.survey --table                no run: print the page that shows the record
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
from tqdm import tqdm

from histrio_mlx.compat import MODEL_ALIASES
from histrio_mlx.families import PATH, Family, Record, load_record
from histrio_mlx.survey.pool import survey
from histrio_mlx.survey.table import page
from histrio_mlx.survey.tiny import configs

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.table:
        sys.stdout.write(page(load_record()))
        return 0

    unknown = sorted(set(options.family) - set(configs()))
    if unknown:
        sys.stderr.write(f"no configuration for {', '.join(unknown)}; known: {', '.join(configs())}\n")
        return 2

    names = options.family or list(configs())
    found: dict[str, Family] = {}
    with tqdm(total=len(names), unit="family", file=sys.stderr) as bar:
        for name, verdict in survey(names):
            found[name] = verdict
            bar.write(_line(name, verdict), file=sys.stdout)
            bar.update()
    sys.stdout.write(_summary(found))
    if options.write is not None:
        _write(options.write, found)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m histrio_mlx.survey", description="Try mlx-lm's model families.")
    parser.add_argument("--family", nargs="+", default=[], metavar="NAME", help="model types to run (default: all)")
    parser.add_argument("--write", nargs="?", const=PATH, type=Path, metavar="FILE", help="put the verdicts into FILE")
    parser.add_argument("--table", action="store_true", help="print the record as a page, without a run")
    return parser


def _line(name: str, verdict: Family) -> str:
    marks = {
        "runs": verdict.runs,
        "splits": verdict.splittable,
        "batches": verdict.batchable,
        "rewinds": verdict.rewindable,
    }
    yes = " ".join(f"{mark if is_so else '-':8}" for mark, is_so in marks.items())
    return f"{name:22} {yes} {verdict.reason}"


def _summary(found: dict[str, Family]) -> str:
    names = ("runs", "splittable", "batchable", "rewindable")
    counts = [f"{name} {sum(getattr(verdict, name) for verdict in found.values())}" for name in names]
    return f"of {len(found)} families: {', '.join(counts)}\n"


def _write(file: Path, found: dict[str, Family]) -> None:
    """Verdicts of families that were not run stay, if they were found with the same mlx-lm."""
    mlx_lm, before = version("mlx-lm"), load_record()
    old = before.families if before.mlx_lm == mlx_lm else {}
    families = {name: verdict for name, verdict in {**old, **found}.items() if name in configs()}
    record = Record(mlx_lm=mlx_lm, aliases=MODEL_ALIASES, families=dict(sorted(families.items())))
    lines = [f"  {_json(name)}: {_json(verdict)}" for name, verdict in record.families.items()]
    file.write_text(
        f'{{\n"mlx_lm": {_json(record.mlx_lm)},\n"aliases": {_json(record.aliases)},\n"families": {{\n'
        + ",\n".join(lines)
        + "\n}\n}\n",
        encoding="utf-8",
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    raise SystemExit(main())
