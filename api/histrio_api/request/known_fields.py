"""Every request field that clients of any common server send, and what becomes of it: one table.

Known are the fields of OpenAI, Anthropic, vLLM, SGLang, llama.cpp, Ollama, mlx-lm and OpenRouter. A field is honoured;
or it is a hint, which may be ignored because the answer is right without it; or it would change the answer and is not
supported, so it is refused. Null, and the values at which a field does nothing, are fine for every one of them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

__all__ = ["ALIASES", "HINTS", "KNOWN_FIELDS", "UNREAD", "KnownField"]


class KnownField(NamedTuple):
    """What becomes of one field where it is not honoured."""

    kind: Literal["honoured", "alias", "hint", "refused"]
    """`honoured`: by the endpoints or samplers that have it; others refuse it."""
    reason: str
    """What honours it (`chats messages`, or `samplers`), or what its own name is, or why it need not be honoured, or
    cannot be."""
    neutral: tuple[Any, ...] = ()
    """Values besides null at which it does nothing."""

    def is_neutral(self, value: Any) -> bool:
        """Whether it does nothing at this value."""
        # True == 1 in Python, but `best_of: true` is not a number of choices.
        same = (each for each in (None, *self.neutral) if value == each)
        return any(isinstance(value, bool) == isinstance(each, bool) for each in same)


_Fields = dict[str, KnownField]


def _each(names: str, field: KnownField) -> _Fields:
    return dict.fromkeys(names.split(), field)


def _honoured(by: str, *names: str, **neutral: tuple[Any, ...]) -> _Fields:
    """Those in `names` do nothing at null alone."""
    return _each(" ".join(names), KnownField("honoured", by)) | {
        name: KnownField("honoured", by, values) for name, values in neutral.items()
    }


def _hint(reason: str, *neutral: Any) -> KnownField:
    return KnownField("hint", reason, neutral)


def _refused(reason: str, *neutral: Any) -> KnownField:
    return KnownField("refused", reason, neutral)


_HONOURED = (
    _honoured("chats completions messages responses embeddings scores rerankings", "model user priority")
    | _honoured(
        "chats completions messages responses",
        "stream max_tokens seed stop_token_ids ignore_eos skip_special_tokens cache_salt",
        "max_speculation response_format structured_outputs json_schema regex grammar ebnf guided_json guided_regex",
        "guided_choice guided_grammar safety_identifier",
    )
    | _honoured("chats completions responses", "stream_options stop")
    | _honoured(
        "chats completions messages responses",
        include_stop_str_in_output=(False,),
        spaces_between_special_tokens=(True,),
    )
    | _honoured(
        "chats completions",
        "prompt_logprobs",
        n=(1,),
        logprobs=(False,),
        truncation_side=("left", "right"),
        echo=(False,),
        return_token_ids=(False,),
        logprob_token_ids=([],),
    )
    | _honoured("chats completions embeddings scores rerankings", "truncate_prompt_tokens", add_special_tokens=(False,))
    | _honoured("completions", "prompt", suffix=("",))
    | _honoured("chats completions messages responses", "max_completion_tokens")
    | _honoured("chats messages", "messages")
    | _honoured("chats messages responses", tools=([],), tool_choice=("auto", "none"))
    | _honoured("messages", stop_sequences=([],), output_config=({},))
    | _honoured("responses", "instructions previous_response_id max_output_tokens", text=({},), include=([],))
    | _honoured("chats responses", top_logprobs=(0,), parallel_tool_calls=(True, False), chat_template_kwargs=({},))
    | _honoured("responses embeddings", "input")
    | _honoured("embeddings", "encoding_format dimensions normalize")
    | _honoured("embeddings scores rerankings", "pooling")
    | _honoured("scores", "text_1 text_2")
    | _honoured("rerankings", "query top_n return_documents", documents=([],))
    | _honoured(
        "chats",
        functions=([],),
        function_call=("auto", "none"),
        include_reasoning=(True,),
        add_generation_prompt=(True,),
        continue_final_message=(False,),
    )
    | _honoured(
        "samplers",
        allowed_token_ids=(),
        bad_words=([],),
        bad_words_ids=([],),
        dry_allowed_length=(2,),
        dry_base=(1.75,),
        dry_multiplier=(0,),
        dry_penalty_last_n=(-1, 0),
        dry_sequence_breaker_ids=([],),
        dry_sequence_breakers=([],),
        frequency_penalty=(0,),
        logit_bias=({}, []),
        min_p=(0,),
        min_tokens=(0,),
        occurrence_last_n=(),
        repeat_last_n=(-1,),
        mirostat=(0,),
        mirostat_eta=(0.1,),
        mirostat_tau=(5,),
        presence_penalty=(0,),
        repetition_penalty=(1,),
        temperature=(1,),
        top_k=(0, -1),
        top_n_sigma=(0, -1),
        top_p=(1,),
        typical_p=(1,),
        xtc_probability=(0,),
        xtc_threshold=(0.1,),
    )
)

_ALIASES = (
    _each("n_predict num_predict max_new_tokens", KnownField("alias", "max_tokens"))
    | _each("min_new_tokens", KnownField("alias", "min_tokens"))
    | _each("stop_strs", KnownField("alias", "stop"))
    | _each("repeat_penalty", KnownField("alias", "repetition_penalty"))
    | _each("repetition_context_size", KnownField("alias", "repeat_last_n"))
    | _each("no_stop_trim", KnownField("alias", "include_stop_str_in_output"))
    | _each("add_special", KnownField("alias", "add_special_tokens"))
    | _each(
        "thinking_budget thinking_token_budget reasoning_budget reasoning_budget_tokens",
        KnownField("alias", "max_reasoning_tokens"),
    )
)

_TEMPLATE = _each(
    "reasoning_effort reasoning reasoning.effort reasoning.enabled thinking enable_thinking think",
    _hint("the chat template has no such variable, or the request is no chat"),
)

_BUDGETS = _each(
    "max_reasoning_tokens reasoning.max_tokens thinking.budget_tokens",
    _hint("the model's reasoning has no marks that are tokens of their own, or the request is no chat", -1),
)

_HINTS = (
    _each("metadata request_id rid session_id trace", _hint("a label", {}))
    | _each("store", _hint("answers are not kept", False))
    | _each("include[]", _hint("there is no such thing to include"))
    | _each("truncation", _hint("conversations are kept as they are, and one that does not fit is a 400", "disabled"))
    | _each("max_tool_calls", _hint("for tools that a server runs"))
    | _each("personality", _hint("a wish for the tone"))
    | _each("reasoning.summary reasoning.generate_summary", _hint("reasoning is always shown as it is"))
    | _each("reasoning.context", _hint("which reasoning is shown again is for the template to say", "auto"))
    | _each("reasoning.mode", _hint("there is one mode", "standard"))
    | _each("text.verbosity", _hint("a wish for the length", "medium"))
    | _each("background_options access_programs image", _hint("for a layer above", {}))
    | _each(
        """
        input[].status input[].phase input[].encrypted_content input[].created_by input[].caller input[].namespace
        input[].async input[].provider_data input[].content[].logprobs
        """,
        _hint("belongs to the server that gave the answer", []),
    )
    | _each(
        """
        input[].parsed_arguments input[].content[].parsed input[].content[].annotations
        """,
        _hint("repeats another field, as clients do that send an answer back", []),
    )
    | _each("service_tier", _hint("all requests are served alike; `priority` orders them", "auto", "default"))
    | _each(
        "provider transforms route models usage",
        _hint("one model is served here, and the answer always has its usage", {}, []),
    )
    | _each(
        """
        prediction prompt_cache_key prompt_cache_retention prompt_cache_options cache_control n_cache_reuse id_slot
        keep_alive draft_model num_draft_tokens speculative speculative.n_min speculative.n_max speculative.p_min
        guided_decoding_backend kv_transfer_params data_parallel_rank bootstrap_host bootstrap_port bootstrap_room
        num_ctx num_batch num_gpu main_gpu num_thread num_keep n_keep n_discard
        """,
        _hint("may only make the answer cheaper", {}),
    )
    | _each(
        "cache_prompt use_mmap use_mlock low_vram f16_kv numa use_speculative",
        _hint("may only make the answer cheaper", True, False),
    )
    | _each("logits_all vocab_only embedding_only", _hint("says how a model is loaded, and it is loaded", False))
    | _each("timeout moderation", _hint("for a layer above"))
    | _each("verbosity", _hint("a wish for the length", "medium"))
    | _each(
        """
        timings_per_token return_progress return_cached_tokens_details return_meta_info post_sampling_probs
        response_fields
        """,
        _hint("numbers beside the answer; /metrics has them", False, []),
    )
    | _each(
        """
        messages[].parsed messages[].tool_calls[].function.parsed_arguments messages[].tool_calls[].index
        messages[].reasoning_details messages[].annotations
        """,
        _hint("repeats another field, as clients do that send an answer back", []),
    )
    | _each(
        """
        messages[].id messages[].index messages[].object messages[].status messages[].type
        messages[].provider_specific_fields messages[].extra_content messages[].tool_calls[].extra_content
        messages[].tool_calls[].provider_specific_fields messages[].tool_calls[].function.provider_specific_fields
        """,
        _hint("belongs to the server that gave the answer"),
    )
    | _each(
        """
        messages[].cache_control messages[].content[].cache_control messages[].tool_calls[].cache_control
        tools[].cache_control tools[].function.cache_control system[].cache_control
        messages[].content[].content[].cache_control
        """,
        _hint("prefixes are always cached"),
    )
    | _each(
        """
        messages[].content[].annotations messages[].content[].citations system[].citations tools[].function.annotations
        """,
        _hint("says nothing to the model", [], {}),
    )
    | _each("messages[].content[].is_error", _hint("the result's content says it", False))
    | _each(
        "messages[].content[].signature messages[].content[].data messages[].content[].caller",
        _hint("belongs to the server that gave the answer"),
    )
    | _each("output_config.effort", _hint("a wish for the length; thinking.budget_tokens is a bound"))
    | _each("thinking.display", _hint("reasoning is always shown as it is", "summarized"))
    | _each("context_management", _hint("histories are kept as they are", {}))
    | _each("speed inference_geo user_profile_id workspace_id diagnostics", _hint("for a layer above"))
    | _each(
        "tools[].defer_loading tools[].eager_input_streaming tools[].allowed_callers tools[].input_examples",
        _hint("all tools are shown to the model by their schemas", False, []),
    )
    | _each("stream_options.include_obfuscation", _hint("chunks are not padded", False))
    | _each(
        """
        structured_outputs.disable_any_whitespace structured_outputs.disable_fallback
        structured_outputs.disable_additional_properties
        """,
        _hint("the form is always followed", False),
    )
)

_REFUSED = (
    _each("background", _refused("answers are given at once or as a stream", False))
    | _each("conversation", _refused("give previous_response_id, or the conversation as input"))
    | _each("audio messages[].audio prompt_embeds input_embeds", _refused("text only"))
    | _each("image_data images messages[].images mm_processor_kwargs media_io_kwargs", _refused("text only", [], {}))
    | _each("modalities", _refused("text only", ["text"]))
    | _each("web_search_options", _refused("no search"))
    | _each("mcp_servers", _refused("tools are the client's", []))
    | _each("container", _refused("tools are the client's"))
    | _each("plugins", _refused("no search, no plugins of other servers", []))
    | _each("best_of", _refused("choices are not ranked", 1))
    | _each("use_beam_search", _refused("tokens are drawn, not searched for", False))
    | _each("length_penalty", _refused("tokens are drawn, not searched for", 1))
    | _each("chat_template role_mapping template preset", _refused("the model's own template is used", ""))
    | _each("system", _refused("only messages and /api/generate have it; give a message of the role system", ""))
    | _each("context", _refused("put them into a message", []))
    | _each("messages[].prefix messages[].partial", _refused("give continue_final_message", False))
    | _each(
        "separate_reasoning stream_reasoning parse_tool_calls",
        _refused("reasoning and calls are always told apart from the text", True),
    )
    | _each("reasoning_format", _refused("reasoning is a field of its own", "auto", "deepseek"))
    | _each("thinking_forced_open", _refused("the model's template decides", False))
    | _each("stop_regex", _refused("stop strings are plain texts", "", []))
    | _each(
        """
        return_tokens_as_token_ids return_tokens return_hidden_states return_routed_experts
        """,
        _refused("answers are texts", False),
    )
    | _each("n_probs", _refused("only llama.cpp's endpoints have it; give logprobs", 0))
    | _each("input_prefix input_suffix", _refused("only /infill has it", ""))
    | _each("input_extra", _refused("only /infill has it", []))
    | _each("parse_special", _refused("special tokens that are written in a text count as such", True))
    | _each("prompts", _refused("only /v1/generate_batch has it; give prompt", []))
    | _each("min_keep", _refused("no such sampler", 0))
    | _each("input_ids", _refused("give prompt"))
    | _each("options", _refused("only Ollama's endpoints have it; put its fields beside the others", {}))
    | _each("format", _refused("only Ollama's endpoints have it; give response_format", ""))
    | _each("raw", _refused("only /api/generate has it; completions are always raw", False))
    | _each("truncate", _refused("only Ollama's embeddings have it; prompts are not cut", False))
    | _each("shift", _refused("prompts are not cut", False))
    | _each("penalize_newline", _refused("penalties look at all tokens", True))
    | _each("width height steps", _refused("text only"))
    | _each("lora lora_path adapters", _refused("one model is served, without adapters", [], ""))
    | _each("extra_key", _refused("give cache_salt", ""))
    | _each("session_params vllm_xargs custom_params", _refused("for plugins of another server", {}))
    | _each("logits_processors custom_logit_processor samplers", _refused("samplers have an order of their own", []))
    | _each("top_a dynatemp_range", _refused("no such sampler", 0))
    | _each("tfs_z dynatemp_exponent", _refused("no such sampler", 1))
    | _each("adaptive_target", _refused("no such sampler", -1))
    | _each("n_indent t_max_predict_ms", _refused("answers end by tokens and texts alone", 0))
    | _each("grammar_lazy", _refused("grammars bind from the beginning", False))
    | _each("grammar_triggers preserved_tokens", _refused("give a structural_tag", []))
    | _each(
        "response_format.format structured_outputs.structural_tag.format", _refused("give structures and triggers", {})
    )
    | _each("guided_whitespace_pattern structured_outputs.whitespace_pattern", _refused("spaces are the grammar's"))
)

KNOWN_FIELDS: _Fields = _HONOURED | _ALIASES | _TEMPLATE | _BUDGETS | _HINTS | _REFUSED
"""By path, such as `messages[].parsed`. Of the fields within fields it has only those that are not honoured."""

HINTS = frozenset(_TEMPLATE | _BUDGETS | _HINTS)
UNREAD = frozenset(_HINTS)
"""Hints that nothing looks at."""
ALIASES = {name: field.reason for name, field in _ALIASES.items()}
"""Other names → a field's own."""
