"""`chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import contextlib
import difflib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters import registry
from adapters.cli.options import Model, Settings, assignment, named
from adapters.cli.output import INTERRUPTED, Output, Signals, Stop, aside, unobserved
from engine.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    from adapters.cli.conversation import Conversation

PROMPT = "> "
HELP = """/system TEXT      set the system prompt; without a text, show it
/set KEY=VALUE    change an option of the answers to come, as /set temperature=0.7
/retry            ask the last question again
/confidence       show how sure the model is of each answer, or stop showing it
/save FILE.json   write the conversation as a prompt item
/clear            begin a new conversation
/quit             end; Ctrl-D does, too. Ctrl-C stops an answer
"""
# How many of an answer's least likely tokens are shown, if they are less likely than this.
DOUBTS, SURE = 3, 0.9


def chat(
    model: Model = "tiny_talk",
    settings: Settings = None,
    page: Annotated[bool, typer.Option("--page", help="Serve a chat page instead.")] = False,
    second: Annotated[str | None, typer.Option(help="Another model beside it, on the page.")] = None,
    host: Annotated[str, typer.Option(help="The address of the page.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port of the page.")] = 7860,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Allow an address that others reach.")
    ] = False,
) -> int:
    """Talk to a model. /help lists the commands; Ctrl-C stops an answer and not the program.

    Off a terminal, each line of standard input is a question.
    """
    if second is not None and not page:
        raise ConfigurationError("--second is for the page: add --page")
    if page:
        from adapters.cli.chat_page import chat_page

        models = [model] if second is None else [model, second]
        chat_page(models, settings, host=host, port=port, open_to_all=open_to_all)
        return 0
    output = Output(sys.stdout)
    reader = _reader(sys.stdout)
    with aside():
        stem, configuration = named(model, settings)
        adapter = registry.load(stem, configuration)
        return _Chat(adapter, stem, output).run(reader)


class _Chat:
    """The commands, and what they change."""

    def __init__(self, adapter: Any, name: str, output: Output) -> None:
        from adapters.cli.conversation import Conversation
        from adapters.hugging import HuggingAdapter

        if not isinstance(adapter, HuggingAdapter):
            raise ConfigurationError(
                f"models/{name}.py has a class of its own, which answers prompt items only: ask it by predict"
            )
        self._conversation: Conversation = Conversation(adapter)
        # A local model is stopped between two steps, a request to a server at any time.
        self._steps = adapter.configuration.adapter.backend == "local"
        self._name, self._output = name, output
        self._shows_confidence = False
        self._saved: set[Path] = set()
        self._failed = False
        self._commands: dict[str, Callable[[str], object]] = {
            "help": lambda _: output.write(HELP),
            "system": self._system,
            "set": self._set,
            "retry": self._retry,
            "confidence": self._confidence,
            "save": self._save,
            "clear": lambda _: self._conversation.clear(),
        }

    def run(self, lines: Iterator[str]) -> int:
        """Takes lines until there are no more; returns 1 where a question had no answer."""
        for line in lines:
            text = line.strip()
            name, _, rest = text.removeprefix("/").partition(" ")
            if text == "/quit":
                break
            try:
                if text.startswith("/"):
                    self._command(name)(rest.strip())
                elif text:
                    self._ask(text)
            except AdapterError as error:
                self._output.styled(f"error: {self._output.shown(str(error))}\n", "red")
        return int(self._failed)

    def _command(self, name: str) -> Callable[[str], object]:
        if name not in self._commands:
            near = difflib.get_close_matches(name, [*self._commands, "quit"], n=1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists them"
            raise ConfigurationError(f"there is no command /{name}: {hint}")
        return self._commands[name]

    def _ask(self, question: str) -> None:
        try:
            with Signals() as signals, unobserved():
                held: Callable[[], AbstractContextManager[None]] = (
                    signals.held if self._steps else contextlib.nullcontext
                )
                for text in self._conversation.ask(question, held):
                    self._output.write(self._output.shown(text))
        except Stop as stop:
            if stop.code != INTERRUPTED:
                raise
            self._note(" [stopped]")
            return
        except AdapterError:
            self._failed = True
            raise
        self._output.write("\n")
        if self._shows_confidence:
            self._note(self._doubts())

    def _doubts(self) -> str:
        """The last answer's confidence, and the tokens that the model was least sure of."""
        answer = self._conversation.turns[-1].answer
        if answer.confidence is None:
            return "[confidence unknown: the server gives no log-probabilities]"
        unsure = sorted(answer.tokens or (), key=lambda token: token.logprob)[:DOUBTS]
        told = [
            f"{token.text!r} {math.exp(token.logprob):.3f}"
            for token in unsure
            if math.exp(token.logprob) < SURE
        ]
        return f"[confidence {answer.confidence:.3f}{'; least sure of ' if told else ''}{', '.join(told)}]"

    def _system(self, text: str) -> None:
        if text:
            self._conversation.change(system_prompt=text)
        else:
            prompt = self._conversation.options.system_prompt
            self._output.write(f"{prompt or 'no system prompt: /system TEXT sets one'}\n")

    def _set(self, text: str) -> None:
        if text:
            key, value = assignment(text)
            self._conversation.change(**{key: value})
            return
        for key, value in self._conversation.options.model_dump(exclude_unset=True).items():
            self._output.write(self._output.shown(f"{key}={self._output.json(value)}") + "\n")

    def _retry(self, _: str) -> None:
        question = self._conversation.take_back()
        if question is None:
            raise ConfigurationError("there is nothing to ask again: no question was asked yet")
        if not self._conversation.options.sampled:
            self._note("[the likeliest answer is the same each time: try /set temperature=0.7]")
        self._ask(question)

    def _confidence(self, _: str) -> None:
        self._shows_confidence = not self._shows_confidence
        self._conversation.change(logprobs=self._shows_confidence)
        self._note(f"[confidence is {'shown' if self._shows_confidence else 'not shown'}]")

    def _save(self, text: str) -> None:
        file = Path(text)
        if not text:
            raise ConfigurationError("/save needs a file: /save item.json")
        if file.exists() and file not in self._saved:
            raise ConfigurationError(f"{text} is there already: choose another name")
        content = self._output.json(self._conversation.item(self._name), indent=2)
        try:
            file.write_text(content + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{text} cannot be written ({error.strerror})") from None
        self._saved.add(file)
        self._note(f"[{len(self._conversation.turns)} turns are in {text}]")

    def _note(self, text: str) -> None:
        self._output.styled(self._output.shown(text) + "\n", "dim")


def _reader(stdout: Any) -> Iterator[str]:
    """Lines that a person types, with their history, or those of standard input."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # So `input` edits lines, and has their history.
    while True:
        try:
            with contextlib.redirect_stdout(stdout):  # Otherwise `input` does not treat it as the terminal.
                line = input(PROMPT)
        except EOFError:
            stdout.write("\n")
            return
        except KeyboardInterrupt:
            stdout.write("\n")
            continue
        yield line
