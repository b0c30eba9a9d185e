"""Plain items: a text, a row of a table or a JSON object becomes a prompt item by a template. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from adapters.items.prompt_items import question_item
from adapters.items.traces import is_trace
from engine.errors import ConfigurationError, PromptError
from engine.prompting import fields

TEXT, LABELS = "text", "labels"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Makes a question of what a plain item holds.

    Attributes:
        template: as `engine.prompting.fields` has it.
        labels: what stands for `{labels}`; empty for none.
    """

    template: str
    labels: Sequence[str] = ()

    @classmethod
    def of(cls, template: Any, labels: Any) -> Self | None:
        """From the options of a model; None without a template.

        Raises:
            ConfigurationError: one of them is of another type, or the template has an invalid field.
        """
        if template is None:
            return None
        if not isinstance(template, str):
            raise ConfigurationError(f"option 'prompt_template': it is {template!r}: give a text")
        try:
            fields.parsed(template)
        except ValueError as error:
            raise ConfigurationError(f"option 'prompt_template': {error}") from None
        known = isinstance(labels, list | tuple) and all(isinstance(label, str) for label in labels)
        return cls(template, tuple(labels) if known else ())

    def item(self, content: str | Mapping[str, Any]) -> dict[str, Any]:
        """The prompt item of a text or of an object; an object that is a prompt item or a trace stays.

        Raises:
            PromptError: a field of the template is missing, or all of them are empty; they are named.
        """
        found = {TEXT: content} if isinstance(content, str) else content
        return dict(found) if is_conversation(found) else question_item(self._question(found))

    def item_of_file(self, content: bytes) -> dict[str, Any]:
        """As `item`, for a file: `{text}` is all of it, and the keys of a JSON object are fields, too.

        Raises:
            PromptError: as `item`; or the file is no UTF-8 text.
        """
        return self.item(_fields(content))

    def question_of_file(self, content: bytes) -> str | None:
        """The question of a file; None if it is a prompt item or a trace.

        Raises:
            PromptError: as `item_of_file`.
        """
        found = _fields(content)
        return None if is_conversation(found) else self._question(found)

    def _question(self, content: Mapping[Any, Any]) -> str:
        known = {name: _text(value) for name, value in content.items() if value is not None}
        if self.labels:
            known[LABELS] = ", ".join(self.labels)
        wanted = fields.names(self.template)
        if missing := [name for name in wanted if name not in known]:
            raise PromptError(_said(missing, [str(name) for name in content if name in known]))
        if not any(known[name].strip() for name in wanted if name != LABELS):
            raise PromptError("it has no text")
        return fields.filled(self.template, known)


def _fields(content: bytes) -> Mapping[str, Any]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError(
            "its content is no UTF-8 text: answer text items and prompt items, and filter the others out"
        ) from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, Mapping):
        return found if is_conversation(found) else {TEXT: text, **found}
    return {TEXT: text}


def is_conversation(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a prompt item or a trace, which need no template."""
    return not isinstance(content.get("prompts", ""), str) or is_trace(content)


def _said(missing: Sequence[str], names: Sequence[str]) -> str:
    what = " and no ".join(f"{{{name}}}" for name in missing)
    if list(missing) == [LABELS]:
        return f"prompt_template has {what}: set the option labels"
    return f"it has no {what} of prompt_template: it has {', '.join(names[:20]) or 'nothing'}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
