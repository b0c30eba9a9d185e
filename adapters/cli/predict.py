"""`predict`: files, folders and lines of questions in, answers out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters import registry
from adapters.cli.options import Json, Model, Settings, exclusive, named
from adapters.cli.output import Output, Signals, Stop, printing, say
from engine.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    from adapters.cli.forms import Asked, Form


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
        typer.Option(metavar="FILE", help="Write there; .json, .jsonl or .txt chooses the form."),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Answer on Ray: RAY_ADDRESS, or this machine.")] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: copies of the model; by default all that fit.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="With --ray: cores of each copy.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each copy.")] = 0,
) -> int:
    """Answer prompt items and plain questions.

    FILE is a prompt item (.json), lines of prompt items or JSON texts (.jsonl), lines of questions (.txt), a
    folder with prompt items, a pattern, or - for standard input; with the option prompt_template also a table
    (.csv) or lines of JSON objects. What cannot be answered is named with the reason on standard error, and
    the exit code is 1.

    A batch file of OpenAI's (.jsonl) is answered into NAME_output.jsonl and NAME_error.jsonl beside it, or
    into --out; started again, only what has no answer yet. So does a run with --ray.
    """
    exclusive({"--json": json, "--jsonl": jsonl, "--ray": ray})
    with printing() as output:
        stem, configuration = named(model, settings)  # Reports a misspelt name before the slow imports.
        from adapters.cli.batch.run import is_batch
        from adapters.cli.forms import Document, Lines
        from adapters.cli.inputs import expand, inputs, prompt_template

        paths, total = expand(files)
        if ray:
            from adapters.cli.ray.run import Replicas, predict_on_ray

            return predict_on_ray(paths, stem, configuration, out, Replicas(replicas, cpus, gpus))
        if any(map(is_batch, paths)):
            from adapters.cli.batch.predict import answer_batch

            return answer_batch(paths, json or jsonl, out, lambda: registry.load(stem, configuration))
        kind: Callable[[Output], Form] = Lines if jsonl else Document if json else _by_suffix(out)
        with _written(out, paths, output) as target:
            coming = inputs(paths, stem, prompt_template(stem, configuration))
            return _answer(coming, total, stem, lambda: registry.load(stem, configuration), kind(target))


def _answer(
    coming: Iterator[Asked], total: int | None, stem: str, load: Callable[[], Any], form: Form
) -> int:
    from tqdm import tqdm

    from adapters.cli.files import answer_files, say_reused

    ended = 0
    reasons: list[str] = []

    def told(asked: Asked) -> None:
        nonlocal ended
        with signals.held(), tqdm.external_write_mode(sys.stderr):
            ended += 1
            reasons.extend(map(str, asked.failures))
            try:
                form.take(asked)
            except Exception as error:  # A custom model file may return anything.
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
        on_terminal = not progress.disable
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
    say_reused(model)
    # A model file of the user's own has no engine of ours.
    memory = getattr(getattr(model, "engine", None), "memory", None)
    if on_terminal and memory is not None:
        say(f"memory: {memory}")
    return code or (1 if reasons else 0)


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


def _by_suffix(out: Path | None) -> Callable[[Output], Form]:
    from adapters.cli.forms import Document, Lines, Table

    if out is None:
        return Table
    kinds: dict[str, Callable[[Output], Form]] = {
        ".json": Document,
        ".jsonl": Lines,
        ".txt": Table,
        "": Table,
    }
    if out.suffix not in kinds:
        raise ConfigurationError(
            f"--out {str(out)!r}: answers are written as .json, .jsonl or .txt (a table): choose one of these"
        )
    return kinds[out.suffix]
