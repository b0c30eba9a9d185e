"""The chat page: one model in the browser, or two side by side."""

from __future__ import annotations

from collections.abc import Sequence

from adapters import page
from adapters.cli.options import loaded
from adapters.cli.output import say


def chat_page(
    models: Sequence[str], settings: Sequence[str] | None, *, host: str, port: int, open_to_all: bool
) -> None:
    """Loads one model or two by their names, and serves the page until it is interrupted.

    Raises:
        AdapterError: a model that cannot be loaded, or a page that cannot be served.
    """
    page.check_host(host, open_to_all)  # Before the models are loaded, which may take minutes.
    first, *others = [loaded(name, settings) for name in models]
    page.launch(
        first,
        second=others[0] if others else None,
        host=host,
        port=port,
        open_to_all=open_to_all,
        on_ready=lambda url: say(f"The page is at {url} (Ctrl-C ends it)"),
    )
