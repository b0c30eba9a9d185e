"""`evaluate`: answers items whose right answers are known, and writes a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.options import Model, Settings, named
from adapters.cli.output import printing, say
from engine.errors import ConfigurationError


def evaluate(
    items: Annotated[
        list[str], typer.Argument(metavar="ITEMS...", help="Prompt items as JSON files, or folders.")
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="For the report and calibration.json.")],
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CSV or JSON lines with item, prompt, answer; people's annotations by default.",
        ),
    ] = None,
    model: Model = "tiny_talk",
    settings: Settings = None,
    measure: Annotated[
        str, typer.Option(help="What makes an answer right, or FILE.py:FUNCTION.")
    ] = "exact_match",
    right_from: Annotated[float, typer.Option(help="The least score of a right answer.")] = 0.5,
    methods: Annotated[str, typer.Option(help="Methods of confidence, with commas.")] = "",
    max_error: Annotated[str, typer.Option(help="Shares of wrong answers to find thresholds for.")] = (
        "0.01,0.05,0.1"
    ),
) -> int:
    """Judge answers and calibrate their confidence. Finds thresholds for accepting answers, too."""
    with printing() as output:
        rates = _rates(max_error)
        stem, configuration = named(model, settings)
        from adapters import evaluation

        report = evaluation.evaluate(
            items,
            truth,
            stem,
            configuration=configuration,
            out=out,
            measure=measure,
            right_from=right_from,
            methods=_names(methods),
            max_errors=rates,
        )
        output.write(summary(report.figures) + f"report: {Path(out) / 'report.html'}\n")
    for failure in report.failures:
        say(f"error: {failure}")
    return 1 if report.failures else 0


def summary(figures: Mapping[str, Any]) -> str:
    """The outcome of an evaluation in a few lines."""
    lines = [
        f"right: {figures['right']} of {figures['n']} answers ({figures['accuracy']:.1%}) "
        f"by {figures['measure']}"
    ]
    for method, found in figures["methods"].items():
        estimate = found.get("auroc") or {"value": None}
        if estimate["value"] is not None:
            low, high = estimate["low"], estimate["high"]
            lines.append(f"AUROC of {method}: {estimate['value']:.3f} ({low:.3f} to {high:.3f})")
    if calibration := figures["calibration"]:
        before, after = calibration["before"]["ece"], calibration["after"]["ece"]
        lines.append(f"calibration: {calibration['method']}, ECE {before:.3f} before and {after:.3f} after")
    lines += [threshold["sentence"] for threshold in figures["thresholds"]]
    lines += [f"note: {note}" for note in figures["notes"]]
    return "".join(f"{line}\n" for line in lines)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, _names(text)))
    except ValueError:
        raise ConfigurationError(f"--max-error {text!r} is not a list of numbers: write 0.01,0.05") from None
