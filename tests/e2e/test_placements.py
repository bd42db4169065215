"""A check and a start agree: on device, number format and bytes of every stage, or on the refusal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from histrio.testing.launched import LaunchedServer, free_port
from histrio.testing.toy import write_toy_model

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

PLUGIN = Path(__file__).parent / "foreign" / "two_gpus.py"
MODEL = '[model]\npath = "{model}"\n[runtime]\nplugins = ["{plugin}"]\n'
STAGE = '[[stage]]\nbackend = "two-gpus"\n'
STARTED = re.compile(r"stage (\d+): device (\S+), dtype (\S+), weights ([\d.]+ \w+)")

Placements = dict[str, tuple[str, str, str]]
"""Stage → device, dtype and weights."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("models") / "toy", num_layers=4)


def write_topology(folder: Path, model: Path, text: str) -> str:
    file = folder / "topology.toml"
    text = text if text.startswith("[model]") else MODEL.format(model=model, plugin=PLUGIN) + text
    file.write_text(text)
    return str(file)


def rt_launch(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "histrio.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checked_placements(printed: str) -> Placements:
    table = printed[printed.index("stage  layers") :].split("\n\n")[0].splitlines()
    rows = [re.split(r"  +", line) for line in table[1:]]
    return {row[0]: (row[4], row[5], row[7]) for row in rows}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            STAGE + STAGE + 'device = "gpu:0"\n',
            {"0": ("gpu:0", "bfloat16", "4.0 MiB"), "1": ("gpu:0", "bfloat16", "4.0 MiB")},
            marks=pytest.mark.thorough,
        ),
        (
            STAGE + 'layers = "0:1"\ndevice = "cpu"\n' + STAGE + 'layers = "1:4"\ndevice = "gpu:1"\n',
            {"0": ("cpu", "float32", "4.0 MiB"), "1": ("gpu:1", "bfloat16", "6.0 MiB")},
        ),
        pytest.param(
            '[model]\npath = "demo"\n[[stage]]\ndevice = "cpu"\n',
            {"0": ("cpu", "float32", "16.0 MiB")},
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_start_places_its_stages_as_the_check_says(
    text: str, expected: Placements, model: Path, tmp_path: Path
) -> None:
    file = write_topology(tmp_path, model, text)
    check = rt_launch(file, "--check")
    with LaunchedServer(file, log=tmp_path / "log.txt") as server:
        found = STARTED.findall(server.log.read_text())
    assert checked_placements(check.communicate()[0]) == expected
    assert {stage: tuple(values) for stage, *values in found} == expected


@pytest.mark.parametrize(
    ("text", "sentence", "code"),
    [
        pytest.param(
            STAGE + 'device = "gpu:2"\n',
            "stage[0].device: the backend 'two-gpus' cannot use 'gpu:2' here; it sees",
            1,
            marks=pytest.mark.thorough,
        ),
        (
            STAGE * 2 + "[engine]\nparam-mem-ratio = 0.3\n",
            "the weights need 8.0 MiB; gpu:0 has 24.0 MiB, of which param-mem-ratio 0.3 allows 7.2 MiB: raise it, or",
            1,
        ),
        pytest.param(
            MODEL.replace("[runtime]", 'dtype = "float16"\n[runtime]') + STAGE,
            "stage[0]: these GPUs know no float16; choose bfloat16",
            1,
            marks=pytest.mark.thorough,
        ),
        (STAGE + "treads = 3\n", "stage[0].treads: unknown key; did you mean 'threads'", 2),
    ],
)
def test_a_start_refuses_what_the_check_refuses(
    text: str, sentence: str, code: int, model: Path, tmp_path: Path
) -> None:
    file = write_topology(tmp_path, model, text.format(model=model, plugin=PLUGIN))
    started = rt_launch(file, "--port", str(free_port()), "--log-level", "error")
    checked = rt_launch(file, "--check")
    said = checked.communicate()[1]
    assert sentence in said
    assert started.communicate()[1] == said
    assert (checked.returncode, started.returncode) == (code, code)
