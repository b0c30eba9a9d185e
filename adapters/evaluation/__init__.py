"""Evaluation: how good a model's answers are, how well its confidence tells, and which to accept.

Importing this imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import registry
from engine.errors import ConfigurationError, Unsupported

if TYPE_CHECKING:
    from adapters.evaluation.report import Report
    from adapters.evaluation.truth import Truth

MAX_ERRORS = (0.01, 0.05, 0.1)
# The least score of a right answer, by measures that are not 0 or 1.
RIGHT_FROM = 0.5


def evaluate(
    items: str | Path | Mapping[str, Any] | Iterable[str | Path | Mapping[str, Any]],
    truth: str | Path | Truth | None = None,
    model: Any = "tiny_talk",
    *,
    configuration: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    measure: str | Callable[[str, str], float] = "exact_match",
    right_from: float = RIGHT_FROM,
    methods: Sequence[str] = (),
    max_errors: Sequence[float] = MAX_ERRORS,
) -> Report:
    """Answers items whose right answers are known, and judges the answers and the model's confidence in them.

    Args:
        items: files of prompt items, folders of them, or their JSON; one, or several.
        truth: CSV or JSON lines with "item", "prompt" and "answer"; None: what people have annotated on the
            items. A `truth.Truth` is taken as well.
        model: a model's name, hub id or folder, or a loaded one.
        configuration: of the model that is named; a loaded one has its own.
        out: the folder that gets report.html, report.json, answers.csv, calibration.json and the pictures.
        measure: a name of `measures.MEASURES`, FILE.py:FUNCTION, or a function of an answer and a right one
            that returns a number from 0 to 1.
        right_from: the least score of a right answer.
        methods: of confidence, to be compared; by default all that need one pass.
        max_errors: error rates for which a threshold is found.

    Raises:
        ConfigurationError: an option, a file or a measure that cannot be used, or no right answer is known.
        Unsupported: scikit-learn or matplotlib is not installed.
    """
    require_packages()
    from adapters.evaluation import answering, files, measures
    from adapters.evaluation.report import Subject, assess
    from adapters.evaluation.truth import Truth
    from adapters.hugging import HuggingAdapter
    from engine.confidence import ONE_PASS

    check(right_from, max_errors)
    if configuration and not isinstance(model, str):
        raise ConfigurationError(
            "configuration is for a model's name, and a loaded model has its own: load it with it"
        )
    decides = measures.named(measure) if isinstance(measure, str) else measure
    known = Truth.read(truth) if isinstance(truth, str | Path) else truth
    if isinstance(model, str):
        name, configuration = registry.chosen(model, configuration)
        adapter = registry.load(name, configuration)
    else:
        name, adapter = getattr(model, "name", type(model).__name__), model
    options: dict[str, Any] = {}
    described: dict[str, Any] = {}
    method = "confidence"
    compared = list(methods or ONE_PASS)
    if isinstance(adapter, HuggingAdapter):
        method, name, described = adapter.evaluated()
        options = {"confidence": method, "confidence_methods": compared}
    judge = answering.Judge(decides, right_from, method)
    read = answering.read_items([items] if isinstance(items, str | Path | Mapping) else items)
    answers = answering.answered(adapter, read, known, judge, name, options)
    answering.require_truth(answers, None if truth is None else str(truth))
    present = {key for one in answers.judged for key in one.confidences}
    shown = [key for key in dict.fromkeys([method, *compared]) if key in present]
    measure_name = measure if isinstance(measure, str) else getattr(measure, "__name__", "measure")
    subject = Subject(name, described, measure_name, right_from, method)
    notes = answering.notes(answers, shown, measure_name)
    report = assess(answers.judged, subject, shown, max_errors, notes, answers.failures)
    if out is not None:
        files.write(report, Path(out))
    return report


def check(right_from: float, max_errors: Sequence[float]) -> None:
    """Checks the arguments.

    Raises:
        ConfigurationError: one of them is invalid; the text says what to do.
    """
    if not 0 < right_from <= 1:
        raise ConfigurationError(f"right_from is {right_from:g}: give a score above 0, at most 1")
    for rate in max_errors:
        if not 0 < rate < 1:
            raise ConfigurationError(
                f"max_error {rate:g} is not an error rate: give one between 0 and 1, as 0.05"
            )


def require_packages() -> None:
    """Checks that the packages for an evaluation are installed.

    Raises:
        Unsupported: one is missing; the text says what to do.
    """
    from importlib.util import find_spec

    if missing := [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]:
        raise Unsupported(
            f"evaluation needs {' and '.join(missing)}: pip install scikit-learn matplotlib sacrebleu"
        )
