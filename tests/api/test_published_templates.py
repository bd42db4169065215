"""Published chat templates: the forms of their calls and of their reasoning are told from them.

The templates are no part of the repository. HISTRIO_TEMPLATES names a folder of them: `models/templates` in the source
of llama.cpp, which PyPI has in the sdist of `llama-cpp-python` (here of 0.3.36).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from histrio_api.text.calls.families.known import FORMATS
from histrio_api.text.reasoning_formats import FORMATS as REASONING_FORMATS
from histrio_api.text.template import load_chat_template

VARIABLE = "HISTRIO_TEMPLATES"
KNOWN: dict[str, tuple[str | None, str | None]] = {
    "Apertus-8B-Instruct": ("apertus", "apertus"),
    "Apriel-1.6-15b-Thinker-fixed": ("apriel", "apriel"),
    "Bielik-11B-v3.0-Instruct": ("hermes", "think"),
    "ByteDance-Seed-OSS": ("seed", "seed"),
    "Cohere2MoE": ("command", "command"),
    "CohereForAI-c4ai-command-r-plus-tool_use": (None, None),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("command", "command"),
    "GLM-4.6": ("glm", "think"),
    "GLM-4.7-Flash": ("glm", "think"),
    "GigaChat3-10B-A1.8B": (None, None),
    "GigaChat3.1-10B-A1.8B": (None, None),
    "HuggingFaceTB-SmolLM3-3B": (None, "think"),
    "Kimi-K2-Instruct": ("kimi", None),
    "Kimi-K2-Thinking": ("kimi", "think"),
    "Kimi-K3": ("kimi-k3", "kimi-k3"),
    "LFM2-8B-A1B": ("lfm", None),
    "LFM2.5-8B-A1B": ("lfm", "think"),
    "LFM2.5-Instruct": (None, "think"),
    "MiMo-VL": ("hermes", None),
    "MiniMax-M1": ("minimax-m1", None),
    "MiniMax-M2": ("minimax", "think"),
    "MiniMax-M3": ("minimax-m3", "minimax-m3"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen-coder", "think"),
    "NVIDIA-Nemotron-Nano-v2": ("nemotron", "think"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-QwQ-32B": ("hermes", "think"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "think"),
    "Qwen3-Coder": ("qwen-coder", None),
    "Qwen3.5-4B": ("qwen-coder", "think"),
    "Reka-Edge": ("hermes", "think"),
    "Spark2.5": ("glm", "think"),
    "StepFun3.5-Flash": ("qwen-coder", "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (None, "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (None, "think"),
    "deepseek-ai-DeepSeek-V3.1": (None, "think"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek-v3.2", "think"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("deepseek-v4", "think"),
    "deepseek-ai-DeepSeek-V4": ("deepseek-v4", "think"),
    "fireworks-ai-llama-3-firefunction-v2": (None, None),
    "google-gemma-2-2b-it": (None, None),
    "google-gemma-4-31B-it-interleaved": ("gemma", "gemma"),
    "google-gemma-4-31B-it": ("gemma", "gemma"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "think"),
    "ibm-granite-granite-4.0": ("hermes", None),
    "ibm-granite-granite-4.1": ("hermes", None),
    "inclusionai-ling-3.0-flash": ("glm", "think"),
    "llama-cpp-deepseek-r1": (None, "think"),
    "llama-cpp-rwkv-world": (None, "think"),
    "meetkai-functionary-medium-v3.1": ("functionary", None),
    "meetkai-functionary-medium-v3.2": ("functionary-v3.2", "functionary-v3.2"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama-json", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama-json", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama-json", None),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "mistral"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral-list", None),
    "moonshotai-Kimi-K2": ("kimi", None),
    "muse-glimmer": (None, None),
    "openai-gpt-oss-120b": ("harmony", "harmony"),
    "openbmb-MiniCPM5-1B": (None, "think"),
    "poolside-Laguna-S-2.1": ("glm", "think"),
    "poolside-Laguna-XS-2.1": ("glm", "think"),
    "poolside-Laguna-XS.2": ("glm", "think"),
    "tencent-Hy3": ("hunyuan", "hunyuan"),
    "unsloth-Apriel-1.5": ("apriel", "apriel"),
    "unsloth-mistral-Devstral-Small-2507": ("mistral", None),
    "upstage-Solar-Open-100B": (None, None),
}
"""Template → the form of its calls and of its reasoning, None where none is told."""


@pytest.mark.timeout(120)  # renders hundreds of conversations
def test_the_forms_of_published_templates_are_told(tmp_path: Path) -> None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"needs {VARIABLE}, a folder of published templates")
    found = {name: forms_of(tmp_path, (Path(folder) / f"{name}.jinja").read_text(encoding="utf-8")) for name in KNOWN}
    assert found == KNOWN


CHANGING_LISTS = ("Kimi-K2-Instruct", "Kimi-K2-Thinking")
CALLS = [
    {"id": f"functions.f:{at}", "type": "function", "function": {"name": "f", "arguments": {"a": at}}} for at in (0, 1)
]
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    *({"role": "tool", "content": f"says {at}", "tool_call_id": f"functions.f:{at}"} for at in (0, 1)),
]


def test_templates_that_change_lists_write_what_jinja_writes(tmp_path: Path) -> None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"needs {VARIABLE}, a folder of published templates")
    judge = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    judge.filters["tojson"] = json.dumps
    for name in CHANGING_LISTS:
        source = (Path(folder) / f"{name}.jinja").read_text(encoding="utf-8")
        (tmp_path / "chat_template.jinja").write_text(source)
        template = load_chat_template(tmp_path)
        assert template is not None
        expected = judge.from_string(source).render(messages=CHAT, add_generation_prompt=True)
        assert template.render(CHAT) == expected
        assert "## Return of functions.f:1" in expected, "a control: it has taken them from its list"


def forms_of(folder: Path, source: str) -> tuple[str | None, str | None]:
    (folder / "chat_template.jinja").write_text(source)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    template = load_chat_template(folder)
    assert template is not None
    called, answered = template.written_call, template.written_answer
    calls = next((each.name for each in FORMATS if called is not None and each.recognises(called)), None)
    return calls, next((each.name for each in REASONING_FORMATS if each.recognises(answered)), None)
