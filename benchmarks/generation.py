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
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.backends.local import LocalEngine
from engine.dialogues import converse
from engine.loading import Loaded
from engine.options import GenerationOptions
from engine.types import Dialogue, Message, Turn

CONVERSATIONS, TURNS, NEW_TOKENS, ROUNDS = 8, 2, 12, 3
VOCABULARY, LAYERS = 49152, 30


Answers = list[list[list[int]]]


def run() -> dict[str, float]:
    """Tokens per second of each, medians over the rounds, and the ratio of the medians.

    Raises:
        AssertionError: the two did not give the same tokens.
    """
    loaded = _loaded()
    dialogues = _dialogues()
    contenders: dict[str, Callable[[], Answers]] = {
        "loop": lambda: _loop(loaded, dialogues),
        "engine": lambda: _engine(loaded, dialogues),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, Answers] = {}
    with tqdm(total=ROUNDS * len(contenders), desc="generation", disable=None) as progress:
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                started = time.perf_counter()
                answers[name] = contender()
                seconds[name].append(time.perf_counter() - started)
                progress.update()
    assert answers["engine"] == answers["loop"]
    tokens = CONVERSATIONS * TURNS * NEW_TOKENS
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    return {
        "generation.loop.tokens_per_second": speed["loop"],
        "generation.engine.tokens_per_second": speed["engine"],
        "generation.vs_loop": speed["engine"] / speed["loop"],
    }


def _loop(loaded: Loaded, dialogues: list[Dialogue]) -> Answers:
    answers: Answers = []
    for dialogue in dialogues:
        answers.append([])
        history = torch.empty((1, 0), dtype=torch.long)
        for turn in dialogue.turns:
            question = loaded.tokenizer(turn.messages[-1].text, return_tensors="pt")["input_ids"]
            asked = torch.cat([history, question], dim=-1)
            history = loaded.model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            answers[-1].append(history[0, asked.shape[1] :].tolist())
            with torch.no_grad():
                loaded.model(question)
    return answers


def _engine(loaded: Loaded, dialogues: list[Dialogue]) -> Answers:
    options = GenerationOptions(max_new_tokens=NEW_TOKENS)
    answers = converse(LocalEngine(loaded), dialogues, options)
    return [[list(answer.token_ids) for answer in given] for given in answers]


def _dialogues() -> list[Dialogue]:
    """Conversations whose questions have 10 to 150 tokens, few of them long."""
    draw = random.Random(0)

    def question() -> Message:
        length = min(150, 10 + int(draw.expovariate(1 / 30)))
        return Message("user", (" ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(length)),))

    return [
        Dialogue(str(i), (), tuple(Turn(str(turn), (question(),)) for turn in range(TURNS)))
        for i in range(CONVERSATIONS)
    ]


def _loaded() -> Loaded:
    """The model, and a tokenizer of words: each token survives the way to text and back."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = "{{ messages | map(attribute='content') | join(' ') }}"
    return Loaded(LlamaForCausalLM(config).eval(), tokenizer, 2048)
