"""Answers per second: this engine beside the loop of earlier Dataloop adapters.

The loop asks one question at a time, reads the whole history again for each, and runs the model once more on
the question for what it calls confidence. Both run SmolLM2-135M's architecture with random weights in float32
on the same conversations, and generate the same forced numbers of tokens.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.backends.local import LocalEngine
from engine.dialogues import converse
from engine.loading import Loaded
from engine.options import GenerationOptions
from engine.types import Dialogue, Message, Turn

CONVERSATIONS, TURNS, NEW_TOKENS, ROUNDS = 8, 2, 12, 3


def run() -> dict[str, float]:
    """Tokens per second of each, medians over the rounds, and the ratio of the medians."""
    loaded = _loaded()
    dialogues = _dialogues()
    contenders: dict[str, Callable[[], None]] = {
        "loop": lambda: _loop(loaded, dialogues),
        "engine": lambda: _engine(loaded, dialogues),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tqdm(total=ROUNDS * len(contenders), desc="generation", disable=None) as progress:
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                started = time.perf_counter()
                contender()
                seconds[name].append(time.perf_counter() - started)
                progress.update()
    tokens = CONVERSATIONS * TURNS * NEW_TOKENS
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    return {
        "generation.loop.tokens_per_second": speed["loop"],
        "generation.engine.tokens_per_second": speed["engine"],
        "generation.vs_loop": speed["engine"] / speed["loop"],
    }


def _loop(loaded: Loaded, dialogues: list[Dialogue]) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    for dialogue in dialogues:
        history = torch.empty((1, 0), dtype=torch.long)
        for turn in dialogue.turns:
            question = tokenizer(turn.messages[-1].text, return_tensors="pt")["input_ids"]
            history = torch.cat([history, question], dim=-1)
            history = model.generate(
                history,
                attention_mask=torch.ones_like(history),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            model(question)


def _engine(loaded: Loaded, dialogues: list[Dialogue]) -> None:
    options = GenerationOptions(max_new_tokens=NEW_TOKENS)
    answers = converse(LocalEngine(loaded), dialogues, options)
    assert all(len(answer.token_ids) == NEW_TOKENS for given in answers for answer in given)


def _dialogues() -> list[Dialogue]:
    """Conversations whose questions have 10 to 150 letters, each a token, few of them long."""
    draw = random.Random(0)

    def question() -> Message:
        length = min(150, 10 + int(draw.expovariate(1 / 30)))
        return Message("user", ("".join(draw.choice("abcdefghij") for _ in range(length)),))

    return [
        Dialogue(str(i), (), tuple(Turn(str(turn), (question(),)) for turn in range(TURNS)))
        for i in range(CONVERSATIONS)
    ]


def _loaded() -> Loaded:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    letters = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Loaded(LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=tokenizer), 2048)
