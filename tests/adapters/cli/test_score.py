"""`score` ranks candidates as the continuation of a text, or as answers to a question."""

import json

from adapters.cli import main

CITIES = ["The capital of Japan is Oslo.", "The capital of Japan is Tokyo."]


def test_the_likeliest_candidate_comes_first(capsys):
    assert main(["score", "--chat", "What is the capital of Japan?", *CITIES, "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert [one["candidate"] for one in scored] == CITIES[::-1]
    assert scored[0]["probability"] > 0.9
    assert abs(sum(one["probability"] for one in scored) - 1) < 1e-6
    assert scored[1]["logprob"] < scored[0]["logprob"] <= 0


def test_a_text_is_continued_and_a_pipe_gets_tabs(capsys):
    assert main(["score", "The capital of", " Japan", " x"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["Japan", "x"]


def test_an_empty_candidate_is_told_without_a_traceback(capsys):
    assert main(["score", "Hello", ""]) == 2
    assert capsys.readouterr().err.endswith(
        "error: prompt 0: candidate 0 is empty: leave it out, or give it a text\n"
    )
