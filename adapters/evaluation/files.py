"""The files of an evaluation: report.html, report.json, answers.csv, calibration.json and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from adapters.evaluation.html import page
from adapters.evaluation.pictures import pictures
from adapters.evaluation.report import Report
from engine.confidence.calibration import FILE
from engine.errors import ConfigurationError


def write(report: Report, folder: Path) -> None:
    """Writes all files into a folder, which is created; removes an earlier evaluation's calibration.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = pictures(report)
        for name, content in drawn.items():
            (folder / name).write_bytes(content)
        text = json.dumps(report.figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(page(report.figures, drawn), encoding="utf-8")
        _write_answers(report, folder / "answers.csv")
        (folder / FILE).unlink(missing_ok=True)
        if report.calibration is not None:
            report.calibration.save(folder / FILE)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written to ({error.strerror}): name another") from error


def _write_answers(report: Report, path: Path) -> None:
    methods = list(report.figures["methods"])
    measures = list(report.figures["scores"])
    calibration = report.calibration
    header = ["item", "prompt", "question", "answer", "truth", "right", "score", *measures, *methods]
    refusals = any(one.refusal is not None for one in report.judged)
    header += ["refusal"] * refusals
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "calibrated"] if calibration else header)
        for one in report.judged:
            row = [
                one.item,
                one.prompt,
                one.question,
                one.answer,
                " | ".join(one.truths),
                int(one.right),
                one.score,
            ]
            row += [one.scores[name] for name in measures]
            row += [one.confidences.get(name) for name in methods]
            if refusals:
                row.append(None if one.refusal is None else int(one.refusal))
            if calibration:
                raw = one.confidences.get(calibration.confidence)
                row.append(None if raw is None else calibration.apply(raw))
            writer.writerow(row)
