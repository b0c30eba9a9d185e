"""Answers beside their questions, as a table for people."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.prompt_items import read
from engine.errors import PromptError

WIDTHS = [20, 10, 34, 34, None]
HEADERS = ("item", "prompt", "question", "answer", "confidence")


def rows(
    name: str, item: Mapping[str, Any], answers: Iterable[Mapping[str, Any]], model_name: str
) -> list[tuple[str, str, str, str, str]]:
    """One row per question of an item, in order, under `HEADERS`; a question without an answer shows a dash.

    Args:
        item: the item's JSON.
        answers: its answers as `annotations.as_dict` has them.
        model_name: what they are signed with.
    """
    given: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        given.setdefault(answer["metadata"]["system"]["promptId"], []).append(answer)
    reader = logging.getLogger("adapters.prompt_items")
    reader.disabled = True  # What is wrong with the item was said when it was answered.
    try:
        dialogues, _ = read(item, model_name)
    except PromptError:
        dialogues = []
    finally:
        reader.disabled = False
    table = []
    for turn in (turn for dialogue in dialogues for turn in dialogue.turns):
        answer = given[turn.key].pop(0) if given.get(turn.key) else None
        confidence = answer and answer["metadata"]["user"]["model"].get("confidence")
        table.append(
            (
                name,
                turn.key,
                turn.messages[-1].text,
                answer["coordinates"] if answer else "-",
                "-" if confidence is None else f"{confidence:.3f}",
            )
        )
    return table


def drawn(table: Sequence[Sequence[str]]) -> str:
    """The table as text, long cells wrapped."""
    from tabulate import tabulate

    cells = [["".join(c if c.isprintable() else " " for c in cell) for cell in row] for row in table]
    return tabulate(cells, HEADERS, tablefmt="simple_outline", maxcolwidths=WIDTHS, disable_numparse=True)
