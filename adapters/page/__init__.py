"""The chat page: a conversation with a model in the browser, by Gradio. It needs the extra `page`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter
    from adapters.page.html import Meaning


def launch(
    adapter: HuggingAdapter,
    *,
    second: HuggingAdapter | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_to_all: bool = False,
    meaning: Meaning | None = None,
    on_ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serves the chat page until it is interrupted.

    Args:
        adapter: a loaded model.
        second: another loaded model, beside it.
        host: the address to listen on.
        port: the port to listen on.
        open_to_all: allows an address that other machines reach: the page has no login.
        meaning: describes a confidence in words.
        on_ready: takes the URL of the page when it is served.

    Raises:
        ConfigurationError: Gradio is missing, the address is open to other machines or taken, or the models
            cannot be used here.
    """
    check_host(host, open_to_all)
    app = start(adapter, second=second, host=host, port=port, meaning=meaning)
    on_ready(app.local_url)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    app.close(verbose=False)


def start(
    adapter: HuggingAdapter,
    *,
    second: HuggingAdapter | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    meaning: Meaning | None = None,
) -> Any:
    """Serves the chat page in threads of this process; the arguments are those of `launch`.

    Returns:
        Gradio's `Blocks`, with `local_url` and `close()`.

    Raises:
        ConfigurationError: Gradio is missing, the port is taken, or the models cannot be used here.
    """
    from adapters.hugging import HuggingAdapter

    try:
        from adapters.page.app import Page, serve
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the chat page needs Gradio ({error}): pip install 'gradio>=6'") from None
    models = [adapter] if second is None else [adapter, second]
    for model in models:
        if not isinstance(model, HuggingAdapter):
            raise ConfigurationError(
                f"{type(model)} has only predict, no stream: it must subclass adapters.hugging.HuggingAdapter"
            )
    if second is not None and second.name == adapter.name:
        raise ConfigurationError(f"both models are {second.name}: give two different ones")
    return serve(Page(models, meaning).app, host, port)


def check_host(host: str, open_to_all: bool) -> None:
    """Refuses an address that other machines reach, unless that is allowed.

    Raises:
        ConfigurationError: the address is not this machine's alone.
    """
    from adapters.server import is_loopback

    if not open_to_all and not is_loopback(host):
        raise ConfigurationError(
            f"{host} is reached from other machines, and the page has no login: allow that (--open-to-all)"
        )
