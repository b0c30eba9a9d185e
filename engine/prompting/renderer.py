"""A conversation → the text that a chat template writes of it, with every message in it, or an error.

How a template wants its messages is found out by handing it a conversation of the same roles whose messages
are words that nobody else writes.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from engine.errors import AdapterError, PromptError
from engine.prompting.escaping import FORGED, MARK, Escaping, unmarked
from engine.prompting.sandbox import TooMuch, render
from engine.prompting.templates import no_template
from engine.text import encodable

logger = logging.getLogger(__name__)

Chat = list[dict[str, str]]

# Conversations whose form is remembered.
_REMEMBERED = 256
# Turns at either end of a long conversation that are looked at, and how it goes on between them.
_TURNS = 8
_TAKING_TURNS = {("user", "assistant"), ("assistant", "user")}
# Roles whose content a template may read as a list of parts.
_PARTS: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset({"user", "assistant", "system"}),
    frozenset({"user"}),
    frozenset({"user", "system"}),
)
# What a model has thought before its answer, which many templates leave out.
_THOUGHT = re.compile(r"[<\[]/[a-z_|:]*(?:think|thought|reason)[a-z_|:]*[>\]]", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _Form:
    """How a template is handed a conversation.

    Attributes:
        parts: the roles whose content is a list of parts.
        apart: whether system messages are messages of their own; else the user says them.
        controls: how often it writes each control token.
    """

    parts: frozenset[str]
    apart: bool
    controls: Counter[int]


class Writer:
    """Writes conversations for one tokenizer; the system prompt `trusted` may hold control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, escaping: Escaping) -> None:
        self.tokenizer = tokenizer
        self.escaping = escaping
        self._form = lru_cache(_REMEMBERED)(self._find_form)
        self.end = lru_cache(self._find_end)
        self._endless = lru_cache(self._is_endless)

    def write(self, chat: Chat, template: str, trusted: str | None = None) -> str:
        """The conversation as text, up to where the answer begins; with marks of `engine.prompting.escaping`.

        Raises:
            PromptError: the template refuses the conversation, leaves a message out, writes nothing, or is
                stopped.
            ConfigurationError: it is no valid template.
        """
        form = self._form_of(chat, template, trusted)
        try:
            text = encodable(self._render(chat, template, form))
        except AdapterError:
            raise
        except Exception as error:  # A template is its author's code.
            raise _refused(error, template) from None
        _check_words(chat, unmarked(text))
        return text

    def check(self, ids: Sequence[int], chat: Chat, template: str, trusted: str | None = None) -> None:
        """Compares the control tokens in what is written with those that the template writes of itself.

        Raises:
            PromptError: a message has become one.
        """
        written = self.escaping.count(ids, template)
        if written - self._form_of(chat, template, trusted).controls:
            roles = tuple(message["role"] for message in chat)
            if written - self._form(template, roles, trusted).controls:
                raise PromptError(FORGED)

    def _form_of(self, chat: Chat, template: str, trusted: str | None) -> _Form:
        """The form of a conversation; of a long one that of its ends, where the two only take turns between.

        So each turn of a conversation does not cost another look at all those before it.
        """
        roles = tuple(message["role"] for message in chat)
        head, tail = 2 * _TURNS, 2 * _TURNS + len(roles) % 2
        rest = len(roles) - head - tail
        if rest <= 2 or set(pairwise(roles[head - 1 : len(roles) - tail + 1])) - _TAKING_TURNS:
            return self._form(template, roles, trusted)
        short, longer = (
            self._form(template, roles[: head + more] + roles[-tail:], trusted) for more in (0, 2)
        )
        turns = Counter(
            {token: rest // 2 * count for token, count in (longer.controls - short.controls).items()}
        )
        return replace(short, controls=short.controls + turns)

    def _find_end(self, template: str) -> int | None:
        """The token by which a template ends the assistant's turn; None where it writes none."""
        for roles in (("user", "assistant"), ("user", "assistant", "user")):
            chat = _probe(roles)
            try:
                text = self._render(chat, template, self._form(template, roles, None), answer=False)
            except AdapterError:
                continue
            except Exception:  # A template is its author's code.
                logger.debug("the chat template failed", exc_info=True)
                continue
            said = chat[1]["content"]
            behind = text[text.casefold().rfind(said) + len(said) :].lstrip()
            if found := self.escaping.names.match(behind):
                end: Any = self.tokenizer.convert_tokens_to_ids(found[0])
                return int(end)
        return None

    def _find_form(self, template: str, roles: tuple[str, ...], trusted: str | None) -> _Form:
        if self._endless(template):
            raise TooMuch
        chat = _probe(roles, trusted)
        failure: PromptError | None = None
        for parts, apart in product(_PARTS, (True, False) if "system" in roles else (True,)):
            form = _Form(parts, apart, Counter())
            try:
                text = self._render(chat, template, form)
            except AdapterError:
                raise
            except Exception as error:  # A template is its author's code.
                failure = failure or _refused(error, template)
                continue
            if not text:
                failure = failure or PromptError(
                    "the model's chat template writes nothing for this conversation: change it"
                )
            # Parts that are not read are written as Python writes them.
            elif not (lost := _lost(chat, text)) and not (parts and "'type'" in text):
                ids = self.escaping.read(encodable(text))
                return _Form(parts, apart, self.escaping.count(ids, template))
            elif lost:
                failure = failure or _left_out(lost)
        assert failure is not None
        raise failure

    def _is_endless(self, template: str) -> bool:
        try:
            self._render(_probe(("user",)), template, _Form(frozenset(), True, Counter()))
        except TooMuch:
            return True
        except AdapterError:
            raise
        except Exception:  # A template is its author's code.
            logger.debug("the chat template failed", exc_info=True)
        return False

    def _render(self, chat: Chat, template: str, form: _Form, answer: bool = True) -> str:
        messages: list[dict[str, Any]] = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if message["role"] in form.parts
            else dict(message)
            for message in (chat if form.apart else without_system(chat))
        ]
        try:
            return render(
                template, messages, add_generation_prompt=answer, **self.tokenizer.special_tokens_map
            )
        except TemplateSyntaxError as error:
            raise no_template(str(error)) from None


