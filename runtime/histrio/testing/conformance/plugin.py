"""The pytest plugin of the conformance kit: its options, and nothing else as long as `--backend` is not given.

Every pytest run in an environment with histrio loads this module, so it imports nothing heavy. The entry point has the
module's own name; therefore `-p histrio.testing.conformance.plugin` and a distribution found twice do no harm.
"""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["KIT"]

KIT = Path(__file__).parent
_PACKAGE = "histrio.testing.conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the kit."""
    group = parser.getgroup("histrio", "conformance of histrio backends")
    group.addoption("--backend", metavar="NAME", help="registered name of the backend, or module:Factory")
    group.addoption(
        "--backend-model",
        metavar="MODEL",
        action="append",
        default=[],
        help="test with this folder's model, or the kit's own of this name, instead of all the kit's; repeatable",
    )
    group.addoption(
        "--backend-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the backend; repeatable",
    )
    group.addoption(
        "--judge",
        metavar="MODULE:FUNCTION",
        help="what the model should say: function(folder, ids) gives the logits [ids, vocab]; in place of transformers",
    )
    group.addoption("--conformance-report", metavar="FILE", help="write the results as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """With a backend, bring in what the tests of the kit need; refuse to run the kit without one."""
    config.addinivalue_line("markers", "needs(*capabilities): only where the backend declares these capabilities")
    if config.getoption("--backend") is not None:
        config.pluginmanager.import_plugin(f"{_PACKAGE}.session")
        return

    arguments = map(str, config.invocation_params.args)
    if any(argument == _PACKAGE or argument.startswith(f"{_PACKAGE}.test_") for argument in arguments):
        raise pytest.UsageError(f"{_PACKAGE} tests one backend: name it with --backend")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without a backend the kit's tests are not collected, whatever folder pytest was pointed at."""
    is_kit = collection_path == KIT or KIT in collection_path.parents
    return True if is_kit and config.getoption("--backend") is None else None
