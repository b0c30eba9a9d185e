"""Parses server-sent events, in all forms of the standard, into the JSON of each."""

import codecs
import io
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

_END = object()


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The JSON of each event before "[DONE]".

    A body that is plain JSON (a server that does not stream, or an error) is one event. An event that is cut
    off at the end is dropped.

    Raises:
        ValueError: an event that is not JSON.
    """
    data: list[str] = []
    plain: bool | None = None  # Whether the body is JSON itself; None before its first line.
    async for line in _lines(parts):
        if plain is None and line.strip():
            plain = line.lstrip().startswith("{")
        name, _, value = line.partition(":")
        if plain:
            data.append(line)
        elif name == "data" and value.strip():
            data.append(value.removeprefix(" "))
            # The blank line that ends it may be late or missing.
            if len(data) == 1 and (found := _whole(value)) is not None:
                if found is _END:
                    return
                yield found
                data.clear()
        elif not line and data:
            yield json.loads("\n".join(data))
            data.clear()
    if (found := _whole("\n".join(data))) is not None:
        yield found


def _whole(text: str) -> Any:
    """The JSON of a text, or `_END` for "[DONE]"; None if it is incomplete."""
    if text.strip() == "[DONE]":
        return _END
    with suppress(ValueError):
        return json.loads(text)
    return None


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    # Only \n, \r and \r\n end a line: other separators (U+2028) may be part of a text.
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8-sig")("replace"), translate=True
    )
    held: list[str] = []
    async for part in parts:
        *ended, rest = decoder.decode(part).split("\n")
        for line in ended:
            yield "".join([*held, line])
            held.clear()
        held.append(rest)
    for line in ("".join(held) + decoder.decode(b"", final=True)).split("\n"):
        yield line
