"""Writes what was measured with real models as a table.

python -m tests.real_models.table FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.real_models.build import SOURCES
from tests.real_models.judge import NUM_TOKENS, PROMPTS, refer
from tests.real_models.subjects import BACKENDS, DTYPES, STAGES, Distance, distance

HEAD = [
    "| model | computed by | dtype | stages | other tokens | log probability: mean difference | largest difference |",
    "|---|---|---|---|---|---|---|",
]


def main(folder: Path) -> None:
    """Print the rows of all models and what was measured of each backend."""
    print(f"{len(PROMPTS)} prompts, {NUM_TOKENS} greedy tokens each, against transformers in float32:\n")
    print("\n".join(HEAD))
    for model in (source.name for source in SOURCES):
        reference = refer(folder / model)
        own = distance(reference.scores["bfloat16"], reference.best["bfloat16"], reference, "float32")
        print(_row(model, "transformers", "bfloat16", "1", own))
        for backend in BACKENDS:
            for dtype in [*DTYPES, "gguf"]:
                for num_stages in STAGES:
                    found = folder / "results" / f"{model}-{backend}-{dtype}-{num_stages}.json"
                    if found.exists():
                        measured = Distance(**json.loads(found.read_text())["found"])
                        print(_row(model, backend, dtype, str(num_stages), measured))


def _row(model: str, name: str, dtype: str, stages: str, measured: Distance) -> str:
    total = len(PROMPTS) * NUM_TOKENS
    cells = [f"{measured.num_other_tokens} of {total}", f"{measured.mean:.2e}", f"{measured.most:.2e}"]
    return f"| {' | '.join([model, name, dtype, stages, *cells])} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
