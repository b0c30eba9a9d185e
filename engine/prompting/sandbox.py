"""Renders chat templates, which are untrusted code, in transformers' Jinja sandbox, with limits.

Loops and macros check the limits at each turn. Operations that can make long texts from short ones (joining,
repeating, padding) are charged with the size of their result before they run.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import TemplateSyntaxError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

from engine.errors import PromptError
from engine.prompting.templates import find_template, invalid_template

# Seconds for one conversation; a thousand messages take milliseconds.
TIME_LIMIT = 5.0
# Characters of one text that a template makes, and of all its long texts together.
TEXT_LIMIT, TOTAL_LIMIT = 2**26, 2**28
_LONG_TEXT = 2**16
# Bits of an integer.
_MAX_BITS = 2**12
# Filters and methods whose result can be as large as the product of their arguments, or as large as these.
_MULTIPLYING = frozenset(
    "batch center expandtabs indent ljust rjust slice tojson translate wordwrap zfill".split()  # noqa: SIM905
)
_COPYING = frozenset(["list", "string", "pprint", "sum", "upper", "encode", "map"])
_MEASURED = _MULTIPLYING | _COPYING | {"replace", "join", "format", "format_map"}
_WIDE_FORMAT = re.compile(r"\d{6}|\*|\{[^}]*\{")


class TemplateLimitExceeded(PromptError):
    """A chat template takes too long or makes too much text."""

    def __init__(self) -> None:
        super().__init__(
            f"the model's chat template takes more than {TIME_LIMIT:.0f} seconds or makes more than "
            f"{TEXT_LIMIT // 2**20} million characters of this conversation: set chat_template to another"
        )


def render(template: str, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """Renders a chat template as `apply_chat_template` does, within the limits.

    Args:
        template: Jinja source.
        values: further variables of the template, besides `messages`.

    Raises:
        TemplateLimitExceeded: a limit is exceeded.
        Exception: whatever the template's code raises.
    """
    compiled = _compiled(template)
    environment = cast(_BoundedEnvironment, compiled.environment)
    environment.usage.start()
    return compiled.render(messages=messages, tools=None, documents=None, **values)


def check(template: str) -> None:
    """Checks that the option `chat_template` is a built-in name, or valid Jinja.

    Raises:
        ConfigurationError: it is not; the text says where.
    """
    try:
        _compiled(find_template(template).text)
    except TemplateSyntaxError as error:
        raise invalid_template(str(error)) from None


@lru_cache(64)
def _compiled(template: str) -> Template:
    environment = _BoundedEnvironment(_compile_jinja_template("").environment)
    tree = environment.parse(template)
    blocks: Any = (nodes.For, nodes.Macro, nodes.CallBlock)
    for block in list(tree.find_all(blocks)):
        constant = sum(len(data.data) for data in block.find_all(nodes.TemplateData))
        block.body.insert(0, nodes.ExprStmt(_filter(nodes.Const(constant), "_charge_turn")))
    for joined in list(tree.find_all(nodes.Concat)):
        joined.nodes = [_filter(nodes.List(joined.nodes), "_charge_concat")]
    for output in list(tree.find_all(nodes.Output)):
        output.nodes = [
            node if isinstance(node, nodes.TemplateData) else _filter(node, "_charge_output")
            for node in output.nodes
        ]
    return environment.from_string(tree)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


class _Usage(threading.local):
    """What one rendering has used so far, by thread."""

    def start(self) -> None:
        self.end = time.monotonic() + TIME_LIMIT
        self.made = 0

    def charge(self, size: float = 0) -> None:
        """Charges a text before it is made.

        Args:
            size: the most characters that it can have.

        Raises:
            TemplateLimitExceeded: the time, or the characters of this text or of all texts, are used up.
        """
        self.made += int(min(size, TOTAL_LIMIT)) if size > _LONG_TEXT else 0
        if size > TEXT_LIMIT or self.made > TOTAL_LIMIT or time.monotonic() > self.end:
            raise TemplateLimitExceeded


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' sandboxed environment, with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, theirs: Any) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[type(one) for one in theirs.extensions.values()],
            optimized=False,  # Otherwise constants are computed at compile time, unmeasured.
        )
        self.usage = _Usage()
        self.filters = dict(theirs.filters)
        self.filters |= {
            name: self._charged(name, self.filters[name]) for name in _MEASURED & set(self.filters)
        }
        self.globals.update(theirs.globals)
        del self.globals["lipsum"]  # It makes any amount of text, and no template needs it.
        usage = self.usage

        @pass_context  # Otherwise it would run once, at compile time.
        def turn(context: Context, constant: int) -> None:
            usage.made += constant
            usage.charge()

        @pass_context
        def joined(context: Context, values: list[Any]) -> str:
            usage.charge(_text_size(values))
            return "".join(map(str, values))

        @pass_context
        def shown(context: Context, value: Any) -> Any:
            size = len(value) if isinstance(value, str) else _text_size(value)
            usage.made += size
            if usage.made > TOTAL_LIMIT or size > _LONG_TEXT:
                usage.charge(size)
            return value

        self.filters |= {"_charge_turn": turn, "_charge_concat": joined, "_charge_output": shown}

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def measured(*values: Any, **named: Any) -> Any:
            self.usage.charge(_result_size(name, values, named))
            return function(*values, **named)

        return measured

    def call(__self, __context: Context, __obj: Any, *values: Any, **named: Any) -> Any:
        # The sandbox wraps `str.format`.
        name = getattr(__obj, "__name__", "")
        if name in _MEASURED:
            subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
            __self.usage.charge(_result_size(name, (subject, *values), named))
        return super().call(__context, __obj, *values, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        # The common case, kept fast; it costs no more than the template itself.
        if operator == "+" and isinstance(left, str) and isinstance(right, str) and len(left) < _LONG_TEXT:
            return left + right
        self.usage.charge(_operator_result_size(operator, left, right))
        return super().call_binop(context, operator, left, right)


def _operator_result_size(operator: str, left: Any, right: Any) -> float:
    """The most characters that an operator's result can have."""
    numbers = [value for value in (left, right) if isinstance(value, int)]
    if len(numbers) == 2:
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return math.inf if bits > _MAX_BITS else 0
    if operator == "*" and numbers:
        return max(numbers[0], 1) * (_text_size(left) + _text_size(right))
    if operator == "%" and isinstance(left, str):
        return math.inf if _WIDE_FORMAT.search(left) else len(left) + _text_size(right)
    return _text_size(left) + _text_size(right)


