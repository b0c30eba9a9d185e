"""Figures → JSON documents, a table, and the measured part of docs/performance.md."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.machine import Machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
MARKERS = ("<!-- measured: written by make bench -->", "<!-- end of measured -->")

Document = dict[str, Any]

# What each figure is compared with, and the floor (or ceiling) that it has to keep.
GOALS = {
    "generation.L.vs_loop": ("the one-at-a-time loop with its extra forward pass", "≥ 9"),
    "generation.L.vs_generate": ("batched `generate`, turn by turn", "≥ 1.6"),
    "generation.L.vs_continuous_batching": (
        "transformers' continuous batching with log-probabilities",
        "≥ 1.5",
    ),
    "generation.S.vs_loop": ("the one-at-a-time loop", "≥ 5"),
    "generation.S.vs_best": ("the better of batched `generate` and continuous batching", "≥ 1.5"),
    "generation.L.share_of_limit": ("the machine's limit at the mean number of rows", "≥ 0.20"),
    "generation.L.engine.load_seconds": ("until the engine may answer, in seconds; imports left out", "≤ 5"),
    "generation.extra_memory_mb": ("over weights and live keys and values, 32 rows", "≤ 150"),
    "generation.cost_growth": ("cost per answer, 1,024 answers over 64", "≤ 1.1"),
    "scoring.vs_pairs": ("one forward pass per pair of prompt and candidate", "≥ 9"),
    "scoring.vs_hflm": ("lm-evaluation-harness' HFLM `loglikelihood`", "≥ 3"),
    "embedding.vs_sentence_transformers": ("sentence-transformers' `encode`", "≥ 1.6"),
    "confidence.mean_entropy.over_generation": ("generation with the default confidence", "≤ 1.02"),
    "confidence.margin.over_generation": ("generation with the default confidence", "≤ 1.02"),
    "confidence.top_k_mass.over_generation": ("generation with the default confidence", "≤ 1.02"),
    "confidence.self_consistency.over_one_answer": ("one answer without samples; eight samples", "≤ 4.5"),
    "adapter.overhead": ("the ModelAdapter's own time over the engine's, 64 items", "≤ 0.03"),
    "platform.vs_sdk": ("the SDK's own `predict_items` at 100 ms a request", "≥ 3"),
    "platform.over_engine": (
        "the engine's own time for the same prompts; the first download and the last upload left out",
        "≤ 1.15",
    ),
    "server.vs_transformers_serve": ("`transformers serve --continuous-batching`, 32 clients", "≥ 1.5"),
    "server.share_of_engine": ("the engine called directly, 32 requests at a time", "≥ 0.92"),
    "server.first_token_p99": ("the p99 of `transformers serve`, 32 clients", "< 1"),
    "platform.over_engine_beside": (
        "the same, while another process runs over a second local platform",
        "≤ 1.15",
    ),
}

# The same of contenders that are left out where no variable names their interpreter.
GUEST_GOALS = {
    "generation.L.vs_vllm_eager": ("vLLM without compilation", "≥ 0.9"),
    "generation.L.vs_vllm_compiled": ("vLLM compiled", "≥ 0.75"),
    "generation.S.vs_vllm_compiled": ("vLLM compiled", "≥ 1.0"),
    "generation.L.vs_openvino": (
        "OpenVINO GenAI; ≥ 0.7 on a CPU with AVX-512",
        "≥ 0.8",
    ),
    "server.vs_vllm": ("vLLM's server, compiled, 32 clients", "≥ 1"),
    "generation.L.vllm_backend.overhead": ("`backend: vllm` over vLLM's own offline run", "≤ 0.10"),
}

MACHINE = ["benchmark", "machine", "instructions", "torch", "GB/s", "TFLOP/s float32", "bfloat16"]
# What is shown of each contender of generation.
COLUMNS = {
    "tokens_per_second": "tokens/s",
    "engine_over_it": "engine over it",
    "load_seconds": "loads in, s",
    "rows": "rows",
    "limit": "limit, tokens/s",
    "share_of_limit": "share of it",
    "share_of_mixed_limit": "of the mixed one",
}


def document(name: str, figures: dict[str, float], here: Machine, quick: bool) -> Document:
    """What is kept of one benchmark."""
    return {"benchmark": name, "quick": quick, "figures": figures, "machine": asdict(here)}


def merged(documents: list[Document]) -> Document:
    """One document of several benchmarks of one run."""
    return {
        "figures": {name: value for document in documents for name, value in document["figures"].items()},
        "benchmarks": [document["benchmark"] for document in documents],
        "quick": documents[0]["quick"],
        "machine": documents[0]["machine"],
    }


def table(documents: list[Document]) -> str:
    """All figures, for a terminal."""
    rows = [(name, _number(value)) for name, value in merged(documents)["figures"].items()]
    return tabulate(rows, ["figure", "value"], tablefmt="simple_outline", disable_numparse=True)


def keep(document: Document) -> None:
    """Writes results/<benchmark>.json and, from all that is there, the page's measured part."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{document['benchmark']}.json").write_text(json.dumps(document, indent=2) + "\n")
    documents = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    PAGE.write_text(with_measured(PAGE.read_text(), documents))


