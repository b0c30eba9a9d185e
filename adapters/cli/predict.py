"""`predict`: files, folders and lines of questions in, answers out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters import registry
from adapters.cli.options import Json, Model, Settings, exclusive, named
from adapters.cli.output import Output, Signals, Stop, printing, say
from engine.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    from adapters.cli.forms import Asked, Form
    from adapters.items.plain import PromptTemplate


def predict(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, folders, patterns, or -.")],
    model: Model = "tiny_talk",
    settings: Settings = None,
    json: Json = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a line of JSON for each question, as the answers come.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write there; .json and .jsonl choose the form."),
    ] = None,
) -> int:
    """Answer prompt items and plain questions.

    FILE is a prompt item (.json), lines of prompt items or JSON texts (.jsonl), lines of questions (.txt), a
    folder with prompt items, a pattern, or - for standard input; with the option prompt_template also a table
    (.csv) or lines of JSON objects. What cannot be answered is named with the reason on standard error, and
    the exit code is 1.

    A batch file of OpenAI's (.jsonl) is answered into NAME_output.jsonl and NAME_error.jsonl beside it, or
    into --out; started again, only what has no answer yet.
    """
    exclusive({"--json": json, "--jsonl": jsonl})
    with printing() as output:
        stem, configuration = named(model, settings)  # A misspelt name is told before imports take time.
        from adapters.cli.batch import is_batch
        from adapters.cli.forms import Document, Lines, Table
        from adapters.cli.inputs import expand, inputs

        paths, total = expand(files)
        if any(map(is_batch, paths)):
            _alone(paths, json or jsonl)
            return _answer_batch(Path(paths[0]), out, lambda: registry.load(stem, configuration))
        kind: Callable[[Output], Form] = Lines if jsonl else Document if json else _by_suffix(out) or Table
        with _written(out, paths, output) as target:
            coming = inputs(paths, stem, _template(stem, configuration))
            return _answer(coming, total, stem, lambda: registry.load(stem, configuration), kind(target))


def _template(stem: str, configuration: Mapping[str, Any]) -> PromptTemplate | None:
    """Makes prompt items of plain ones, if the model's options say how."""
    from adapters.hugging import HuggingAdapter
    from adapters.items.plain import PromptTemplate

    kind = registry.find(stem)
    if not issubclass(kind, HuggingAdapter):
        return PromptTemplate.of(configuration.get("prompt_template"), configuration.get("labels"))
    chosen = kind(configuration).configuration
    return PromptTemplate.of(chosen.adapter.prompt_template, chosen.generation.labels)


def _answer(
    coming: Iterator[Asked], total: int | None, stem: str, load: Callable[[], Any], form: Form
) -> int:
    from tqdm import tqdm

    from adapters.cli.files import answer_files

    ended = 0
    reasons: list[str] = []

    def told(asked: Asked) -> None:
        nonlocal ended
        with signals.held(), tqdm.external_write_mode(sys.stderr):
            ended += 1
            reasons.extend(map(str, asked.failures))
            try:
                form.take(asked)
            except Exception as error:  # A model file of the user's own may answer anything.
                reasons.append(f"{asked.file}: its answers cannot be shown ({error!r})")
            progress.update()

    def done() -> str:
        return f"{ended} items are done" if total is None else f"{ended} of {total} files are done"

    model: Any = None

    def loaded() -> Any:
        nonlocal model
        model = load()
        return model

    code = 0
    with Signals() as signals, tqdm(total=total, unit="item", disable=None) as progress:
        try:
            answer_files(coming, loaded, stem, told)
        except Stop as stop:
            if not stop.writable:
                raise
            code = stop.code
            reasons.append(f"interrupted: {done()}")
        except AdapterError as error:
            if not ended:
                raise
            code = 2
            reasons.append(str(error))
        except SystemExit as error:
            reasons.append(f"models/{stem}.py ended the run ({error!r}): {done()}")
        signals.hold()
        form.end()
    for reason in reasons:
        say(f"error: {reason}")
    _tell_reused(model)
    return code or (1 if reasons else 0)


def _tell_reused(model: Any) -> None:
    reused = getattr(getattr(model, "_engine", None), "reused", None)
    if reused:
        say(str(reused))


def _alone(paths: list[str], form: bool) -> None:
    if len(paths) > 1:
        raise ConfigurationError("a batch file has an output of its own: give it alone")
    if form:
        raise ConfigurationError("a batch file has OpenAI's form of output: leave --json and --jsonl out")


def _answer_batch(path: Path, out: Path | None, load: Callable[[], Any]) -> int:
    from tqdm import tqdm

    from adapters.cli.batch import BatchRun
    from adapters.cli.batch_results import Results
    from adapters.openai_api.requests import OpenAICalls

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
    for said, count in results.reasons.items():
        say(f"error: {said}" + (f" ({count} requests)" if count > 1 else ""))
    say(results.summary)
    _tell_reused(model)
    if code:
        say(f"error: {reason}: run again to answer the rest")
    return code or (1 if results.failed else 0)


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)


@contextlib.contextmanager
def _written(out: Path | None, paths: list[str], output: Output) -> Iterator[Output]:
    if out is None:
        yield output
        return
    if any(out.exists() and Path(path).exists() and out.samefile(path) for path in paths):
        raise ConfigurationError(f"--out {str(out)!r} is one of the inputs: choose another file")
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {str(out)!r} cannot be written ({error.strerror})") from None
    with file:
        yield Output(file)


def _by_suffix(out: Path | None) -> Callable[[Output], Form] | None:
    from adapters.cli.forms import Document, Lines

    kinds: dict[str, Callable[[Output], Form]] = {".json": Document, ".jsonl": Lines}
    return None if out is None else kinds.get(out.suffix)
