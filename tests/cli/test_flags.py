"""Flags of the command line are made from the fields of the topology's tables and their docstrings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from histrio.cli.flags import WITHOUT_FLAG, is_scalar
from histrio.cli.options import parse_options
from histrio.config.field_docs import field_docs
from histrio.config.topology import TABLES

Tables = Mapping[str, tuple[type[msgspec.Struct], ...]]


class Planted(msgspec.Struct, rename="kebab"):
    """Of no table."""

    num_oars: int = 1
    names_of_oars: list[str] = []


def scalar_keys(tables: Tables) -> Iterator[tuple[str, type[msgspec.Struct], msgspec.structs.FieldInfo]]:
    """Path, owner and field of every key with one value."""
    for table, kinds in tables.items():
        for kind in kinds:
            for field in msgspec.structs.fields(kind):
                if is_scalar(field):
                    yield f"{table}.{field.encode_name}", kind, field


def flags_of(path: str) -> list[str]:
    """The flags that may set a key, by its name alone."""
    return ["--model"] if path == "model.path" else [f"--{path.partition('.')[2]}"]


def without_flag(tables: Tables) -> set[str]:
    """Keys whose flag the command line does not know."""
    return {path for path, _, _ in scalar_keys(tables) if all(accepted(flag, path) is None for flag in flags_of(path))}


def accepted(flag: str, path: str) -> Any:
    """What the command line makes of the flag, with a value or without one; None for nothing at this path."""
    table, _, key = path.partition(".")
    for arguments in ([flag, "1"], [flag]):
        try:
            return parse_options(["topology.toml", *arguments]).tables.get(table, {}).get(key)
        except SystemExit:
            continue
    return None


def test_every_key_with_one_value_has_a_flag_of_its_name_or_a_reason_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert without_flag(TABLES) == set(WITHOUT_FLAG)
    planted: Tables = {**TABLES, "engine": (*TABLES["engine"], Planted)}
    assert without_flag(planted) - set(WITHOUT_FLAG) == {"engine.num-oars"}, "a control; a list is no scalar"


@pytest.mark.parametrize(
    ("arguments", "table", "expected"),
    [
        (["--max-batch-size", "7"], "engine", {"max-batch-size": 7}),
        (["--step-budget-ms", "7"], "engine", {"step-budget-ms": 7.0}),
        (["--prefill-priority", "1"], "engine", {"prefill-priority": 1}),
        (["--batching-policy", "fifo"], "engine", {"batching-policy": "fifo"}),
        (["--kv-cache-memory-fraction", "0.1"], "engine", {"kvcache-mem-ratio": 0.1}),
        (["--no-enable-preemption"], "engine", {"enable-preemption": False}),
        (["--no-adaptive", "--adaptive"], "engine", {"adaptive": True}),
        (["--disable-prefix-cache"], "engine", {"prefix-cache": False}),
        (["--no-prefix-cache"], "engine", {"prefix-cache": False}),
        (["--prefix-cache"], "engine", {"prefix-cache": True}),
        (["--offline"], "model", {"offline": True}),
        (["--model", "demo"], "model", {"path": "demo"}),
        (["--gpu-backend", "torch"], "stage", {"backend": "torch"}),
        (["--one-process"], "runtime", {"processes": "one"}),
        (["--processes", "split"], "runtime", {"processes": "split"}),
        (["--hang-timeout-s", "3"], "runtime", {"hang-timeout-s": 3.0}),
        ([], "engine", None),
    ],
)
def test_a_flag_sets_its_key_to_a_value_of_its_type(
    arguments: list[str], table: str, expected: dict[str, Any] | None
) -> None:
    found = parse_options(["topology.toml", *arguments]).tables.get(table)
    assert found == expected
    assert [type(value) for value in (found or {}).values()] == [type(value) for value in (expected or {}).values()]


@pytest.fixture
def help_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        parse_options(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_has_the_docstring_and_the_default_of_every_flag(help_page: str) -> None:
    words = " ".join(help_page.replace("-\n", "-").split())
    joined = words.replace("- ", "-")  # argparse breaks lines behind hyphens too
    for path, kind, field in scalar_keys(TABLES):
        if path in WITHOUT_FLAG:
            continue
        text = field_docs(kind)[field.name].replace("`", "").removesuffix(".").replace("- ", "-")
        assert text in joined, path
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"{text} (default: {field.default:g})" in joined
    assert "Most sequences in one step (default: 256)" in joined, "a control: the words are in one line"
    assert "(default: None)" not in joined


def test_help_fits_into_80_columns(help_page: str) -> None:
    page, _, examples = help_page.partition("\nexamples:")
    assert max(len(line) for line in page.splitlines()) <= 80
    assert examples, "a control: the page has an end"


def test_help_needs_no_array_library() -> None:
    code = (
        "import sys\n"
        "from histrio.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(*{'torch', 'transformers', 'argparse'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "argparse"


def test_the_page_is_switched_off_by_a_flag() -> None:
    assert parse_options(["--model", "demo", "--no-ui"]).tables["api"] == {"ui": False}
    assert "api" not in parse_options(["--model", "demo"]).tables, "control"
