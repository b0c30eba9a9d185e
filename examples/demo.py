"""Runs the app on this machine: publishes it, uploads prompt items, and prints TinyTalk's answers to them.

`make demo` runs it. The platform is a local Dataloop server; the SDK, the HTTP between the two and the model
are real. All files are written to a temporary folder, which is removed at the end.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from adapters.cli.table import drawn, rows
from adapters.items.item import Item
from tests.gateway import Gateway

ITEMS = Path(__file__).parent / "items"
MODEL = "tiny-talk"


def main() -> None:
    """Runs the demonstration; raises whatever goes wrong."""
    argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="demo-") as folder, Gateway() as gateway:
        # The SDK reads where to keep its files when it is imported.
        os.environ.update(gateway.environment(Path(folder)) | {"HOME": folder})
        _play(gateway)


def _play(gateway: Gateway) -> None:
    with _step(f"a local Dataloop at {gateway.url}"):
        import dtlpy as dl

        logging.getLogger("dtlpy").setLevel(logging.ERROR)
        project = dl.projects.create(project_name="demo")
        dataset = project.datasets.create(dataset_name="prompts")
    with _step("creation.py publishes the app and installs it"):
        import creation

        creation.package_creation(project)
    with _step(f"the prompt items of {ITEMS.parent.name}/{ITEMS.name} are uploaded"):
        items = [
            dataset.items.upload(local_path=str(path), raise_on_error=True)
            for path in sorted(ITEMS.glob("*.json"))
        ]
    with _step(f"the model {MODEL} is deployed and predicts {len(items)} items"):
        service = project.models.get(model_name=MODEL).deploy()
        model = project.models.get(model_name=MODEL)
        execution = model.predict(item_ids=[item.id for item in items]).wait()
    if execution.latest_status["status"] != "success":
        sys.exit(f"The execution failed:\n{gateway.service_log(service.id)}")
    table = []
    for item in items:
        content = json.loads(item.download(save_locally=False).getvalue())
        annotations = [annotation.to_json() for annotation in item.annotations.list()]
        table += rows(item.name, Item.parse(content, model.name, item.name), annotations)
    print(drawn(table))


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    """Says what is being done, and how long it took; the SDK's own chatter is kept away from it."""
    print(f"… {what}", end="", flush=True)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    print(f" ({time.perf_counter() - started:.1f} s)")


if __name__ == "__main__":
    main()