def with_measured(page: str, documents: list[Document]) -> str:
    """The page with what stands between its markers replaced by the documents' tables."""
    before, rest = page.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    return "\n".join([before + MARKERS[0], "", *_measured(documents), "", MARKERS[1] + after])


def _measured(documents: list[Document]) -> list[str]:
    """Lines of Markdown: the machine, the goals, the contenders' speeds and shares."""
    figures = {name: value for document in documents for name, value in document["figures"].items()}
    goals = [
        (f"`{name}`", peer, goal, _number(figures[name]))
        for name, (peer, goal) in (GOALS | GUEST_GOALS).items()
        if name in figures
    ]
    shown = [
        name.removesuffix(".tokens_per_second")
        for name in figures
        if name.startswith("generation.") and name.endswith(".tokens_per_second")
    ]
    grown = [
        (
            f"`{name.removesuffix('.exponent')}`",
            ", ".join(f"{length:,}: {seconds:.3g} s" for length, seconds in _lengths(name, figures)),
            f"{exponent:.2f}",
        )
        for name, exponent in figures.items()
        if name.endswith(".exponent")
    ]
    others = [
        (f"`{name}`", _number(value))
        for name, value in figures.items()
        if name not in GOALS | GUEST_GOALS
        and not name.startswith((*(f"{contender}." for contender in shown), "growth."))
        and not re.match(r"generation\.\w+\.vs_", name)
    ]
    return [
        _markdown([_machine(document) for document in documents], MACHINE),
        "",
        _markdown(goals, ["figure", "beside", "goal", "measured"]),
        "",
        "Generation, each contender at its own mean number of rows:",
        "",
        _markdown([_contender(name, figures) for name in shown], ["model", "contender", *COLUMNS.values()]),
        "",
        "Growth, processor time at each length; an exponent of at most 1.25 is the goal:",
        "",
        _markdown(grown, ["what", "lengths", "exponent"]),
        "",
        "All else that was measured:",
        "",
        _markdown(others, ["figure", "value"]),
    ]


def _machine(document: Document) -> tuple[str, ...]:
    """What a benchmark ran on: not all of them are run on one machine."""
    here = Machine(**document["machine"])
    return (
        document["benchmark"],
        f"{here.cpu}, {here.cores} cores, {here.memory_gb:.0f} GB",
        ", ".join(here.instructions),
        here.torch,
        f"{here.bandwidth / 1e9:.1f}",
        *(f"{here.matmul[dtype] / 1e12:.2f}" for dtype in ("float32", "bfloat16")),
    )


def _contender(prefix: str, figures: dict[str, float]) -> tuple[str, ...]:
    """A row of the contenders' table; of those in other processes the steps are not counted."""
    _, model, name = prefix.split(".")
    own = {column: figures.get(f"{prefix}.{column}") for column in COLUMNS}
    own["engine_over_it"] = figures.get(f"generation.{model}.vs_{name}")
    return model, name, *("" if value is None else _number(value) for value in own.values())


def _lengths(exponent: str, figures: dict[str, float]) -> list[tuple[int, float]]:
    """The lengths at which an exponent was measured, with their seconds."""
    prefix = exponent.replace(".exponent", ".seconds_")
    return [
        (int(name.removeprefix(prefix)), value) for name, value in figures.items() if name.startswith(prefix)
    ]


def _markdown(rows: list[tuple[str, ...]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
