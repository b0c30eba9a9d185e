"""Images of prompts for a server: those that are items of the platform, which a server cannot read.

Other images are links that the server itself fetches, or have their bytes in the item.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace

from adapters.items import fetching
from adapters.items.item import Item
from adapters.items.stored import get_path, is_link, size_of, text_at
from adapters.platform import remote
from adapters.platform.errors import RemoteError
from engine.errors import AdapterError, PromptError
from engine.types import Dialogue, Image, Message, Part

# Bytes of one image at most: servers take no more.
MAX_BYTES = 20 * 2**20


def embed(item: Item, hosts: Sequence[str]) -> None:
    """Puts the bytes of the platform's images into an item's dialogues, as data URLs.

    A dialogue with an image that cannot be read becomes unreadable; the others are asked.

    Args:
        hosts: hosts that a link item may point to.
    """
    found: dict[str, Image] = {}
    readable: list[Dialogue] = []
    unreadable = dict(item.unreadable)
    for dialogue in item.dialogues:
        try:
            for url in _urls(dialogue):
                if url not in found and (item_id := remote.item_of(url)):
                    found[url] = Image(_data_url(item_id, hosts))
            readable.append(_with(dialogue, found))
        except AdapterError as error:
            unreadable[dialogue.key] = PromptError(f"its image cannot be read: {error}")
    if found or len(readable) < len(item.dialogues):
        item.dialogues, item.unreadable = readable, unreadable


def _urls(dialogue: Dialogue) -> Iterator[str]:
    turns = (message for turn in dialogue.turns for message in turn.messages)
    for message in (*dialogue.history, *turns):
        yield from (part.url for part in message.parts if isinstance(part, Image))


def _with(dialogue: Dialogue, found: dict[str, Image]) -> Dialogue:
    """The dialogue with other images, by the URL of those that they replace."""

    def of_part(part: Part) -> Part:
        return found.get(part.url, part) if isinstance(part, Image) else part

    def of_messages(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(replace(one, parts=tuple(map(of_part, one.parts))) for one in messages)

    turns = tuple(replace(turn, messages=of_messages(turn.messages)) for turn in dialogue.turns)
    return replace(dialogue, history=of_messages(dialogue.history), turns=turns)


def _data_url(item_id: str, hosts: Sequence[str]) -> str:
    """An image item's bytes as a URL.

    Raises:
        PromptError: no image, one that is too large, or a link that may not be followed.
        RemoteError: it could not be downloaded.
    """
    try:
        known = remote.record(item_id)
    except RemoteError as error:
        raise PromptError(f"item {item_id}: {error}") from None
    kind = text_at(known, "metadata", "system", "mimetype") or ""
    size = size_of(known)
    if size > MAX_BYTES:
        raise PromptError(f"item {item_id} has {size >> 20} MB, an image has at most {MAX_BYTES >> 20}")
    if is_link(known):
        address = str(get_path(known, "metadata", "system", "shebang", "linkInfo", "ref"))
        kind = text_at(known, "metadata", "system", "shebang", "linkInfo", "mimetype") or kind
        content = fetching.fetch(address, hosts, MAX_BYTES)
    else:
        content = remote.sized_content(item_id, size)
    if not kind.startswith("image/"):
        raise PromptError(f"item {item_id} is not an image, but {kind or 'of an unknown type'}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
