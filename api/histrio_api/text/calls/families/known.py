"""All formats that come with histrio, those first that recognise themselves by the most."""

from __future__ import annotations

from histrio.contracts.tool_format import ToolFormat
from histrio_api.text.calls.families import (
    deepseek,
    gemma,
    glm,
    granite,
    harmony,
    hermes,
    kimi,
    llama,
    minimax,
    mistral,
    phi,
    qwen_coder,
)

__all__ = ["FORMATS"]

FORMATS: tuple[ToolFormat, ...] = (
    *harmony.FORMATS,
    *qwen_coder.FORMATS,
    *glm.FORMATS,
    *minimax.FORMATS,
    *kimi.FORMATS,
    *deepseek.FORMATS,
    *mistral.FORMATS,
    *gemma.FORMATS,
    *hermes.FORMATS,
    *phi.FORMATS,
    *granite.FORMATS,
    *llama.FORMATS,
)
