"""The commands of the command line, one file each, put together with typer."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Annotated

import typer

from adapters.cli import completion
from adapters.cli.output import say

PROGRAM = "python -m adapters"
# In the order of the help. A file has a function of its name with typer's annotations, which returns the
# exit code; it imports what is heavy when it runs.
COMMANDS = (
    "predict",
    "chat",
    "score",
    "embed",
    "serve",
    "evaluate",
    "export",
    "models",
    "show",
    "new",
    "publish",
    "doctor",
    "completion",
)
# For a command that passes its arguments to its own parser.
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(arguments: Sequence[str]) -> int:
    """Parses arguments and runs their command.

    Returns:
        The exit code; 2 for wrong usage, with a one-line error on standard error.
    """
    app = _app(completion.is_asked())
    if completion.is_asked():
        return completion.answer(app)
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as end:
        return end.exit_code
    except typer.TyperException as error:
        say(f"error: {error.format_message()}")
        return 2


def help_texts(width: int) -> dict[str, str]:
    """The help of each command, wrapped at a width."""
    group = typer.main.get_command(_app(add_completion=False))
    context = group.make_context(PROGRAM, [], resilient_parsing=True, terminal_width=width)
    texts = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        texts[name] = command.get_help(
            command.make_context(name, [], context, resilient_parsing=True, terminal_width=width)
        )
    return texts


def _app(add_completion: bool) -> typer.Typer:
    # Plain help: rich's takes three times as long.
    app = typer.Typer(
        add_completion=add_completion,  # typer's own options for it only work for installed programs.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for name in COMMANDS:
        if importlib.util.find_spec(f"adapters.cli.{name}") is None:
            continue
        module = importlib.import_module(f"adapters.cli.{name}")
        handed_on = getattr(module, "HANDED_ON", False)
        app.command(name, context_settings=_HANDED_ON if handed_on else None)(getattr(module, name))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from adapters.cli.version import versions

        typer.echo(versions())
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Print the versions in use."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything, and print errors with their tracebacks.")
    ] = False,
) -> None:
    """Hugging Face models: prompt items and questions in, answers out; and their app for Dataloop."""
