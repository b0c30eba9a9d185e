"""The command line: prompt-item files in, answers out, with no platform.

Nothing heavy is imported before a model runs, so that help and the list of models come at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
from engine.errors import AdapterError, ConfigurationError

# Enough conversations to fill a batch; few enough that progress shows.
FILES_AT_ONCE = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 when something has no answer, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except AdapterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m adapters", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="answer prompt-item files")
    predict.add_argument("files", nargs="+", metavar="ITEM.json", help="prompt items as JSON")
    predict.add_argument("--model", default="tiny_talk", help="a file of models/ (default: %(default)s)")
    predict.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the model's configuration; the value is JSON, or else text",
    )
    predict.add_argument("--json", action="store_true", help="print one JSON document")
    predict.set_defaults(run=_predict)
    listing = commands.add_parser("models", help="list the models")
    listing.set_defaults(run=_list_models)
    return parser


def _list_models(_: argparse.Namespace) -> int:
    print("\n".join(models.names()))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from adapters.predicting import predict_each

    configuration = dict(map(_assignment, options.set))
    reasons: list[str] = []
    items = [_read(file, reasons) for file in options.files]
    answers: list[list[dict[str, Any]] | None] = [None] * len(items)
    readable = [i for i, item in enumerate(items) if item is not None]
    name = models.stem(options.model)
    if readable:
        adapter = models.load(name, configuration)
        chunks = [readable[start : start + FILES_AT_ONCE] for start in range(0, len(readable), FILES_AT_ONCE)]
        with tqdm(total=len(readable), unit="item", disable=None) as progress:
            for chunk in chunks:
                found, failures = predict_each(adapter, [items[i] for i in chunk], name)
                for i, item_answers in zip(chunk, found, strict=True):
                    answers[i] = item_answers
                for failure in failures:
                    i = chunk[failure.position]
                    answers[i] = answers[i] or None
                    reasons.append(str(failure))
                progress.update(len(chunk))
    # A character that the output cannot hold is escaped, as JSON and people read it.
    sys.stdout.reconfigure(errors="backslashreplace")
    if options.json:
        print(json.dumps(answers, ensure_ascii=False, indent=2))
    else:
        _print_table(options.files, items, answers, name)
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reasons else 0


def _print_table(
    files: Sequence[str],
    items: Sequence[dict[str, Any] | None],
    answers: Sequence[list[dict[str, Any]] | None],
    model_name: str,
) -> None:
    from adapters.table import drawn, rows

    table = [
        row
        for file, item, found in zip(files, items, answers, strict=True)
        if item is not None
        for row in rows(Path(file).name, item, found or [], model_name)
    ]
    if table:
        print(drawn(table))


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"--set {text!r} is no KEY=VALUE: write --set temperature=0.7")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _read(file: str, reasons: list[str]) -> dict[str, Any] | None:
    """A file's JSON under its name; None with a reason where there is none."""
    try:
        item = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        reasons.append(f"{file}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        reasons.append(f"{file}: is no JSON ({error})")
    else:
        if isinstance(item, dict):
            return {**item, "filename": file}
        reasons.append(f"{file}: is no prompt item: a JSON object with 'prompts' is needed")
    return None
