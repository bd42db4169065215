"""Real weights say what transformers says: the same tokens in float32, and in bfloat16 no less exactly than it does.

    python -m tests.real_models.build FOLDER
    HISTRIO_REAL_MODELS=FOLDER pytest tests/real_models

`-k torch` runs a part. What was measured is kept in FOLDER/results, of which `table.py` makes the table of
docs/real-models.md.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histrio.config.gguf.folder import folder_of_gguf
from histrio.messages import Tensor
from tests.real_models.build import SOURCES, Source, gguf_file
from tests.real_models.judge import Reference, refer
from tests.real_models.subjects import BACKENDS, DTYPES, STAGES, Distance, Subject, distance, run

MOST_IN_FLOAT32 = 1e-3
"""Largest difference of a log probability, in nats; 4e-5 is usual."""
MOST_MEAN, MOST_PEAK = 1.25, 2.0
"""How much farther from float32 than transformers in bfloat16, on average and at worst: of two ways to round the same
model each is about as far from the exact one, and which is nearer is chance."""
MOST_OTHER_TOKENS = 24
"""Of 480: one in twenty, where two tokens are about as likely."""
MOST_MEAN_IN_BLOCKS = 3.0
"""The same where the inputs of blocks are rounded to 8 bits."""
SUBJECTS = [Subject(*each) for each in product([source.name for source in SOURCES], BACKENDS, DTYPES, STAGES)]

pytestmark = [pytest.mark.timeout(1800), pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: "-".join(map(str, vars(subject).values())))
def test_real_weights_say_what_transformers_says(subject: Subject, real_models: Path) -> None:
    if subject.backend == "mlx" and find_spec("mlx") is None:
        pytest.skip("mlx is not installed")

    folder = real_models / subject.model
    reference = refer(folder)
    found = distance(*run(folder, subject, reference), reference, "float32")
    keep(found, subject, real_models)
    assert is_within(found, subject.dtype, reference), f"{found}; transformers in bfloat16: {own_distance(reference)}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_blocks_of_a_gguf_file_say_what_their_values_say(source: Source, real_models: Path) -> None:
    reference = refer(real_models / source.name)
    folder = folder_of_gguf(gguf_file(real_models, source))
    found = distance(*run(folder, Subject(source.name, "cpu", "auto", 1), reference), reference, "float32")
    keep(found, Subject(source.name, "cpu", "gguf", 1), real_models)
    own = own_distance(reference)
    assert found.num_other_tokens <= MOST_OTHER_TOKENS
    assert found.mean <= MOST_MEAN_IN_BLOCKS * own.mean, f"{found}; transformers in bfloat16: {own}"


@pytest.mark.parametrize("model", [source.name for source in SOURCES])
def test_a_disturbed_hidden_state_is_seen(model: str, real_models: Path) -> None:
    folder = real_models / model
    reference = refer(folder)
    subject = Subject(model, "torch", "float32", num_stages=2)
    found = distance(*run(folder, subject, reference, _one_percent_more), reference, "float32")

    assert not is_within(found, "float32", reference)


def test_norms_told_by_their_largest_element_are_seen(real_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histrio_torch import fused

    folder = real_models / "gemma3-270m"
    reference = refer(folder)
    monkeypatch.setattr(fused, "_is_same", _is_same_at_the_largest)
    subject = Subject(folder.name, "torch", "bfloat16", num_stages=1)
    found = distance(*run(folder, subject, reference), reference, "float32")

    assert not is_within(found, "bfloat16", reference)
    assert found.num_other_tokens > 240


def test_the_text_is_read(real_models: Path) -> None:
    gemma, smollm2 = (refer(real_models / name).texts[0] for name in ("gemma3-270m", "smollm2-135m"))
    assert "the capital of the country of France" in gemma
    assert smollm2.startswith(" Paris.")


def is_within(found: Distance, dtype: str, reference: Reference) -> bool:
    """Whether a backend in this dtype is as near to float32 as transformers is."""
    if dtype == "float32":
        return found.num_other_tokens == 0 and found.most <= MOST_IN_FLOAT32

    own = own_distance(reference)
    return found.mean <= MOST_MEAN * own.mean and found.most <= MOST_PEAK * own.most


def own_distance(reference: Reference) -> Distance:
    """Of transformers in bfloat16 from itself in float32."""
    return distance(reference.scores["bfloat16"], reference.best["bfloat16"], reference, "float32")


def keep(found: Distance, subject: Subject, real_models: Path) -> None:
    results = real_models / "results"
    results.mkdir(exist_ok=True)
    name = "-".join(map(str, vars(subject).values()))
    (results / f"{name}.json").write_text(json.dumps({"subject": vars(subject), "found": vars(found)}))


def _one_percent_more(tensor: Tensor) -> Tensor:
    values = np.frombuffer(tensor.data, np.float32).copy()
    values[::2] *= 1.01
    return Tensor(tensor.dtype, tensor.shape, values)


def _is_same_at_the_largest(candidate: Any, module: Any, weight: torch.Tensor) -> bool:
    """A comparison that outliers deceive; it doesn't look at weights other than the module's own."""
    if weight is not module.weight:
        return True

    inputs = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.inference_mode():
        expected, result = module(inputs).double(), candidate(inputs).double()
    error = (result - expected).abs().amax(-1) / expected.abs().amax(-1)
    return bool((error <= 4 * torch.finfo(weight.dtype).eps).all())
