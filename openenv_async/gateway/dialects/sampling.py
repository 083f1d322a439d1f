"""Fields of chat completions that change what an engine samples, and those that only seem to.

The names are those of OpenAI and of the engines: vLLM's and SGLang's ``ChatCompletionRequest``,
llama.cpp's server. They are passed on as the agent gave them.
"""

from __future__ import annotations

from typing import Any, Final

from openenv_async.gateway.dialects.fields import Fields, refuse

__all__ = ["LEFT_OUT", "NUMBERS", "PASSED_ON", "REFUSED", "read_stop"]

NUMBERS: Final = frozenset(
    (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "length_penalty",
        "min_tokens",
        "thinking_token_budget",
        "repeat_penalty",
        "repeat_last_n",
        "truncate_prompt_tokens",
    )
)
"""Fields that are numbers."""
PASSED_ON: Final = frozenset(
    (
        "logit_bias",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "stop_token_ids",
        "bad_words",
        "allowed_token_ids",
        "ignore_eos",
        "include_stop_str_in_output",
        "no_stop_trim",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_reasoning",
        "separate_reasoning",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "chat_template_kwargs",
        "documents",
        "mm_processor_kwargs",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_decoding_backend",
        "structural_tag",
        "regex",
        "ebnf",
        "grammar",
        "json_schema",
    )
)
"""Other fields that engines know."""
LEFT_OUT: Final = {
    "metadata": "names nothing that is sampled",
    "moderation": "there is no moderation",
    "prediction": "speeds up a hosted model only",
    "priority": "the gateway decides the order",
    "prompt_cache_options": "the engine keeps its own cache",
    "prompt_cache_retention": "the engine keeps its own cache",
    "request_id": "calls have ids of the gateway",
    "rid": "calls have ids of the gateway",
    "safety_identifier": "names nothing that is sampled",
    "service_tier": "there is one tier",
    "session_id": "the key names the session",
    "store": "answers are kept in the record of the session alone",
    "stream_reasoning": "reasoning is streamed as it comes",
    "usage": "usage is always told",
    "user": "names nothing that is sampled",
    "verbosity": "a hint to a hosted model",
    "web_search_options": "the gateway searches nothing: give the agent a tool",
}
"""Fields of chat completions that do not reach the engine, with the reason."""
_CAPTURED: Final = "tokens are in the session's record: read its rows"
REFUSED: Final = {
    "audio": "only text is answered",
    "best_of": "a call has one answer: ask as many times as answers are wanted",
    "chat_template": "the engine's own template is used: start the engine with another one",
    "custom_logit_processor": "code is not passed to the engine",
    "echo": "the answer holds only what was sampled",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "logits_processors": "code is not passed to the engine",
    "logprobs": _CAPTURED,
    "prompt_logprobs": _CAPTURED,
    "return_hidden_states": "the answer holds only what was sampled",
    "return_meta_info": _CAPTURED,
    "return_prompt_token_ids": _CAPTURED,
    "return_token_ids": _CAPTURED,
    "return_tokens_as_token_ids": _CAPTURED,
    "top_logprobs": _CAPTURED,
    "use_beam_search": "a call has one sampled answer",
}
"""Fields of chat completions that would change the answer or its form, with the remedy."""


def read_stop(fields: Fields, name: str = "stop") -> list[str]:
    """Return the stop sequences of a request, empty where there are none."""
    stop: Any = fields.take(name)
    if stop is None:
        return []
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        refuse(name, "must be a text or a list of texts")
    return stop