def _probe(roles: Sequence[str], trusted: str | None = None) -> Chat:
    """A conversation of words that are found again; what is trusted stands before them."""
    return [
        {"role": role, "content": f"{trusted or ''} word{i}probe" if role == "system" else f"word{i}probe"}
        for i, role in enumerate(roles)
    ]


def _lost(chat: Chat, text: str) -> dict[str, str] | None:
    """The first message whose words are not in a text, by and by; None where all are."""
    whole, place = text, 0
    small: str | None = None
    for message in chat:
        said = message["content"]
        said = encodable(unmarked(said) if MARK in said else said).strip()
        if (found := whole.find(said, place)) >= 0:
            place = found + len(said)
        elif said not in whole:
            small = text.casefold() if small is None else small
            if not _in_order(_WORD.findall(_spoken(message["role"], said).casefold()), small):
                return message
    return None


def _spoken(role: str, said: str) -> str:
    """What a template is to write of a message: of an answer its end, not what was thought before."""
    if role != "assistant":
        return said
    return "".join(_THOUGHT.split(said)[-1].strip().splitlines()[-1:])


def _in_order(words: Sequence[str], text: str) -> bool:
    place = 0
    for word in words:
        found = text.find(word, place)
        if found < 0:
            return False
        place = found + len(word)
    return True


def _check_words(chat: Chat, text: str) -> None:
    if lost := _lost(chat, text):
        raise _left_out(lost)


def _left_out(message: dict[str, str]) -> PromptError:
    return PromptError(
        f"the model's chat template leaves out what the {message['role']} says: set chat_template to one "
        "that writes every message"
    )


def _refused(error: Exception, template: str) -> PromptError:
    logger.debug("the chat template failed", exc_info=error)
    return PromptError(f"the model's chat template refuses this conversation: {_words(error, template)}")


def _words(error: Exception, template: str) -> str:
    """What a template says of its own; other words may quote the conversation, which belongs in no log."""
    words = str(error)
    return words if words and words in template else f"{type(error).__name__}, see the log at DEBUG"


def merged(chat: Chat) -> Chat:
    """Neighbours of one role as one message: many templates insist that roles alternate."""
    joined: Chat = []
    for message in chat:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def without_system(chat: Chat) -> Chat:
    """System messages as the user's words: the first opens the first turn."""
    roles = {"system": "user"}
    return merged([{**message, "role": roles.get(message["role"], message["role"])} for message in chat])
