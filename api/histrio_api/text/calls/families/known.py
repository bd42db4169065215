"""All formats that come with histrio, those first that recognise themselves by the most."""

from __future__ import annotations

from histrio.contracts.tool_format import ToolFormat
from histrio_api.text.calls.families import (
    apertus,
    deepseek,
    deepseek_dsml,
    functionary,
    gemma,
    glm,
    granite,
    harmony,
    hermes,
    hunyuan,
    kimi,
    kimi_k3,
    lfm,
    lists,
    llama,
    minimax,
    minimax_m3,
    mistral,
    phi,
    qwen_coder,
    seed,
)

__all__ = ["FORMATS"]

FORMATS: tuple[ToolFormat, ...] = (
    *harmony.FORMATS,
    *qwen_coder.FORMATS,
    *seed.FORMATS,
    *glm.FORMATS,
    *hunyuan.FORMATS,
    *minimax.FORMATS,
    *minimax_m3.FORMATS,
    *kimi.FORMATS,
    *kimi_k3.FORMATS,
    *deepseek.FORMATS,
    *deepseek_dsml.FORMATS,
    *mistral.FORMATS,
    *gemma.FORMATS,
    *hermes.FORMATS,
    *phi.FORMATS,
    *granite.FORMATS,
    *lists.FORMATS,
    *apertus.FORMATS,
    *functionary.FORMATS,
    *lfm.FORMATS,
    *llama.FORMATS,
)
