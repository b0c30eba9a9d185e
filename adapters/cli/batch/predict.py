"""The command: a batch file, a model and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adapters.cli.batch.results import Results
from adapters.cli.batch.run import BatchRun
from adapters.cli.files import say_reused
from adapters.cli.output import Signals, Stop, say
from adapters.openai_api.requests import OpenAICalls
from engine.errors import ConfigurationError


def answer_batch(paths: Sequence[str], form: bool, out: Path | None, load: Callable[[], Any]) -> int:
    """Answers the requests of a batch file that have no answer yet.

    Args:
        paths: the batch file alone.
        form: whether another form of output was asked for.
        out: the file of the answers; None: `NAME_output.jsonl` beside it.

    Returns:
        The exit code: 1 where a request has no answer, 130 after Ctrl-C.

    Raises:
        ConfigurationError: more than one file, another form, or files that do not fit.
        AdapterError: the model cannot be loaded.
    """
    _check_alone(paths, form)
    path = Path(paths[0])

    code, reason = 0, ""
    model: Any = None
    with Signals() as signals:
        results = Results(path, out, signals.held)
        try:
            model = load()
            if not isinstance(model, OpenAICalls):
                raise ConfigurationError("this model file has no engine: extend adapters.hugging")
            with path.open("rb") as lines, tqdm(total=_count(path), unit="request", disable=None) as progress:
                BatchRun(model, results, progress.update).run(lines)
        except Stop as stop:
            code, reason = stop.code, stop.reason or "interrupted"
        finally:
            signals.hold()
            results.close()
    for said, (first, count) in results.reasons.items():
        say(f"error: {first}: {said}" + (f" ({count} requests)" if count > 1 else ""))
    say(results.summary)
    say_reused(model)
    if code:
        say(f"error: {reason}: run again to answer the rest")
    return code or (1 if results.failed else 0)


def _check_alone(paths: Sequence[str], form: bool) -> None:
    if len(paths) > 1:
        raise ConfigurationError("a batch file has an output of its own: give it alone")
    if form:
        raise ConfigurationError("a batch file has OpenAI's form of output: leave --json and --jsonl out")


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)
