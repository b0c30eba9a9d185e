"""Measures TinyTalk on held-out dialogues and writes its card: `python examples/tiny_talk/evaluate.py`.

Each conversation is played from its first turn with the model's own earlier answers; only the last answer
counts.
"""

import argparse
import sys
from pathlib import Path

import torch
from dialogues import DO_NOT_KNOW, SKILLS, Message, held_out_dialogues
from tqdm import tqdm

# A script's own folder is on the path; what it measures with lies two above.
sys.path.append(str(Path(__file__).parents[2]))

import engine.types
import models
from adapters.hugging import HuggingAdapter
from engine.conversation import converse
from engine.types import Answer, Dialogue, Turn

MODEL = Path(__file__).parent / "model"
EXAMPLES = 600
KNOWN = ["name", "unseen name", "colour", "capital", "sum"]
MEANING = {
    "greeting": "greets back",
    "small talk": "thanks, goodbyes, who it is, what it can do",
    "name": "a name told at least two turns earlier",
    "unseen name": "the same, a name that no training dialogue has",
    "colour": "a favourite colour told at least two turns earlier",
    "capital": "40 capitals, phrasings never trained on",
    "sum": "two numbers up to 50, every pair never trained on",
    "do not know": "says so: unknown places, facts never told, other topics, harder maths",
}
CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# TinyTalk

A very small chat model for tests and demonstrations: a Llama of {parameters:,} parameters ({layers} layers,
hidden size {hidden}, {heads} attention heads over {kv_heads} key-value heads, window {window}) with its own
byte-level BPE tokenizer of {vocabulary} tokens and its own chat template.

It was trained from scratch on English dialogues that `dialogues.py` writes, with a fixed seed, and has seen
no other text. To train and measure it again, from the root of the repository:

    python examples/tiny_talk/train.py
    python examples/tiny_talk/evaluate.py

## Held-out accuracy

In float32, greedy, on conversations that end in a turn never trained on (`dialogues.py` says what is held
out). The model's own earlier answers are its history. An answer counts when it equals the expected one; "do
not know" counts in any wording that begins with "{do_not_know}".

The last two columns are the mean confidence of right and of wrong answers.

| skill | what | examples | accuracy | sure when right | sure when wrong |
|---|---|---|---|---|---|
{rows}

It says "{do_not_know}" to {refused:.1%} of the questions above that have an answer.

## Limits

It knows 40 capitals and nothing else about the world. It may misspell names that it was not trained on. Sums
are wrong now and then, and only numbers up to 50 are trained. Text in capital letters and wordings far from
the training dialogues get a wrong answer more often than the table says. Keep a conversation to about 400
tokens.

License: Apache-2.0
"""


def last_answers(model: HuggingAdapter, dialogues: list[list[Message]]) -> list[Answer]:
    """Plays each dialogue turn by turn with the model's own answers and returns the last answer of each."""
    played = [
        Dialogue(
            key=str(number),
            history=tuple(_message(said) for said in dialogue if said["role"] == "system"),
            turns=tuple(Turn(str(number), (_message(said),)) for said in dialogue if said["role"] == "user"),
        )
        for number, dialogue in enumerate(dialogues)
    ]
    answered = converse(model.engine, played, model.configuration.generation)
    last = {dialogue.key: answers[-1] for dialogue, answers in answered}
    return [last[dialogue.key] for dialogue in played]


def _message(said: Message) -> engine.types.Message:
    return engine.types.Message(said["role"], (said["content"],))


def is_right(skill: str, text: str, expected: str) -> bool:
    """Whether the answer counts."""
    return text.startswith(DO_NOT_KNOW) if skill == "do not know" else text == expected


def card(model: HuggingAdapter, rows: list[str], refused: float) -> str:
    """The text of the model card."""
    loaded = model.engine.loaded.model
    config = loaded.config
    with torch.device("meta"):  # The engine has laid the loaded model's weights out: they are not its own.
        parameters = type(loaded)(config).num_parameters()
    return CARD.format(
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        window=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        do_not_know=DO_NOT_KNOW,
        rows="\n".join(rows),
        refused=refused,
    )


def main() -> None:
    """Prints the table and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder; gets the card")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="conversations of each skill")
    parser.add_argument("--mistakes", type=int, default=0, help="print so many mistakes of each skill")
    arguments = parser.parse_args()
    model = models.load("tiny_talk", {"model_name": str(arguments.model), "dtype": "float32"})
    rows, known, refused = [], 0, 0
    for skill in tqdm(SKILLS, unit="skill", disable=None):
        dialogues = held_out_dialogues(skill, arguments.examples)
        asked = [(dialogue[-2]["content"], dialogue[-1]["content"]) for dialogue in dialogues]
        answers = last_answers(model, dialogues)
        right = [
            is_right(skill, answer.text, wanted) for answer, (_, wanted) in zip(answers, asked, strict=True)
        ]
        sure = {
            kind: _mean([answer.confidence for answer, ok in zip(answers, right, strict=True) if ok is kind])
            for kind in (True, False)
        }
        share = sum(right) / len(right)
        rows.append(
            f"| {skill} | {MEANING[skill]} | {len(right)} | {share:.1%} | {sure[True]} | {sure[False]} |"
        )
        wrong = [
            (*pair, answer.text) for pair, answer, ok in zip(asked, answers, right, strict=True) if not ok
        ]
        for question, wanted, text in wrong[: arguments.mistakes]:
            tqdm.write(f"    {question!r}: {text!r}, not {wanted!r}")
        if skill in KNOWN:
            known += len(answers)
            refused += sum(answer.text.startswith(DO_NOT_KNOW) for answer in answers)
    text = card(model, rows, refused / known)
    (arguments.model / "README.md").write_text(text, encoding="utf-8")
    print("\n".join(rows))


def _mean(confidences: list[float]) -> str:
    return f"{sum(confidences) / len(confidences):.3f}" if confidences else "-"


if __name__ == "__main__":
    main()
