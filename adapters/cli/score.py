"""`score`: the probabilities of given continuations or answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.options import Json, Model, Settings, loaded
from adapters.cli.output import Output, printing

if TYPE_CHECKING:
    from engine.classification import Classification

HEADERS = ("candidate", "probability", "log-probability")


def score(
    prompt: Annotated[str, typer.Argument(help="The text that the candidates continue, or the question.")],
    candidates: Annotated[list[str], typer.Argument(metavar="CANDIDATE...", help="What may follow.")],
    model: Model = "tiny_talk",
    settings: Settings = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's question, the candidates are answers.")
    ] = False,
    json: Json = False,
) -> int:
    """Score candidate continuations of a prompt, likeliest first.

    A score is the log-probability of the candidate after the prompt. A candidate is read as it is: " Tokyo"
    begins with a space. The probabilities are of the candidates among each other, and sum to 1. A reranker or
    reward model scores each pair of prompt and candidate instead; a model with labels gives the probability
    of each label.
    """
    with printing() as output:
        adapter = loaded(model, settings)
        asked = [{"role": "user", "content": prompt}] if chat else prompt
        if adapter.classifies:
            _write_pairs(output, candidates, adapter.pair_scores(asked, candidates), json)
            return 0
        [scores] = adapter.score([asked], candidates)
        if scores.error is not None:
            raise scores.error
        scored = sorted(zip(candidates, scores.candidates, strict=True), key=lambda pair: -pair[1].total)
        if json:
            found = [
                {"candidate": text, "probability": one.probability, "logprob": one.total}
                for text, one in scored
            ]
            output.write(output.json(found, indent=2) + "\n")
        else:
            output.table(
                HEADERS, [(text, f"{one.probability:.3f}", f"{one.total:.3f}") for text, one in scored]
            )
    return 0


def _write_pairs(output: Output, candidates: list[str], found: list[Classification], json: bool) -> None:
    """Writes what a classification head says of each candidate, the highest score first."""
    pairs = list(zip(candidates, found, strict=True))
    if len(found[0].scores) == 1:
        pairs.sort(key=lambda pair: -pair[1].scores[0])
    names = list(found[0].labels) or ["score", *map(str, range(1, len(found[0].scores)))]
    rows = [(text, list(one.labels.values()) or one.scores) for text, one in pairs]
    if json:
        written = [{"candidate": text, **dict(zip(names, row, strict=True))} for text, row in rows]
        output.write(output.json(written, indent=2) + "\n")
    else:
        output.table(("candidate", *names), [(text, *(f"{one:.3f}" for one in row)) for text, row in rows])
