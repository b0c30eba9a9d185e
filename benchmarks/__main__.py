"""`python -m benchmarks`: runs every benchmark and writes benchmarks/results/."""

import json
from pathlib import Path

from tabulate import tabulate

from benchmarks import generation

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Runs, prints a table and writes the figures as JSON."""
    figures = generation.run()
    print(tabulate(figures.items(), ["figure", "value"], tablefmt="simple_outline", floatfmt=".2f"))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "generation.json").write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