def _result_size(name: str, values: Sequence[Any], named: Mapping[str, Any]) -> float:
    """The most characters that the result of a method or filter can have."""
    given = [
        value for value in (*values, *named.values()) if isinstance(value, str | int | list | tuple | dict)
    ]
    texts = [value for value in given if isinstance(value, str)]
    match name:
        case "replace" if len(texts) >= 3:
            return len(texts[0]) + texts[0].count(texts[1]) * len(texts[2])
        case "join":
            count = max((len(value) for value in given if not isinstance(value, str | int)), default=0)
            count = count or min(map(len, texts), default=0)
            return _text_size(given) + max(map(len, texts), default=0) * count
        case "format" | "format_map":
            return math.inf if any(map(_WIDE_FORMAT.search, texts[:1])) else _text_size(given)
        case _ if name in _MULTIPLYING:
            return math.prod(
                1 + (abs(value) if isinstance(value, int) else _text_size(value)) for value in given
            )
    return _text_size(given)


def _text_size(value: Any, limit: int = TEXT_LIMIT) -> int:
    """About how many characters a value has as text; stops counting beyond a limit."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if not isinstance(value, list | tuple):
        return 0
    size = len(value)
    for part in value:
        if size > limit:
            break
        size += _text_size(part, limit)
    return size
