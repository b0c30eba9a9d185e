"""The command line: `main` runs a command and returns its exit code.

Nothing heavy is imported before a model runs, so that help and the list of models come at once.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from adapters.cli.output import Output, Stop, say
from engine.errors import AdapterError, ConfigurationError

DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0, 1 when something has no answer, 2 for wrong usage; after a signal, 128 plus its
        number, as in a shell: SIGINT, SIGTERM, or SIGPIPE when the output's reader has gone.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    try:
        with _everything_logged() if debug else nullcontext():
            return _run(words)
    except Stop as stop:
        if stop.reason:
            say(f"error: {stop.reason}")
        return stop.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except AdapterError as error:
        if debug:
            say("".join(traceback.format_exception(error)).rstrip())
        say(f"error: {error}")
        return 2


def _run(words: list[str]) -> int:
    output = Output(sys.stdout)
    try:
        from adapters.cli import app
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ("typer", "rich"):
            raise
        raise ConfigurationError(
            f"the command line needs the package {error.name}: run `pip install typer rich`"
        ) from error
    try:
        return app.run(words)
    except BrokenPipeError:
        raise output.lost() from None
    finally:
        output.write("")  # The help text: otherwise Python would write it at exit, and fail there.


@contextmanager
def _everything_logged() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    loggers = [logging.getLogger(name) for name in ("adapters", "engine")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
