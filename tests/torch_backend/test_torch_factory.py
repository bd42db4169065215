"""The factory answers without torch, and is found through the hook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from histrio.contracts.backend import CONTRACT, BackendFactory
from histrio_torch import plugin
from histrio_torch.factory import TorchFactory

CHILD = """
import sys
from histrio.contracts.backend import CONTRACT, StageSpec
from histrio_torch import plugin
found = []
plugin.register_backends(found.append)
probe = found[0].supports(StageSpec(sys.argv[1], 0, 3, 3))
assert probe.available, probe
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_the_hook_registers_a_factory_named_torch() -> None:
    found: list[BackendFactory] = []
    plugin.register_backends(found.append)

    assert [factory.name for factory in found] == ["torch"]
    assert found[0].traits.contract == CONTRACT


def test_the_probe_names_the_cpu() -> None:
    probe = TorchFactory().probe()

    assert probe.available
    assert probe.devices[-1] == "cpu"


def test_support_is_told_without_importing_torch(tiny_model: Callable[[str], Any]) -> None:
    folder = tiny_model("llama").folder
    subprocess.run([sys.executable, "-c", CHILD, folder], check=True, timeout=60)
