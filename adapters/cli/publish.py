"""`publish`: publishes the app to a Dataloop project, as creation.py does."""

from __future__ import annotations

import typer

HANDED_ON = True


def publish(context: typer.Context) -> int:
    """Publish the app to a Dataloop project. Its options are those of creation.py (--help lists them)."""
    import creation

    return int(creation.main(context.args, prog="python -m adapters publish"))
