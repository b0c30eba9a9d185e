"""The benchmarks run, and what they compare gives the same answers. No test can hold a speed."""

import json
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import (
    adapter,
    confidence,
    embedding,
    generation,
    growth,
    machine,
    models,
    platform,
    report,
    scoring,
    server,
    workload,
)

# As if bfloat16 were emulated: everything runs in float32 too, and is compared there.
HERE = machine.Machine("a CPU", 2, 2, (), 24.0, torch.__version__, 1e10, {"float32": 2e11, "bfloat16": 1e11})
SMALL = {"num_hidden_layers": 2, "vocab_size": 2048}
SIZES = {
    generation: generation.Size(
        rounds=1,
        conversations=4,
        changes=SMALL,
        shorten=8,
        shorten_rest=8,
        fp32_sample=2,
        memory=SMALL,
        output_scores=False,
        answers=(4, 16),
        answer_tokens=3,
    ),
    scoring: scoring.Size(rounds=1, prompts=4, candidates=3, changes=SMALL, sample=2),
    embedding: embedding.Size(rounds=1, texts=8, changes=SMALL),
    confidence: confidence.Size(rounds=1, questions=3, alone=1, tokens=3, changes={"n_layer": 1}),
    adapter: adapter.Size(rounds=1, items=4, answer_tokens=4, changes=SMALL),
    platform: platform.Size(rounds=1, items=4, latency=0.0),
    growth: growth.Size(rounds=1, divide=50),
    server: server.Size(rounds=1, clients=(server.MANY,), requests=1, shorten=10, changes=SMALL),
}


@pytest.fixture(scope="module", autouse=True)
def roughly() -> Iterator[None]:
    """The machine is measured with small matrices: where bfloat16 is emulated, large ones take 25 seconds."""
    with mock.patch.object(machine, "measure", partial(machine.measure, matrix=64, numbers=2**16)):
        yield


@pytest.fixture(scope="module")
def documents(roughly: None) -> list[report.Document]:
    return [
        report.document(benchmark.__name__.split(".")[1], benchmark.run(size, HERE), HERE, quick=True)
        for benchmark, size in SIZES.items()
    ]


@pytest.mark.slow
def test_every_goal_has_a_figure(documents):
    figures = report.merged(documents)["figures"]
    assert set(report.GOALS) <= set(figures)
    assert all(math.isfinite(value) for value in figures.values()), figures
    assert all(
        value > 0
        for name, value in figures.items()
        if "memory" not in name and name != "adapter.overhead" and not name.endswith(".exponent")
    )


@pytest.mark.slow
def test_all_contenders_give_the_same_tokens_in_float32(documents):
    figures = report.merged(documents)["figures"]
    equal = {name: value for name, value in figures.items() if name.endswith(".equal") and ".L." not in name}
    assert len(equal) == 2 * 3
    assert set(equal.values()) == {1.0}


@pytest.mark.parametrize("power", [0, 1, 2.2])
def test_an_exponent_is_that_of_the_power_by_which_a_cost_grows(power: float):
    lengths = [50, 100, 400]
    assert growth.exponent(lengths, [3e-4 * n**power for n in lengths]) == pytest.approx(power)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["loop", "generate", "continuous_batching"])
def test_a_lead_is_the_quotient_of_two_speeds(documents, peer: str):
    figures = report.merged(documents)["figures"]
    ours, theirs = (figures[f"generation.L.{name}.tokens_per_second"] for name in ("engine", peer))
    assert figures[f"generation.L.vs_{peer}"] == pytest.approx(ours / theirs)


@pytest.mark.slow
def test_the_page_keeps_its_text_and_shows_every_goal(documents):
    page = report.PAGE.read_text(encoding="utf-8")
    written = report.with_measured(page, documents)
    before, after = (text.split(report.MARKERS[0])[0] for text in (page, written))
    assert after == before
    assert report.with_measured(written, documents) == written
    for name, (peer, goal) in report.GOALS.items():
        assert f"| `{name}`" in written
        assert peer in written
        assert goal in written
    for name in growth.cases():
        assert f"| `growth.{name}`" in written


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(adapter, "QUICK", SIZES[adapter])
    with mock.patch.dict(os.environ):  # The command changes it for the rest of its process.
        command.main(["adapter", "--quick"])
    assert "adapter.overhead" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "the user's home is left alone"


def test_json_is_the_last_thing_printed(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(adapter, "QUICK", SIZES[adapter])
    with mock.patch.dict(os.environ):  # The command changes it for the rest of its process.
        command.main(["adapter", "--quick", "--json"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["quick"]
    assert math.isfinite(document["figures"]["adapter.overhead"])
    assert document["machine"]["bandwidth"] > 0


@pytest.mark.parametrize(
    ("dtype", "flops", "rows", "expected"),
    [
        (torch.bfloat16, 1.9e12, 32, 2190),
        (torch.float32, 0.32e12, 32, 1100),
        (torch.bfloat16, 1.9e12, 1, 95),
        (torch.float32, 0.32e12, 1, 48),
    ],
)
def test_the_limit_is_the_one_known_of_another_machine(
    dtype: torch.dtype, flops: float, rows: int, expected: float
):
    work = machine.Work.of(models.CONFIGS["L"](), weights=134_515_008)
    known = machine.limit(work, rows, context=150, itemsize=dtype.itemsize, bandwidth=26e9, flops=flops)
    assert known == pytest.approx(expected, rel=0.01)


def test_the_work_is_the_one_that_was_described():
    given = workload.conversations(32, 2, vocabulary=49152)
    lengths = [turn.length for conversation in given for turn in conversation]
    questions = [len(turn.question) for conversation in given for turn in conversation]
    assert len(lengths) == 64
    assert (min(lengths), max(lengths)) == (20, 128)
    assert sum(lengths) == pytest.approx(3740, rel=0.01)
    assert min(questions) >= 10
    assert max(questions) == 150
