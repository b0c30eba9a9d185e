"""Shows what TinyTalk's confidence is worth: `python examples/tiny_talk/confidence.py`.

2,000 questions in four equal parts: sums, names never trained, capitals, and what it cannot know. None was
trained on, and the seed is no other script's. Only the last question of each conversation is asked.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from dialogues import DO_NOT_KNOW, held_out_dialogues

# A script's own folder is on the path; what it measures with lies two above.
sys.path.append(str(Path(__file__).parents[2]))

import models
from adapters.evaluation import guarantee
from adapters.evaluation.fitting import fit, interpolated
from adapters.evaluation.pictures import pictures
from adapters.evaluation.reliability import ece
from adapters.evaluation.truth import Truth

PARTS = ["sum", "unseen name", "capital", "do not know"]
QUESTIONS = 2000
SEED = 16
SPLITS = 200
# A fit takes a quarter of a second: so many splits are fitted.
FITTED = 20
MAX_ERRORS = (0.01, 0.05, 0.1)


def is_right(answer: str, truth: str) -> float:
    """1 if the answer counts, as in evaluate.py: any wording of "I do not know" does where that is true."""
    return float(answer.startswith(DO_NOT_KNOW) if truth.startswith(DO_NOT_KNOW) else answer == truth)


def questions(count: int) -> tuple[list[dict[str, Any]], Truth]:
    """Items with one open question each, and the right answers."""
    items, truth = [], Truth()
    for part in PARTS:
        for i, dialogue in enumerate(held_out_dialogues(part, count // len(PARTS), SEED)):
            name, messages = f"{part} {i}", dialogue[:-1]
            items.append({"filename": name, "messages": messages})
            truth.add(name, str(len(messages) - 1), dialogue[-1]["content"])
    return items, truth


def splits(confidence: np.ndarray, right: np.ndarray, count: int) -> dict[str, Any]:
    """What comes of a random half of the answers, measured on the other half, many times."""
    rng = np.random.default_rng(SEED)
    errors, held, accepted = [], dict.fromkeys(MAX_ERRORS, 0), dict.fromkeys(MAX_ERRORS, 0.0)
    for split in range(count):
        order = rng.permutation(len(right))
        labelled, other = order[: len(right) // 2], order[len(right) // 2 :]
        if split < FITTED:
            fitted = fit(confidence[labelled], right[labelled])
            errors.append(ece(interpolated(fitted.points, confidence[other]), right[other]))
        for rate in MAX_ERRORS:
            level = guarantee.threshold(confidence[labelled], right[labelled], rate).threshold
            chosen = confidence[other] >= (np.inf if level is None else level)
            held[rate] += not chosen.any() or (~right[other][chosen]).mean() <= rate
            accepted[rate] += chosen.mean() / count
    return {
        "ece_first_split": errors[0],
        "ece_mean": float(np.mean(errors)),
        "guarantee": {f"{rate:g}": held[rate] / count for rate in MAX_ERRORS},
        "accepted": {f"{rate:g}": accepted[rate] for rate in MAX_ERRORS},
    }


def main() -> None:
    """Prints the figures as JSON, and draws the pictures of docs/confidence.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--splits", type=int, default=SPLITS, help="random halves")
    parser.add_argument("--pictures", type=Path, help="the folder that gets the pictures")
    arguments = parser.parse_args()
    items, truth = questions(arguments.questions)
    model = models.load("tiny_talk", {"dtype": "float32"})
    report = models.evaluate(items, truth, model, measure=is_right, max_errors=MAX_ERRORS)
    figures = report.figures
    confidence = np.array([one.confidences[figures["method"]] for one in report.judged])
    right = np.array([one.right for one in report.judged])
    found = {
        "questions": figures["n"],
        "accuracy": figures["accuracy"],
        "auroc": {name: method["auroc"] for name, method in figures["methods"].items()},
        "ece_before": figures["methods"][figures["method"]]["ece"],
        "promises": [one["sentence"] for one in figures["thresholds"]],
        "splits": splits(confidence, right, arguments.splits),
    }
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if arguments.pictures:
        for name, content in pictures(report).items():
            (arguments.pictures / f"confidence_{name}").write_bytes(content)


if __name__ == "__main__":
    main()
