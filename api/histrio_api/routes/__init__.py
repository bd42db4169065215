"""The endpoint's URLs, one file for each group."""

from __future__ import annotations

from histrio_api.http.routing import Route
from histrio_api.routes.anthropic import count_tokens, messages
from histrio_api.routes.cache import reset_cache
from histrio_api.routes.chat import chat_completions
from histrio_api.routes.completions import completions
from histrio_api.routes.configure import configure
from histrio_api.routes.embeddings import embeddings
from histrio_api.routes.llama_cpp import infill, llama_completion, llama_props, llama_slots
from histrio_api.routes.models import list_models, show_model
from histrio_api.routes.ollama import ollama_chat, ollama_generate
from histrio_api.routes.ollama_embeddings import ollama_embed, ollama_embedding
from histrio_api.routes.ollama_models import (
    change_models,
    delete_model,
    list_tags,
    ollama_version,
    pull,
    running_models,
    show,
)
from histrio_api.routes.page import index, page_file, settings_of_page
from histrio_api.routes.parallax_pay import inference
from histrio_api.routes.parallm import generate, generate_batch, stats
from histrio_api.routes.render import apply_template, render
from histrio_api.routes.responses import (
    count_response_tokens,
    delete_response,
    list_input_items,
    responses,
    show_response,
)
from histrio_api.routes.schema import schema_route
from histrio_api.routes.scores import rerank, score
from histrio_api.routes.state import health, liveness, load, metrics, version
from histrio_api.routes.status import status
from histrio_api.routes.tokenize import detokenize, tokenize, tokenizer_info
from histrio_api.routes.usage import usage

__all__ = ["ROUTES"]

ROUTES: list[Route] = [
    apply_template,
    change_models,
    chat_completions,
    completions,
    count_response_tokens,
    configure,
    count_tokens,
    delete_model,
    delete_response,
    detokenize,
    embeddings,
    generate,
    generate_batch,
    health,
    index,
    inference,
    infill,
    list_input_items,
    list_models,
    list_tags,
    liveness,
    load,
    llama_completion,
    llama_props,
    llama_slots,
    messages,
    metrics,
    ollama_chat,
    ollama_embed,
    ollama_embedding,
    ollama_generate,
    ollama_version,
    page_file,
    pull,
    render,
    rerank,
    reset_cache,
    responses,
    running_models,
    settings_of_page,
    score,
    show,
    show_model,
    show_response,
    status,
    stats,
    tokenize,
    tokenizer_info,
    usage,
    version,
]
ROUTES.append(schema_route(ROUTES))
