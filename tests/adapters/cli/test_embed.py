"""`embed` makes vectors of texts, as lines of JSON or as one array."""

import io
import json
import sys

import numpy as np

import models
from adapters.cli import main


def test_each_text_is_a_line_with_its_vector(capsys):
    assert main(["embed", "A cat.", "Hello!"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["A cat.", "Hello!"]
    expected = models.load("tiny_talk").encode(["A cat.", "Hello!"])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)


def test_lines_of_standard_input_become_one_array(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("A cat.\n\nHello!\n"))
    assert main(["embed", "-", "--out", str(tmp_path / "vectors.npy")]) == 0
    vectors = np.load(tmp_path / "vectors.npy")
    assert (vectors.shape, vectors.dtype) == ((2, 128), np.float32)
    assert capsys.readouterr().out == ""


def test_an_empty_text_has_no_vector(capsys):
    assert main(["embed", "A cat.", ""]) == 2
    assert capsys.readouterr().err == "error: text 2 is empty, and has no embedding: leave it out\n"


def test_nothing_to_embed_is_told(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["embed", "-"]) == 2
    assert (
        capsys.readouterr().err == "error: there is no text to embed: give one, or lines of standard input\n"
    )


def test_a_file_of_another_kind_or_place_is_refused(tmp_path, capsys):
    assert main(["embed", "A cat.", "--out", "vectors.csv"]) == 2
    assert "is not a .npy file" in capsys.readouterr().err
    assert main(["embed", "A cat.", "--out", str(tmp_path / "no" / "vectors.npy")]) == 2
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err
