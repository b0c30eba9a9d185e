"""Shows label mode beside generating and matching: `python examples/tiny_talk/labels.py`.

Four tasks of held-out questions, each with one list of labels: whether an answer is known, names that
training never had, colours, and capitals. Both ways have the same questions, in turn; what is generated
counts if it begins with the right label.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import phrases
from dialogues import Message, held_out_dialogues

# A script's own folder is on the path; the package lies two above.
sys.path.append(str(Path(__file__).parents[2]))

import models

KNOWN = "known or not"
LABELS = {
    KNOWN: ["The capital of", "I do not know"],
    "unseen name": [f"Your name is {name}." for name in phrases.UNSEEN_NAMES],
    "colour": [f"Your favourite colour is {colour}." for colour in phrases.COLOURS],
    "capital": [f"The capital of {place} is {city}." for place, city in phrases.CAPITALS.items()],
}
QUESTIONS = 200
ROUNDS = 3
SEED = 17


def questions(task: str, count: int) -> list[list[Message]]:
    """Conversations that end with the right answer; whether one is known is asked without a history."""
    if task != KNOWN:
        return held_out_dialogues(task, count, SEED)
    half = count // 2
    known = held_out_dialogues("capital", half, SEED)
    return [one[-2:] for one in known + held_out_dialogues("do not know", count - half, SEED)]


def label_of(text: str, labels: list[str]) -> str | None:
    """The label that a text begins with."""
    return next((label for label in labels if text.startswith(label)), None)


def compared(model: Any, dialogues: list[list[Message]], labels: list[str], rounds: int) -> dict[str, float]:
    """Accuracy of both ways, and how many times as long generating takes: the median of the rounds."""
    asked = [dialogue[:-1] for dialogue in dialogues]
    expected = [label_of(dialogue[-1]["content"], labels) for dialogue in dialogues]

    def answered(**options: Any) -> tuple[float, float]:
        started = time.perf_counter()
        answers = model.generate(asked, **options)
        seconds = time.perf_counter() - started
        found = [label_of(answer.text, labels) for answer in answers]
        return statistics.mean(one == other for one, other in zip(found, expected, strict=True)), seconds

    speedups = []
    for _ in range(rounds):
        matched, generating = answered()
        chosen, scoring = answered(labels=labels)
        speedups.append(generating / scoring)
    return {
        "labels": len(labels),
        "accuracy_generated": matched,
        "accuracy_labels": chosen,
        "speedup": statistics.median(speedups),
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each task")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    model = models.load("tiny_talk", {"dtype": "float32"})
    found = {}
    for task, labels in LABELS.items():
        dialogues = questions(task, arguments.questions)
        found[task] = compared(model, dialogues, labels, arguments.rounds)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
