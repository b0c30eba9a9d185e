"""The chat page: a conversation with a model in the browser, by Gradio. It needs the extra `page`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter


def launch(
    adapter: HuggingAdapter,
    *,
    second: HuggingAdapter | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_to_all: bool = False,
    on_ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serves the chat page until it is interrupted.

    Args:
        adapter: a loaded model.
        second: another loaded model, beside it.
        host: the address to listen on.
        port: the port to listen on.
        open_to_all: allows an address that other machines reach: the page has no login.
        on_ready: takes the URL of the page when it is served.

    Raises:
        ConfigurationError: Gradio is missing, the address is open to other machines or taken, or the models
            cannot be used here.
    """
    check_host(host, open_to_all)
    app = start(adapter, second=second, host=host, port=port)
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
    return serve(Page(_by_name(models)).app, host, port)


def _by_name(models: Sequence[HuggingAdapter]) -> dict[str, HuggingAdapter]:
    """Models by their names; by those of their weights where one model file has loaded several.

    Raises:
        ConfigurationError: two are the same.
    """
    named = {model.name: model for model in models}
    if len(named) < len(models):
        named = {model.weights_name: model for model in models}
    if len(named) < len(models):
        raise ConfigurationError(f"both models are {next(iter(named))}: give two different ones")
    return named


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
