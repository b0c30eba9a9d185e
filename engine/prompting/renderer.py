"""Renders conversations with a chat template, and checks that the text contains every message.

The message format that a template expects is found by probing: it renders a conversation with the same roles
whose messages are unique words.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise, product
from typing import Any

from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from engine.errors import AdapterError, PromptError
from engine.options.base import JSONObject
from engine.prompting.escaping import FORGED, MARK, ControlTokenEscaper, unmark
from engine.prompting.sandbox import TemplateLimitExceeded, render
from engine.prompting.templates import check_arguments, invalid_template
from engine.text import encodable

logger = logging.getLogger(__name__)

Chat = list[dict[str, str]]

# Message formats that are cached for a template, one for each sequence of roles.
_CACHED_FORMATS = 256
# Of a long conversation only this many turns at either end are probed, if roles alternate in between.
_PROBED_TURNS = 8
_ALTERNATION = {("user", "assistant"), ("assistant", "user")}
# Sets of roles whose content a template may expect as a list of parts.
_PART_ROLES: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset({"user", "assistant", "system"}),
    frozenset({"user"}),
    frozenset({"user", "system"}),
)
# The end of the reasoning before an answer; many templates leave reasoning out.
_END_OF_REASONING = re.compile(r"[<\[]/[a-z_|:]*(?:think|thought|reason)[a-z_|:]*[>\]]", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _MessageFormat:
    """How a template expects the messages of a conversation.

    Attributes:
        part_roles: the roles whose content is a list of parts instead of a text.
        system_role: whether there are system messages; if not, they become part of the user's.
        control_tokens: how often the template itself writes each control token.
    """

    part_roles: frozenset[str]
    system_role: bool
    control_tokens: Counter[int]


class ChatRenderer:
    """Renders conversations with one chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        escaper: ControlTokenEscaper,
        template: str,
        trusted: str | None = None,
        arguments: JSONObject | None = None,
        opens_answer: bool = True,
    ) -> None:
        """Renders nothing yet.

        Args:
            template: Jinja text.
            trusted: the operator's system prompt, which may contain control tokens.
            arguments: further variables of the template, whose texts may not.
            opens_answer: whether a conversation ends where an answer begins (`add_generation_prompt`).

        Raises:
            ConfigurationError: an argument that the template does not have.
        """
        self._tokenizer = tokenizer
        self._escaper = escaper
        self._template = template
        self._trusted = trusted
        self._opens_answer = opens_answer
        checked = check_arguments(arguments or {}, template)
        self._arguments = _each_text(checked, lambda text: escaper.mark(text, template))
        self._probed_format = lru_cache(_CACHED_FORMATS)(self._probe_format)

    def render(self, chat: Chat) -> str:
        """Renders a conversation with marks of `engine.prompting.escaping`, up to where an answer begins.

        Raises:
            PromptError: the template refuses the conversation, leaves a message out, writes nothing, or
                exceeds a limit.
            ConfigurationError: the template is not valid Jinja.
        """
        message_format = self._format_of(chat)
        try:
            text = encodable(self._render(chat, message_format))
        except AdapterError:
            raise
        except Exception as error:  # Third-party code: any exception is possible.
            raise _refusal_error(error, self._template) from None
        _check_complete(chat, unmark(text))
        return text

    def check_control_tokens(self, ids: Sequence[int], chat: Chat) -> None:
        """Checks that a rendered prompt has no more control tokens than the template itself writes.

        Args:
            ids: the token ids of the rendered conversation.

        Raises:
            PromptError: part of a message has become a control token.
        """
        written = self._escaper.count(ids, self._template)
        if written - self._format_of(chat).control_tokens:
            roles = tuple(message["role"] for message in chat)
            if written - self._probed_format(roles).control_tokens:
                raise PromptError(FORGED)

    def _format_of(self, chat: Chat) -> _MessageFormat:
        """The format of a conversation; for a long one, extrapolated from its first and last turns.

        So a growing conversation is not probed as a whole at each turn.
        """
        roles = tuple(message["role"] for message in chat)
        head, tail = 2 * _PROBED_TURNS, 2 * _PROBED_TURNS + len(roles) % 2
        rest = len(roles) - head - tail
        if rest <= 2 or set(pairwise(roles[head - 1 : len(roles) - tail + 1])) - _ALTERNATION:
            return self._probed_format(roles)
        short, longer = (self._probed_format(roles[: head + more] + roles[-tail:]) for more in (0, 2))
        per_turn = longer.control_tokens - short.control_tokens
        turns = Counter({token: rest // 2 * count for token, count in per_turn.items()})
        return replace(short, control_tokens=short.control_tokens + turns)

    @cached_property
    def end_token(self) -> int | None:
        """The token with which the template ends the assistant's turn, or None."""
        for roles in (("user", "assistant"), ("user", "assistant", "user")):
            chat = _probe(roles)
            try:
                message_format = self._probed_format(roles)
                text = self._render(chat, message_format, add_generation_prompt=False)
            except AdapterError:
                continue
            except Exception:  # Third-party code: any exception is possible.
                logger.debug("the chat template failed", exc_info=True)
                continue
            content = chat[1]["content"]
            after = text[text.casefold().rfind(content) + len(content) :].lstrip()
            if found := self._escaper.added_tokens.match(after):
                end: Any = self._tokenizer.convert_tokens_to_ids(found[0])
                return int(end)
        return None

    def _probe_format(self, roles: tuple[str, ...]) -> _MessageFormat:
        if self._exceeds_limits:
            raise TemplateLimitExceeded
        chat = _probe(roles, self._trusted)
        failure: PromptError | None = None
        for part_roles, system_role in product(_PART_ROLES, (True, False) if "system" in roles else (True,)):
            message_format = _MessageFormat(part_roles, system_role, Counter())
            try:
                text = self._render(chat, message_format)
            except AdapterError:
                raise
            except Exception as error:  # Third-party code: any exception is possible.
                failure = failure or _refusal_error(error, self._template)
                continue
            if not text:
                failure = failure or PromptError(
                    "the model's chat template writes nothing for this conversation: change it"
                )
            # A template that does not expect parts writes their repr.
            elif not (missing := _first_missing(chat, text)) and not (part_roles and "'type'" in text):
                ids = self._escaper.tokenize(encodable(text))
                return _MessageFormat(part_roles, system_role, self._escaper.count(ids, self._template))
            elif missing:
                failure = failure or _missing_error(missing)
        assert failure is not None
        raise failure

    @cached_property
    def _exceeds_limits(self) -> bool:
        """Whether the template exceeds a limit even with a short conversation."""
        try:
            self._render(_probe(("user",)), _MessageFormat(frozenset(), True, Counter()))
        except TemplateLimitExceeded:
            return True
        except AdapterError:
            raise
        except Exception:  # Third-party code: any exception is possible.
            logger.debug("the chat template failed", exc_info=True)
        return False

    def _render(
        self, chat: Chat, message_format: _MessageFormat, add_generation_prompt: bool | None = None
    ) -> str:
        messages: list[dict[str, Any]] = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if message["role"] in message_format.part_roles
            else dict(message)
            for message in (chat if message_format.system_role else system_as_user(chat))
        ]
        try:
            return render(
                self._template,
                messages,
                add_generation_prompt=self._opens_answer
                if add_generation_prompt is None
                else add_generation_prompt,
                **{**self._arguments, **self._tokenizer.special_tokens_map},
            )
        except TemplateSyntaxError as error:
            raise invalid_template(str(error)) from None


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each of its texts changed."""
    match value:
        case str():
            return change(value)
        case Mapping():
            return {key: _each_text(one, change) for key, one in value.items()}
        case list():
            return [_each_text(one, change) for one in value]
    return value


def _probe(roles: Sequence[str], trusted: str | None = None) -> Chat:
    """A conversation whose messages are unique words, after the trusted system prompt."""
    return [
        {"role": role, "content": f"{trusted or ''} word{i}probe" if role == "system" else f"word{i}probe"}
        for i, role in enumerate(roles)
    ]


def _first_missing(chat: Chat, text: str) -> dict[str, str] | None:
    """The first message whose words are not in the text, in order; None if all are."""
    whole, place = text, 0
    folded: str | None = None
    for message in chat:
        content = message["content"]
        content = encodable(unmark(content) if MARK in content else content).strip()
        if (found := whole.find(content, place)) >= 0:
            place = found + len(content)
        elif content not in whole:
            folded = text.casefold() if folded is None else folded
            words = _WORD.findall(_required_words(message["role"], content).casefold())
            if not _contains_in_order(words, folded):
                return message
    return None


def _required_words(role: str, content: str) -> str:
    """What a template has to write of a message: of an answer its last line, since it may drop reasoning."""
    if role != "assistant":
        return content
    return "".join(_END_OF_REASONING.split(content)[-1].strip().splitlines()[-1:])


def _contains_in_order(words: Sequence[str], text: str) -> bool:
    place = 0
    for word in words:
        found = text.find(word, place)
        if found < 0:
            return False
        place = found + len(word)
    return True


def _check_complete(chat: Chat, text: str) -> None:
    if missing := _first_missing(chat, text):
        raise _missing_error(missing)


def _missing_error(message: dict[str, str]) -> PromptError:
    return PromptError(
        f"the model's chat template leaves out what the {message['role']} says: set chat_template to one "
        "that writes every message"
    )


def _refusal_error(error: Exception, template: str) -> PromptError:
    logger.debug("the chat template failed", exc_info=error)
    reason = _public_reason(error, template)
    return PromptError(f"the model's chat template refuses this conversation: {reason}")


def _public_reason(error: Exception, template: str) -> str:
    """An error text that is part of the template; any other may quote the conversation, and is not shown."""
    words = str(error)
    return words if words and words in template else f"{type(error).__name__}, see the log at DEBUG"


def merge_same_role(chat: Chat) -> Chat:
    """Joins neighbouring messages of the same role, since many templates insist that roles alternate."""
    joined: Chat = []
    for message in chat:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def system_as_user(chat: Chat) -> Chat:
    """Turns system messages into user messages, and joins them to neighbouring ones."""
    return merge_same_role(
        [{**message, "role": "user"} if message["role"] == "system" else message for message in chat]
    )
