"""`python -m benchmarks [NAME] [--quick] [--json]`; the names are in `NAMES`."""

import argparse
import importlib
import json
import os
import sys
import tempfile

NAMES = ("generation", "scoring", "embedding", "confidence", "adapter", "platform", "growth", "server", "ray")


def main(words: list[str] | None = None) -> None:
    """Runs one benchmark or all, prints the figures, and (in full only) keeps them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed beside its peers, and growth."
    )
    parser.add_argument("name", nargs="?", choices=NAMES, help="one of them; all by default")
    parser.add_argument("--quick", action="store_true", help="under 50 seconds: smaller, rougher, not kept")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        # Read at import: nothing is downloaded, and the user's own settings are left alone.
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": folder, "DATALOOP_PATH": folder}
        # On a busy machine threads that spin while they wait double a contender's time, but for those of
        # continuous batching, whose second pool makes OpenMP spin less: all of them are to spin little.
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        run([arguments.name] if arguments.name else list(NAMES), arguments.quick, arguments.json)


def run(names: list[str], quick: bool, as_json: bool) -> None:
    """Runs benchmarks by name and reports them."""
    from transformers.utils import logging

    from benchmarks import machine, report

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    here = machine.measure()
    documents = []
    for name in names:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        whole = benchmark.FULL if here.has_bfloat16 else benchmark.EMULATED
        figures = benchmark.run(benchmark.QUICK if quick else whole, here)
        documents.append(report.document(name, figures, here, quick))
        if not quick:
            report.keep(documents[-1])
    if as_json:
        print(json.dumps(report.merged(documents)))
    else:
        print(report.table(documents))


if __name__ == "__main__":
    main()
