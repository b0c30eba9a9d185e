"""The report's pictures, by matplotlib, without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from adapters.evaluation.report import Report, curves

DPI = 100


def pictures(report: Report) -> dict[str, bytes]:
    """PNG files by name: the reliability diagram before and after, and the risk-coverage curves."""
    drawn = {"risk_coverage.png": _drawn(lambda axes: _risk_coverage(axes, report))}
    calibration = report.figures["calibration"]
    if calibration:
        drawn["reliability.png"] = _drawn(lambda axes: _reliability(axes, calibration))
    return drawn


def _drawn(draw: Callable[[Any], None]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4), layout="constrained")
    draw(figure.add_subplot())
    written = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(written, format="png", dpi=DPI, metadata={"Software": None})
    return written.getvalue()


def _reliability(axes: Any, calibration: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, colour in (("before", "#c0504d"), ("after", "#2f6eb5")):
        found = calibration[name]
        xs, ys = zip(*((one["confidence"], one["right"]) for one in found["bins"]), strict=True)
        axes.plot(xs, ys, "o-", color=colour, label=f"{name}, ECE {found['ece']:.3f}")
    axes.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()


def _risk_coverage(axes: Any, report: Report) -> None:
    for name, (shares, risks) in curves(report).items():
        axes.plot(shares, risks, label=name, linewidth=2 if name == report.figures["method"] else 1)
    axes.set(xlabel="share of answers accepted", ylabel="share of these that is wrong", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
