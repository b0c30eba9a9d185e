"""The benchmarks run, and what they compare gives the same answers. No test can hold a speed."""

import pytest

from benchmarks import generation


def test_generation_compares_equal_answers(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"CONVERSATIONS": 3, "TURNS": 2, "NEW_TOKENS": 3, "ROUNDS": 1, "LAYERS": 2}.items():
        monkeypatch.setattr(generation, name, value)
    figures = generation.run()
    loop, engine = (figures[f"generation.{name}.tokens_per_second"] for name in ("loop", "engine"))
    assert figures["generation.vs_loop"] == pytest.approx(engine / loop)
    assert engine > 0
