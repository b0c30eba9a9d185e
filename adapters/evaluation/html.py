"""The report as one HTML file, which loads nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: left; vertical-align: top; }
img { max-width: 48%; }
.note { color: #8a4b00; }
"""


def page(figures: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The report's HTML.

    Args:
        figures: what report.json holds.
        pictures: PNG files by name; they become part of the page.
    """
    title = f"Evaluation of {figures['model']}"
    decided = f"{figures['measure']} ≥ {figures['right_from']:g}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{figures['right']} of {figures['n']} answers are right ({figures['accuracy']:.1%}), by "
        f"{escape(decided)}.</p>",
        *(f'<p class="note">Note: {escape(note)}.</p>' for note in figures["notes"]),
        "<h2>What to accept</h2>",
        *(f"<p>{escape(_sentence(one))}.</p>" for one in figures["thresholds"]),
        "<h2>Which confidence finds the mistakes</h2>",
        "<p>AUROC and PRR: higher is better. AURC, ECE and Brier: lower is better. 95 % intervals.</p>",
        _methods(figures["methods"]),
        *_calibration(figures["calibration"]),
        *(_image(name, content) for name, content in pictures.items()),
        "<h2>Mistakes that the model was surest of</h2>",
        _answers(figures["confident_mistakes"]),
        "<h2>Right answers that it was least sure of</h2>",
        _answers(figures["unsure_right"]),
        "<h2>All measures</h2>",
        _table(("measure", "mean"), ((name, f"{mean:.3f}") for name, mean in figures["scores"].items())),
    ]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _sentence(threshold: Mapping[str, Any]) -> str:
    sentence: str = threshold["sentence"]
    if threshold["threshold"] is None:
        return sentence[0].upper() + sentence[1:]
    return f"{sentence[0].upper()}{sentence[1:]} (confidence ≥ {threshold['threshold']:.6f})"


def _methods(methods: Mapping[str, Any]) -> str:
    rows = (
        (
            name,
            found["n"],
            *(_estimate(found.get(figure)) for figure in ("auroc", "aurc", "prr")),
            *(f"{found[figure]:.3f}" if figure in found else "-" for figure in ("ece", "brier")),
        )
        for name, found in methods.items()
    )
    return _table(("method", "answers", "AUROC", "AURC", "PRR", "ECE", "Brier"), rows)


def _estimate(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _calibration(found: Mapping[str, Any] | None) -> Iterable[str]:
    if found is None:
        return ()
    rows = (
        (state, f"{found[state]['ece']:.3f}", f"{found[state]['brier']:.3f}") for state in ("before", "after")
    )
    return (
        "<h2>Calibration</h2>",
        f"<p>{escape(found['method'].capitalize())}, which had the least Brier score in 5-fold "
        "cross-validation. “After” is measured on answers that it was not fitted to.</p>",
        _table(("", "ECE", "Brier"), rows),
    )


def _answers(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    columns = ("item", "prompt", "question", "answer", "truth")
    return _table(
        (*columns, "confidence"),
        ((*(row[column] for column in columns), f"{row['confidence']:.3f}") for row in rows),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
