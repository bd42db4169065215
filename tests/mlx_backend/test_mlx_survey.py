"""The shipped record is what the survey finds, and the survey finds what is wrong.

All families take a minute and a half: `python -m histrio_mlx.survey`. Here a sample of each kind runs anew.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from histrio.messages import Tensor
from histrio_mlx.compat import MODEL_ALIASES
from histrio_mlx.families import Family, Record, assumed, family, load_record
from histrio_mlx.survey.__main__ import main
from histrio_mlx.survey.checks import CONTROL, TOLERANCE, survey_family
from histrio_mlx.survey.pool import survey
from histrio_mlx.survey.table import page
from histrio_mlx.survey.tiny import configs

PAGE = Path(__file__).parents[2] / "docs" / "mlx-families.md"

# attention, windows, parts, state, rows one at a time, unsplit only, refused for what it computes
SAMPLE = ["llama", "cohere2", "hunyuan", "rwkv7", "mamba2", "afm7", "nanbeige", "plamo3"]
SLOW = ["rwkv7", "mamba2", "afm7"]


def verdict(found: Family) -> Family:
    """Without numbers, which depend on the machine, and without the judge (`test_mlx_judge.py`)."""
    return msgspec.structs.replace(found, reason="", errors={}, controls={}, judge={}, judged_keys=[])


@pytest.mark.parametrize(
    "name", [name if name not in SLOW else pytest.param(name, marks=pytest.mark.thorough) for name in SAMPLE]
)
def test_a_fresh_run_says_what_the_record_says(name: str) -> None:
    shipped = load_record().families[name]
    found = survey_family(name, configs()[name])

    assert verdict(found) == verdict(shipped)
    assert set(found.errors) == set(shipped.errors)
    assert bool(found.reason) == bool(shipped.reason)


def test_the_sample_has_every_kind_of_verdict() -> None:
    found = [load_record().families[name] for name in SAMPLE]

    for field in ("runs", "splittable", "batchable", "rewindable", "parts"):
        assert {bool(getattr(one, field)) for one in found} == {True, False}, field


def test_what_is_lost_between_stages_is_found_out() -> None:
    def lose_half(tensor: Tensor) -> Tensor:
        values = np.frombuffer(tensor.data, np.float32).copy()
        values[: values.size // 2] = 0
        return Tensor(tensor.dtype, tensor.shape, values.data, tensor.name)

    found = survey_family("llama", configs()["llama"], disturb=lose_half)

    assert found.runs
    assert not found.splittable
    assert found.cuts == []
    assert "logits differ" in found.reason


def test_every_yes_in_the_record_had_a_control() -> None:
    for name, one in load_record().families.items():
        yes = [check for check, is_so in (("batch", one.batchable), ("rewind", one.rewindable)) if is_so]
        yes += [f"split@{cut}" for cut in one.cuts] + ["chunks"] * one.runs
        assert all(one.errors[check] <= TOLERANCE for check in yes), name
        assert all(one.controls[check] >= CONTROL for check in yes), name
        assert one.reason or all((one.runs, one.splittable, one.batchable)), name


def test_three_cuts_of_eighty_families() -> None:
    split = [one for one in load_record().families.values() if one.splittable]

    assert len(split) >= 80
    assert all(one.cuts == sorted({1, one.num_layers // 2, one.num_layers - 1}) for one in split)
    assert sum(len(one.cuts) == 3 for one in split) >= 80


def test_the_record_covers_all_configurations_of_the_installed_mlx_lm() -> None:
    record = load_record()

    assert record.mlx_lm == version("mlx-lm"), "run python -m histrio_mlx.survey --write"
    assert record.families.keys() == configs().keys()
    assert record.aliases == MODEL_ALIASES


def test_the_page_is_the_record() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(load_record()), "run python -m histrio_mlx.survey --table"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "mistral"}, "llama"),
        ({"model_type": "minimax_m2"}, "minimax"),
        ({"model_type": "bailing_hybrid"}, "bailing_hybrid"),
        ({"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]}, "bailing_moe_v3"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 0}, "gemma4_text"),
        ({"model_type": "gemma4", "text_config": configs()["gemma4/plain"]["text_config"]}, "gemma4/plain"),
    ],
)
def test_a_configuration_finds_its_family(config: dict[str, Any], name: str) -> None:
    assert family(config) is load_record().families[name]
    assert family({"model_type": "no_such_type"}) is None


def test_assumptions_end_with_their_context() -> None:
    before = family({"model_type": "llama"})
    with assumed("llama", Family(reason="assumed")):
        assert family({"model_type": "mistral"}) == Family(reason="assumed")

    assert family({"model_type": "llama"}) == before


def test_families_that_only_metal_runs_are_unknown_where_there_is_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    with assumed("bitnet", Family(metal_only=True)):
        assert family({"model_type": "bitnet"}) == Family(metal_only=True)
        monkeypatch.setattr("sys.platform", "darwin")
        assert family({"model_type": "bitnet"}) is None


@pytest.mark.timeout(60)  # starts two processes
def test_a_crash_takes_no_other_family_with_it() -> None:
    fine = "__import__('histrio_mlx.families', fromlist=['Family']).Family(runs=True)"
    found = dict(survey(["__import__('os')._exit(9)", fine], run=eval))

    assert [one.runs for one in found.values()] == [False, True]
    assert [one.reason for one in found.values()] == ["the process crashed while it ran", ""]


@pytest.mark.timeout(60)  # starts a process that imports mlx-lm
def test_the_command_line_writes_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "families.json"

    assert main(["--family", "gpt2", "--write", str(file)]) == 0
    assert "of 1 families: runs 1, splittable 1, batchable 1, rewindable 1" in capsys.readouterr().out
    written = msgspec.json.decode(file.read_bytes(), type=Record)
    assert verdict(written.families["gpt2"]) == verdict(load_record().families["gpt2"])
    assert written.families["llama"] == load_record().families["llama"]


def test_unknown_families_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--family", "llamma"]) == 2
    assert "no configuration for llamma" in capsys.readouterr().err


def test_the_table_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table"]) == 0
    assert capsys.readouterr().out == page(load_record())
