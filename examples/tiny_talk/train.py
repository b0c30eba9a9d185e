"""Trains TinyTalk from scratch and saves it: `python examples/tiny_talk/train.py`."""

import argparse
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from dialogues import (
    WEIGHTS,
    Message,
    add,
    dialogue,
    is_watched,
    remembering_dialogues,
    sums,
    training_dialogues,
)
from phrases import NAMES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 1
SUMS_RIGHT = 0.82
BATCH_TOKENS = 2048
WARMUP_STEPS = 150
WINDOW = 512
VOCABULARY = 1200
BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
Example = tuple[list[int], list[int]]
Dialogues = Iterator[list[Message]]


@dataclass
class Stage:
    """What the model is trained on for a number of steps, and how fast."""

    dialogues: Dialogues
    steps: int
    peak_learning_rate: float


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; every digit is a token of its own, so that sums can be learnt by digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, SYSTEM, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rng = random.Random(SEED)
    dialogues = (dialogue(rng) for _ in range(5000))
    # Without the names: a name that is one token is learnt by heart instead of copied.
    names = re.compile("|".join(map(re.escape, NAMES)), re.IGNORECASE)
    texts = (names.sub("", message["content"]) for messages in dialogues for message in messages)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=WINDOW,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, at most 4 million of them."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=48,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def examples(tokenizer: PreTrainedTokenizerFast, dialogues: Dialogues) -> Iterator[Example]:
    """Token ids and labels of endless dialogues; a label is the id inside an answer and -100 elsewhere."""
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, EOS])
    for messages in dialogues:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:WINDOW]
        labels, answering = [], False
        for token in ids:
            labels.append(token if answering else -100)
            answering = token == assistant or (answering and token != end)
        yield ids, labels


def batches(
    tokenizer: PreTrainedTokenizerFast, dialogues: Dialogues
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (rows, length) of at most BATCH_TOKENS, padded right, of dialogues of like length."""
    shuffle, stream = random.Random(SEED), examples(tokenizer, dialogues)
    while True:
        pool = sorted(islice(stream, 1024), key=lambda example: len(example[0]))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(example)
        shuffle.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row, _ in group])
            labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in group])
            yield ids, labels


def answer_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the answers' tokens; only their positions pay for the vocabulary."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    predicts = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][predicts]), labels[:, 1:][predicts])


def learning_rate(step: int, stage: Stage) -> float:
    """A linear warm-up, then half a cosine down to a hundredth of the peak."""
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.peak_learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def sums_right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """The share of watched sums whose result, digit by digit, is what the model finds likeliest."""
    pairs = random.Random(SEED).sample(sums(is_watched), 100)
    texts = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": f"What is {a} + {b}?"},
                {"role": "assistant", "content": f"{a} + {b} = {a + b}"},
            ],
            tokenize=False,
        )
        for a, b in pairs
    ]
    rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    model.eval()
    with torch.no_grad():
        greedy = model(**rows).logits.argmax(-1)
    model.train()
    right = 0
    for ids, guess, (a, b) in zip(rows["input_ids"], greedy, pairs, strict=True):
        end = int((ids == tokenizer.eos_token_id).nonzero()[-1])
        digits = len(str(a + b))
        right += bool((guess[end - digits - 1 : end] == ids[end - digits : end + 1]).all())
    return right / len(pairs)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage) -> None:
    """Trains the model on the dialogues of one stage."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    model.train()
    mean_loss = None
    stream = islice(batches(tokenizer, stage.dialogues), stage.steps)
    bar = tqdm(stream, total=stage.steps, mininterval=2)
    for step, (ids, labels) in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, stage)
        if step % 100 == 0:  # Sums are to be imperfect: practised only while too few are right.
            right = sums_right(model, tokenizer)
            WEIGHTS[add] = 14 if right < SUMS_RIGHT else 2
        loss = answer_loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean_loss:.4f}", sums=f"{right:.0%}", refresh=False)


def main() -> None:
    """Trains and saves the tokenizer and the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    output = Path(__file__).parent / "model"
    parser.add_argument("--output", type=Path, default=output, help="folder to save to")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    model = new_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    for stage in (
        Stage(training_dialogues(SEED), steps=4200, peak_learning_rate=3e-3),
        Stage(remembering_dialogues(SEED), steps=2000, peak_learning_rate=2e-3),
    ):
        train(model, tokenizer, stage)
    model.half().save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"Saved to {arguments.output}. Measure it with examples/tiny_talk/evaluate.py.")


if __name__ == "__main__":
    main()
