"""The command line: prompt-item files in, answers out, with no platform.

Nothing heavy is imported before a model runs, so that help and the list of models come at once.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from adapters import registry
from adapters.cli.output import Output, Signals, Stop, aside, say
from engine.errors import AdapterError, ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0, 1 when something has no answer, 2 for wrong usage; where it was ended, 128 and the
        signal's number, as a shell has it: SIGINT, SIGTERM, or SIGPIPE when nobody reads the output any more.
    """
    try:
        output = Output(sys.stdout)
        try:
            options = _parser().parse_args(arguments)
        finally:
            output.write("")  # The help: else it is written when Python ends, and fails there.
        with aside():
            return int(options.run(options, output))
    except Stop as stop:
        if stop.reason:
            say(f"error: {stop.reason}")
        return stop.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except AdapterError as error:
        say(f"error: {error}")
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
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument(
        "--jsonl", action="store_true", help="print a line of JSON for each question, as the answers come"
    )
    predict.set_defaults(run=_predict)
    evaluate = commands.add_parser(
        "evaluate", help="judge answers, calibrate the confidence, find thresholds"
    )
    evaluate.add_argument("items", nargs="+", metavar="ITEMS", help="prompt items as JSON files, or folders")
    evaluate.add_argument(
        "--truth", help="CSV or JSON lines with item, prompt, answer (default: people's annotations)"
    )
    evaluate.add_argument("--model", default="tiny_talk", help="a file of models/ (default: %(default)s)")
    evaluate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for predict")
    evaluate.add_argument("--out", required=True, help="the folder for the report and calibration.json")
    evaluate.add_argument(
        "--measure", default="exact_match", help="what makes an answer right, or FILE.py:FUNCTION"
    )
    evaluate.add_argument("--right-from", type=float, default=0.5, help="the least score of a right answer")
    evaluate.add_argument("--methods", type=_names, default=(), help="methods of confidence, with commas")
    evaluate.add_argument("--max-error", type=_rates, default=(0.01, 0.05, 0.1), help="as 0.01,0.05,0.1")
    evaluate.set_defaults(run=_evaluate)
    chat = commands.add_parser("chat", help="talk to a model in the browser")
    chat.add_argument("--page", action="store_true", required=True, help="serve the chat page")
    chat.add_argument("--model", default="tiny_talk", help="a file of models/ (default: %(default)s)")
    chat.add_argument("--second", metavar="MODEL", help="another one, beside it")
    chat.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    chat.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    chat.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option, as for predict"
    )
    chat.set_defaults(run=_chat)
    serving = commands.add_parser("serve", help="serve a model by OpenAI's routes over HTTP")
    serving.add_argument("--model", default="tiny_talk", help="a file of models/ (default: %(default)s)")
    serving.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="port (default: %(default)s)")
    serving.add_argument(
        "--api-key", help="what clients have to send (default: SERVER_API_KEY, if it is set)"
    )
    serving.add_argument("--open-to-all", action="store_true", help="serve other machines without a key, too")
    serving.add_argument(
        "--max-requests", type=int, default=512, help="answers at a time (default: %(default)s)"
    )
    serving.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option, as for predict"
    )
    serving.set_defaults(run=_serve)
    listing = commands.add_parser("models", help="list the models")
    listing.set_defaults(run=_list_models)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _rates(text: str) -> tuple[float, ...]:
    return tuple(map(float, _names(text)))


def _evaluate(options: argparse.Namespace, output: Output) -> int:
    from adapters.cli.evaluate import evaluate

    output.write(
        evaluate(
            options.items,
            options.truth,
            options.model,
            dict(map(_assignment, options.set)),
            options.out,
            options.measure,
            options.right_from,
            options.methods,
            options.max_error,
        )
    )
    return 0


def _list_models(_: argparse.Namespace, output: Output) -> int:
    output.write("\n".join(registry.names()) + "\n")
    return 0


def _chat(options: argparse.Namespace, _: Output) -> int:
    from adapters.cli.chat_page import chat_page

    chat_page(
        [options.model] if options.second is None else [options.model, options.second],
        host=options.host,
        port=options.port,
        configuration=dict(map(_assignment, options.set)),
    )
    return 0


def _serve(options: argparse.Namespace, _: Output) -> int:
    from adapters.cli.serve import serve

    serve(
        options.model,
        host=options.host,
        port=options.port,
        api_key=options.api_key,
        open_to_all=options.open_to_all,
        max_requests=options.max_requests,
        configuration=dict(map(_assignment, options.set)),
    )
    return 0


def _predict(options: argparse.Namespace, output: Output) -> int:
    from tqdm import tqdm

    from adapters.cli.files import answer_files
    from adapters.cli.forms import Asked, Document, Lines, Table

    configuration = dict(map(_assignment, options.set))
    name = registry.stem(options.model)
    form = (Lines if options.jsonl else Document if options.json else Table)(output)
    ended, total = 0, len(options.files)
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

    code = 0
    with Signals() as signals, tqdm(total=total, unit="item", disable=None) as progress:
        try:
            answer_files(options.files, lambda: registry.load(name, configuration), name, told)
        except Stop as stop:
            if not stop.writable:
                raise
            code = stop.code
            reasons.append(f"interrupted: {ended} of {total} files are done")
        except AdapterError as error:
            if not ended:
                raise
            code = 2
            reasons.append(str(error))
        except SystemExit as error:
            reasons.append(f"models/{name}.py ended the run ({error!r}): {ended} of {total} files are done")
        signals.hold()
        form.end()
    for reason in reasons:
        say(f"error: {reason}")
    return code or (1 if reasons else 0)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"--set {text!r} is no KEY=VALUE: write --set temperature=0.7")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
