"""Placements are made of what backends say, which here is on paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histrio.config.topology import parse_tables
from histrio.contracts.backend import Probe
from histrio.errors import BackendError, DoesNotFit, HistrioError, TopologyError, UnsupportedModel
from histrio.messages import Placement
from histrio.plan.placement import ask_backends, settle
from histrio.plan.resolve import resolve
from histrio.plugins.registry import Plugins

WriteModel = Callable[..., Path]
MIB = 2**20


@pytest.fixture
def placed(plugins: Plugins) -> Callable[..., list[Placement]]:
    """The placements of a topology with a model in this folder."""

    def placements(folder: Path, **tables: Any) -> list[Placement]:
        model = {"path": str(folder)} | tables.pop("model", {})
        plan = resolve(parse_tables({"model": model, **tables}), plugins)
        return settle(plan, ask_backends(plan, plugins))

    return placements


@pytest.mark.parametrize(
    ("named", "seen", "device"),
    [
        ("auto", ["cuda:0", "cuda:1", "cpu"], "cuda:0"),
        ("auto", [], "auto"),
        ("cuda", ["cpu", "cuda:1", "cuda:0"], "cuda:1"),
        ("cuda:1", ["cuda:0", "cuda:1"], "cuda:1"),
        ("npu:7", [], "npu:7"),
        ("mps", ["cuda:0", "cpu"], ""),
        ("cuda:2", ["cuda:0", "cpu"], ""),
    ],
)
def test_a_device_is_one_that_the_backend_sees(
    named: str, seen: list[str], device: str, write_model: WriteModel, placed: Any, factory: Any
) -> None:
    factory.machine = Probe(available=True, devices=seen)
    folder, tables = write_model(), {"stage": [{"device": named}]}
    if device:
        assert [each.device for each in placed(folder, **tables)] == [device]
        return
    with pytest.raises(TopologyError, match=rf"stage\[0\]\.device: .* cannot use '{named}' here; it sees cuda:0, cpu"):
        placed(folder, **tables)


def test_auto_shares_the_memory_of_the_device_that_it_means(write_model: WriteModel, placed: Any, factory: Any) -> None:
    factory.machine = Probe(available=True, devices=["cuda:0", "cuda:1"])
    stages = [{"layers": "0:1"}, {"layers": "1:4", "device": "cuda:0"}, {"layers": "4:6", "device": "cuda:1"}]
    placements = placed(write_model(), stage=stages, engine={"kvcache-mem-ratio": 0.2})
    assert [each.block_mem_ratio for each in placements] == pytest.approx([0.05, 0.15, 0.2])


def test_bytes_are_the_backends_or_the_files_in_the_number_format(
    write_model: WriteModel, placed: Any, factory: Any
) -> None:
    folder = write_model(dtype="bfloat16")
    assert placed(folder)[0].weight_bytes == 7 * MIB
    assert placed(folder, model={"dtype": "float32"})[0].weight_bytes == 14 * MIB
    factory.model = Probe(available=True, dtype="float32")
    assert placed(folder)[0].weight_bytes == 14 * MIB
    factory.model = Probe(available=True, dtype="float32", weight_bytes=3)
    assert placed(folder)[0].weight_bytes == 3


@pytest.mark.parametrize(
    ("machine", "model", "error", "sentence"),
    [
        (
            Probe(False, "no driver", "install one"),
            Probe(True),
            BackendError,
            "cannot be used here: no driver; install",
        ),
        (
            Probe(True),
            Probe(False, "too new", "wait"),
            UnsupportedModel,
            "stage[0]: too new; wait (the model comes with",
        ),
    ],
)
def test_a_refusal_says_why_and_what_to_do(
    machine: Probe,
    model: Probe,
    error: type[HistrioError],
    sentence: str,
    write_model: WriteModel,
    placed: Any,
    factory: Any,
) -> None:
    folder = write_model(auto_map={"AutoModelForCausalLM": "modeling_paper.PaperForCausalLM"})
    assert placed(folder), "a control"
    factory.machine, factory.probed_model, factory.num_probes = machine, model, 0
    with pytest.raises(error) as caught:
        placed(folder)
    assert sentence in str(caught.value)


def test_weights_that_do_not_fit_into_main_memory_are_refused_with_the_numbers(
    write_model: WriteModel, placed: Any, factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stages = write_model(dtype="bfloat16"), [{"device": "cpu"}, {"device": "cpu"}]
    factory.machine = Probe(available=True, devices=["cpu"])
    monkeypatch.setattr("histrio.plan.probe.memory_bytes", lambda: 20 * MIB)
    assert len(placed(folder, stage=stages)) == 2
    numbers = r"need 16\.0 MiB; this machine has 20\.0 MiB, of which param-mem-ratio 0\.65 allows 13\.0 MiB"
    with pytest.raises(DoesNotFit, match=numbers):
        placed(folder, stage=stages, model={"dtype": "float32"})
    factory.machine = Probe(available=True, devices=["cuda:0"])
    assert placed(folder, model={"dtype": "float32"}), "no main memory is needed"
    factory.model = Probe(available=True, device_bytes=21 * MIB)
    with pytest.raises(DoesNotFit, match=r"need 16\.0 MiB; cuda:0 has 21\.0 MiB"):
        placed(folder, stage=[{}, {"device": "cuda"}], model={"dtype": "float32"})


@pytest.mark.parametrize(
    ("devices", "threads", "expected"),
    [
        (["cpu", "cpu"], [None, None], 1),
        (["cpu", "cpu"], [2, 2], 2),
        (["cpu", "cpu"], [3, 2], 1),
        (["cpu", "cpu"], [1, None], 1),
        (["cpu", "cuda:0", "cpu"], [None, None, None], 2),
        (["cpu", "cuda:0", "cpu"], [2, None, 2], 3),
        (["cuda:0", "cuda:0", "cuda:1"], [1, 1, 1], 2),
    ],
)
def test_stages_on_one_device_take_turns_unless_their_threads_divide_it(
    devices: list[str],
    threads: list[int | None],
    expected: int,
    write_model: WriteModel,
    placed: Any,
    factory: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("histrio.plan.placement.num_cores", lambda: 4)
    factory.machine = Probe(available=True, devices=["cpu", "cuda:0", "cuda:1"])
    stages = [
        {"device": device, **({} if number is None else {"threads": number})}
        for device, number in zip(devices, threads, strict=True)
    ]
    placements = placed(write_model(), stage=stages)
    assert len({each.computes_on for each in placements}) == expected
