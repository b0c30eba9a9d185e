"""A chat template is its author's code: it runs in transformers' sandbox, within bounds of time and of size.

What a template can go on with for ever (loops, macros) counts its turns; what can make much of little
(joining, repeating, filling up) is measured before it is made.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

from engine.errors import PromptError

# Seconds that a conversation may take: a thousand messages take some milliseconds.
SECONDS = 5.0
# Characters of a text that a template makes, and of all its long texts together.
SIZE, TOTAL = 2**26, 2**28
_LONG = 2**16
# Bits of a whole number.
_BITS = 2**12
# What a number or a text that is handed to these may make of another.
_FILLING = frozenset(
    "batch center expandtabs indent ljust rjust slice tojson translate wordwrap zfill".split()  # noqa: SIM905
)
_WRITING = frozenset(["list", "string", "pprint", "sum", "upper", "encode", "map"])
_MAKING = _FILLING | _WRITING | {"replace", "join", "format", "format_map"}
_WIDE = re.compile(r"\d{6}|\*|\{[^}]*\{")


class TooMuch(PromptError):
    """A template that takes too long or makes too much."""

    def __init__(self) -> None:
        super().__init__(
            f"the model's chat template takes more than {SECONDS:.0f} seconds or makes more than "
            f"{SIZE // 2**20} million characters of this conversation: set chat_template to another"
        )


def render(template: str, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """What a template writes, as `apply_chat_template` gives it.

    Args:
        values: what the template knows beside `messages`.

    Raises:
        TooMuch: it is stopped.
        Exception: whatever its code raises.
    """
    compiled = _compiled(template)
    environment = cast(_Bounded, compiled.environment)
    environment.run.start()
    return compiled.render(messages=messages, tools=None, documents=None, **values)


@lru_cache(64)
def _compiled(template: str) -> Template:
    environment = _Bounded(_compile_jinja_template("").environment)
    tree = environment.parse(template)
    blocks: Any = (nodes.For, nodes.Macro, nodes.CallBlock)
    for block in list(tree.find_all(blocks)):
        constant = sum(len(data.data) for data in block.find_all(nodes.TemplateData))
        block.body.insert(0, nodes.ExprStmt(_filter(nodes.Const(constant), "_turn")))
    for joined in list(tree.find_all(nodes.Concat)):
        joined.nodes = [_filter(nodes.List(joined.nodes), "_joined")]
    for output in list(tree.find_all(nodes.Output)):
        output.nodes = [
            node if isinstance(node, nodes.TemplateData) else _filter(node, "_shown") for node in output.nodes
        ]
    return environment.from_string(tree)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


class _Run(threading.local):
    """What one rendering has taken so far."""

    def start(self) -> None:
        self.end = time.monotonic() + SECONDS
        self.made = 0

    def takes(self, size: float = 0) -> None:
        """Notes that so many characters are to be made, at most.

        Raises:
            TooMuch: there is no time or no room for them.
        """
        self.made += int(min(size, TOTAL)) if size > _LONG else 0
        if size > SIZE or self.made > TOTAL or time.monotonic() > self.end:
            raise TooMuch


class _Bounded(ImmutableSandboxedEnvironment):
    """transformers' environment, measured."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, theirs: Any) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[type(one) for one in theirs.extensions.values()],
            optimized=False,  # Else what is constant is computed while it is compiled, unmeasured.
        )
        self.run = _Run()
        self.filters = dict(theirs.filters)
        self.filters |= {
            name: self._measured(name, self.filters[name]) for name in _MAKING & set(self.filters)
        }
        self.globals.update(theirs.globals)
        del self.globals["lipsum"]  # Which no template needs, and which makes any amount of text.
        run = self.run

        @pass_context  # Else it would be computed once, when the template is compiled.
        def turn(context: Context, constant: int) -> None:
            run.made += constant
            run.takes()

        @pass_context
        def joined(context: Context, values: list[Any]) -> str:
            run.takes(_weight(values))
            return "".join(map(str, values))

        @pass_context
        def shown(context: Context, value: Any) -> Any:
            size = len(value) if isinstance(value, str) else _weight(value)
            run.made += size
            if run.made > TOTAL or size > _LONG:
                run.takes(size)
            return value

        self.filters |= {"_turn": turn, "_joined": joined, "_shown": shown}

    def _measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def measured(*values: Any, **named: Any) -> Any:
            self.run.takes(_made(name, values, named))
            return function(*values, **named)

        return measured

    def call(__self, __context: Context, __obj: Any, *values: Any, **named: Any) -> Any:
        # The sandbox wraps a text's `format`.
        name = getattr(__obj, "__name__", "")
        if name in _MAKING:
            subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
            __self.run.takes(_made(name, (subject, *values), named))
        return super().call(__context, __obj, *values, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        # Nearly all there is to combine: it costs what a template costs anyway.
        if operator == "+" and isinstance(left, str) and isinstance(right, str) and len(left) < _LONG:
            return left + right
        self.run.takes(_combined(operator, left, right))
        return super().call_binop(context, operator, left, right)


def _combined(operator: str, left: Any, right: Any) -> float:
    """The size of what an operator makes, at most."""
    numbers = [value for value in (left, right) if isinstance(value, int)]
    if len(numbers) == 2:
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return math.inf if bits > _BITS else 0
    if operator == "*" and numbers:
        return max(numbers[0], 1) * (_weight(left) + _weight(right))
    if operator == "%" and isinstance(left, str):
        return math.inf if _WIDE.search(left) else len(left) + _weight(right)
    return _weight(left) + _weight(right)


def _made(name: str, values: Sequence[Any], named: Mapping[str, Any]) -> float:
    """The size of what a method or a filter makes of such values, at most."""
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
            return _weight(given) + max(map(len, texts), default=0) * count
        case "format" | "format_map":
            return math.inf if any(map(_WIDE.search, texts[:1])) else _weight(given)
        case _ if name in _FILLING:
            return math.prod(
                1 + (abs(value) if isinstance(value, int) else _weight(value)) for value in given
            )
    return _weight(given)


def _weight(value: Any, limit: int = SIZE) -> int:
    """How many characters a value has when it is written, about; no more than just beyond a limit."""
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
        size += _weight(part, limit)
    return size
