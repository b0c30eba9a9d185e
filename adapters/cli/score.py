"""`score`: the probabilities of given continuations or answers."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli.options import Json, Model, Settings, loaded
from adapters.cli.output import printing

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
    """Score candidates: the log-probability of each as the continuation of the prompt, the likeliest first.

    A candidate is read as it is: " Tokyo" begins with a space. The probabilities are of the candidates among
    each other, and sum to 1.
    """
    with printing() as output:
        adapter = loaded(model, settings)
        asked = [{"role": "user", "content": prompt}] if chat else prompt
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
