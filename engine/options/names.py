"""Option names of other systems: aliases, those without an effect here, and refused ones with the reason."""

from collections.abc import Mapping
from typing import Any

from engine.errors import Unsupported

# Other names of options.
ALIASES = {
    "api_base": "base_url",
    "int_8": "load_in_8bit",
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "model_string": "model_name",
    "prompt_builder": "chat_template",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "torch_dtype": "dtype",
    "truncate_dim": "dimensions",
}
# Accepted whatever their value: batches need no padding token, and the KV cache is always used.
NO_EFFECT = frozenset({"pad_token_id", "padding", "use_cache"})

_BEAMS = "beam search is not available: answers are greedy or sampled"
_TEMPLATE = "it is a variable of the chat template: set it in chat_template_kwargs"
_LOGIN = "a configuration is stored, so it holds no token: set HF_TOKEN, or run `hf auth login`"
# Not available here, and why or what to use instead.
REFUSED = {
    "access_token": _LOGIN,
    "allow_grad": "answers are computed without gradients",
    "api_key": _LOGIN,
    "audio": "answers are text",
    "best_of": "ask for n answers, and compare their confidence",
    "batch_size": "all that is asked is batched as memory allows",
    "debug": 'call logging.getLogger("engine").setLevel("DEBUG"), which is for the whole process',
    "early_stopping": _BEAMS,
    "enable_thinking": _TEMPLATE,
    "functions": "no model here calls functions",
    "hf_token": _LOGIN,
    "hidden_state": "hidden_states(texts) returns hidden states",
    "length_penalty": _BEAMS,
    "num_beams": _BEAMS,
    "num_return_sequences": "n is the number of answers of predict, chat and text_completion",
    "output_hidden_states": "hidden_states(texts) returns hidden states",
    "output_scores": "logprobs: true returns the log-probability of each token",
    "reasoning_effort": _TEMPLATE,
    "return_dict_in_generate": "answers are objects with all that is known of them",
    "return_full_text": "an answer never repeats its prompt; text_completion(echo=True) does",
    "token": _LOGIN,
    "tokenized": "token ids are recognized as such",
    "tool_choice": "no model here calls tools",
    "tools": "no model here calls tools",
    "use_auth_token": _LOGIN,
}
# Values by which a refused option asks for nothing, besides None, False, "none" and empty ones.
_NEUTRAL = {"best_of": 1, "length_penalty": 1, "num_beams": 1, "num_return_sequences": 1}


def supported(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those of options that have no effect here, or ask for nothing.

    Raises:
        Unsupported: a refused option; the text says why, or what to use instead.
    """
    for key, value in values.items():
        if key in REFUSED and value and value != "none" and value != _NEUTRAL.get(key):
            raise Unsupported(f"{key}: {REFUSED[key]}; leave it out")
    return {key: value for key, value in values.items() if key not in NO_EFFECT | REFUSED.keys()}
