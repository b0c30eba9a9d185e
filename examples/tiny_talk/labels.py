"""Shows label mode beside generating and matching: `python examples/tiny_talk/labels.py`.

Three tasks of held-out questions, each with one list of labels: names that training never had, colours,
and capitals. Both ways have the same questions, in turn; what is generated counts if it is the right label.
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

LABELS = {
    "unseen name": [f"Your name is {name}." for name in phrases.UNSEEN_NAMES],
    "colour": [f"Your favourite colour is {colour}." for colour in phrases.COLOURS],
    "capital": [f"The capital of {place} is {city}." for place, city in phrases.CAPITALS.items()],
}
QUESTIONS = 200
ROUNDS = 3
SEED = 17


def answered(model: Any, dialogues: list[list[Message]], labels: list[str]) -> tuple[float, float]:
    """The share of right answers, and the seconds they took; without labels they are generated."""
    started = time.perf_counter()
    answers = model.generate([dialogue[:-1] for dialogue in dialogues], labels=labels)
    seconds = time.perf_counter() - started
    right = [answer.text == one[-1]["content"] for answer, one in zip(answers, dialogues, strict=True)]
    return statistics.mean(right), seconds


def compared(model: Any, dialogues: list[list[Message]], labels: list[str], rounds: int) -> dict[str, float]:
    """Accuracy of both ways, and how many times as long generating takes: the median of the rounds."""
    speedups = []
    for _ in range(rounds):
        matched, generating = answered(model, dialogues, [])
        chosen, scoring = answered(model, dialogues, labels)
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
        dialogues = held_out_dialogues(task, arguments.questions, SEED)
        found[task] = compared(model, dialogues, labels, arguments.rounds)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
