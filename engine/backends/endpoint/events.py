"""Server-sent events, in all the forms that their standard has → the JSON of each."""

import codecs
import io
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

_END = object()


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The JSON of each event, up to the one that says that all is said.

    A body that is no event stream but JSON (a server that does not stream, or an error) is the only event. An
    event that is cut off is left out.

    Raises:
        ValueError: an event without JSON.
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
            # Its end, a blank line, may be late or left out.
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
    """The JSON of a text, or what stands for the end; None where there is more to come."""
    if text.strip() == "[DONE]":
        return _END
    with suppress(ValueError):
        return json.loads(text)
    return None


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    # Other characters than these three ends of a line (U+2028) may be within a text.
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
