"""`python -m adapters evaluate`: answers items whose right answers are known, and writes a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def evaluate(
    items: Sequence[str],
    truth: str | None,
    model: str,
    configuration: Mapping[str, Any],
    out: str,
    measure: str = "exact_match",
    right_from: float = 0.5,
    methods: Sequence[str] = (),
    max_errors: Sequence[float] = (0.01, 0.05, 0.1),
) -> str:
    """Evaluates a model and writes the report's files into a folder.

    Returns:
        The outcome in a few lines.

    Raises:
        AdapterError: as `adapters.evaluation.evaluate`.
    """
    from adapters import evaluation

    report = evaluation.evaluate(
        items,
        truth,
        model,
        configuration=configuration,
        out=out,
        measure=measure,
        right_from=right_from,
        methods=methods,
        max_errors=max_errors,
    )
    return summary(report.figures) + f"report: {Path(out) / 'report.html'}\n"


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
