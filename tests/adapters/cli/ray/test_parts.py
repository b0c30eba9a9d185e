"""Results that survive a run which is killed at any time."""

import json
from pathlib import Path

import pytest

from adapters.cli.ray.parts import Parts
from engine.errors import ConfigurationError


def row(item: str, prompt: str = "1", error: str | None = None, answer: str = "yes") -> dict:
    return {"item": item, "prompt": prompt, "answer": None if error else answer, "error": error}


def written(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().split("\n") if line]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_the_file_has_all_rows_in_the_order_of_the_items(out: Path):
    parts = Parts(out)
    parts.add([row("b", "1"), row("b", "2")])
    parts.add([row("a")])
    parts.finish(["a", "b", "c"])
    assert [(one["item"], one["prompt"]) for one in written(out)] == [("a", "1"), ("b", "1"), ("b", "2")]
    assert list(out.parent.iterdir()) == [out]


def test_a_killed_runs_parts_are_there_for_the_next_one(out: Path):
    killed = Parts(out)
    killed.add([row("a")])
    killed.add([row("b")])
    (out.parent / "answers.jsonl.parts" / "00000002.jsonl.new").write_text('{"item": "c", "err')
    again = Parts(out)
    assert again.answered == {"a", "b"}
    again.add([row("c")])
    again.finish(["a", "b", "c"])
    assert [one["item"] for one in written(out)] == ["a", "b", "c"]


def test_an_item_that_failed_is_asked_again_and_replaced(out: Path):
    first = Parts(out)
    first.add([row("a", "1"), row("a", "2", error="too long"), row("b")])
    first.finish(["a", "b"])
    second = Parts(out)
    assert second.answered == {"b"}
    second.add([row("a", "1"), row("a", "2")])
    second.finish(["a", "b"])
    assert written(out) == [row("a", "1"), row("a", "2"), row("b")]


def test_any_text_comes_back_as_it_was(out: Path):
    texts = ["Grüße", "half \ud83d", "line\u2028end", 'a "quote"\n']
    parts = Parts(out)
    parts.add([row(str(i), answer=text) for i, text in enumerate(texts)])
    parts.finish([])
    assert [one["answer"] for one in Parts(out).rows.values() for one in one] == texts


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"custom_id": 1}', '"text"'])
def test_a_file_of_something_else_is_refused_and_kept(out: Path, content: str):
    out.write_text(content)
    with pytest.raises(
        ConfigurationError, match=r"line 1 of .* is not a result of predict: choose another file"
    ):
        Parts(out)
    assert out.read_text() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Parts(tmp_path / "missing" / "answers.jsonl")
