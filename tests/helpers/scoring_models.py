"""Makes tiny models of every kind for scoring, prompts with candidates, and expected log-probabilities."""

import random
from collections.abc import Sequence

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from engine.loading import Loaded
from engine.prompting.prompter import Prompter
from engine.scoring import Scores, score
from engine.types import Request
from tests import tiny

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
# Sliding windows are shorter than most prompts with a candidate.
PACKED = {
    "gpt2": tiny.CONFIGS["gpt2"],
    "llama": tiny.CONFIGS["llama"],
    "qwen3": tiny.CONFIGS["qwen3"],
    "phi3": tiny.CONFIGS["phi3"],
    "gemma": lambda: transformers.GemmaConfig(**SIZES, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES,
        head_dim=8,
        sliding_window=6,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=6),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SIZES,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
}
PADDED = {
    "mamba": lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4),
}
TARGETS = {"t5": tiny.CONFIGS["t5"], "bart": tiny.CONFIGS["bart"]}
LONGROPE = {
    "longrope": lambda: transformers.Phi3Config(
        **SIZES,
        original_max_position_embeddings=24,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 24,
        },
    )
}
ALL = PACKED | PADDED | TARGETS | LONGROPE


def made(name: str) -> Loaded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONFIGS, name, ALL[name])
        return tiny.loaded(tiny.random_model(name))


def prompter_of(loaded: Loaded) -> Prompter:
    return Prompter(loaded.tokenizer, loaded.model.config, loaded.context_length)


def scores(
    loaded: Loaded, prompts: Sequence[Request | str], candidates: Sequence[Sequence[str]]
) -> list[Scores]:
    return score(loaded, prompter_of(loaded), prompts, candidates)


@torch.inference_mode()
def logprobs_alone(model: PreTrainedModel, prompt: list[int], continuation: list[int]) -> list[float]:
    """The log-probability of each token of the continuation, from a forward pass over this pair alone."""
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        decoder_ids = torch.tensor([[start, *continuation[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids).logits[0]
    else:
        logits = model(torch.tensor([prompt + continuation[:-1]])).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1)[range(len(continuation)), continuation].tolist()


def work(seed: int = 3) -> tuple[list[str], list[list[str]]]:
    """Prompts of heavy-tailed lengths, and for each its own candidates."""
    chance = random.Random(seed)

    def text(longest: int) -> str:
        length = min(longest, round(chance.lognormvariate(2, 1)) + 1)
        return "".join(chance.choices("abcdefgh äß日", k=length)) + "."

    prompts = [text(60) for _ in range(8)]
    return prompts, [[text(12) for _ in range(chance.randint(1, 6))] for _ in prompts]


def assert_close(results: list[Scores], expected: list[Scores]) -> None:
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        assert result.error is other.error is None
        for candidate, same in zip(result.candidates, other.candidates, strict=True):
            assert candidate.token_ids == same.token_ids
            assert candidate.logprobs == pytest.approx(same.logprobs, abs=1e-3)
