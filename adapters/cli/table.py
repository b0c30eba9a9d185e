"""Questions with their answers as rows, and those rows as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.items.item import Item
from adapters.items.stored import answer_of, by_turn
from adapters.prediction.failures import Failure

WIDTHS = [20, 10, 34, 34, None]
HEADERS = ("item", "prompt", "question", "answer", "confidence")


@dataclass(frozen=True, slots=True)
class Row:
    """A question with its answer.

    Attributes:
        item: how the item is named to the user.
        prompt: its key; None where the item could not be read.
        question: the text that was asked; None where it could not be read.
        error: why there is no answer.
    """

    item: str
    prompt: str | None
    question: str | None
    answer: str | None = None
    confidence: float | None = None
    error: str | None = None


def rows(
    name: str,
    item: Item | None,
    answers: Iterable[Mapping[str, Any]],
    failures: Iterable[Failure] = (),
) -> list[Row]:
    """A row for each answer to a question of an item, in order, then the errors that belong to no question.

    Args:
        item: None where the file holds none.
        answers: its answers as `annotations.as_dict` has them.
        failures: its prompts without an answer.
    """
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        by_key.setdefault(str(answer["metadata"]["system"]["promptId"]), []).append(answer)
    given = {key: by_turn(found) for key, found in by_key.items()}
    reasons: dict[str | None, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.key, []).append(failure.reason)
    whole = "; ".join(reasons.pop(None, [])) or None
    table = []
    for key, question in _questions(item):
        if given.get(key):
            table += [_answered(name, key, question, answer) for answer in given[key].pop(0)]
        else:
            error = reasons[key].pop(0) if reasons.get(key) else whole
            table.append(Row(name, key, question, error=error))
    if whole and not table:
        table.append(Row(name, None, None, error=whole))
    table += [
        _answered(name, key, None, answer) for key, left in given.items() for turn in left for answer in turn
    ]
    table += [Row(name, key, None, error=reason) for key, left in reasons.items() for reason in left]
    return table


def drawn(table: Sequence[Row], holds: Callable[[str], bool] = lambda text: True) -> str:
    """The table under `HEADERS` as text, long cells wrapped, a dash where there is nothing.

    Args:
        holds: whether a text can be shown; lines are drawn with plain characters where they cannot.
    """
    from tabulate import tabulate

    cells = [
        ["".join(c if c.isprintable() else " " for c in cell) for cell in map(_cell, _shown(row))]
        for row in table
    ]
    style = "simple_outline" if holds("┌─┬┐│├┼┤└┴┘") else "outline"
    text: str = tabulate(cells, HEADERS, tablefmt=style, maxcolwidths=WIDTHS, disable_numparse=True)
    return text


def _questions(item: Item | None) -> list[tuple[str, str]]:
    """Prompt key and text of each question of an item."""
    dialogues = item.dialogues if item else ()
    return [(turn.key, turn.messages[-1].text) for dialogue in dialogues for turn in dialogue.turns]


def _answered(name: str, key: str, question: str | None, answer: Mapping[str, Any]) -> Row:
    confidence = answer["metadata"]["user"]["model"].get("confidence")
    return Row(name, key, question, answer_of(answer), confidence)


def _shown(row: Row) -> tuple[str | float | None, ...]:
    return row.item, row.prompt, row.question, row.answer, row.confidence


def _cell(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.3f}"
