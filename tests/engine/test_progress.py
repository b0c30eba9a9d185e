"""The progress line: how far it is, on a terminal alone."""

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from adapters.hugging import HuggingAdapter
from engine import progress
from engine.progress import Progress
from tests import tiny
from tests.helpers.talk import ask


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """What it shows at last."""
        return self.getvalue().rsplit("\r", 1)[-1]


@pytest.fixture(autouse=True)
def each_answer_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon it comes."""
    monkeypatch.setattr(progress, "tqdm", functools.partial(progress.tqdm, mininterval=0))


@contextmanager
def terminal() -> Iterator[Terminal]:
    with redirect_stderr(Terminal()) as screen:
        yield screen


def test_nothing_is_written_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture):
    tiny.engine("llama").generate([ask("Hello", max_new_tokens=4)])
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_terminal_shows_answers_tokens_a_second_and_running_sequences():
    with terminal() as screen, Progress(3) as line:
        line.answered(12, num_running=2)
        assert "1/3" in screen.line
        assert "tokens/s, 2 sequences" in screen.line


def test_the_line_is_gone_in_the_end():
    with terminal() as screen:
        with Progress(1) as line:
            line.answered(12, num_running=0)
        assert "1/1" in screen.getvalue()
        assert screen.line == ""


def test_answers_that_follow_others_are_counted():
    with terminal() as screen, Progress(1) as line:
        for num_running in (1, 1, 0):
            line.answered(5, num_running)
        assert "3/3" in screen.line


def test_an_error_takes_the_line_away():
    with terminal() as screen:
        with pytest.raises(KeyError), Progress(2):
            raise KeyError
        assert "0/2" in screen.getvalue()
        assert screen.line == ""


def test_scores_and_vectors_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    engine = tiny.engine("llama")
    with terminal() as screen:
        engine.score(["Hello", "What?"], [["a"], ["b", "c"]])
        assert "scoring: 100%" in screen.getvalue()
        assert "3/3" in screen.getvalue()
        engine.embed(["Hello", "What?"])
        assert "reading texts: 100%" in screen.getvalue()
        assert "2/2" in screen.getvalue()
        assert screen.line == ""


def test_what_is_soon_over_shows_nothing():
    with terminal() as screen:
        tiny.engine("llama").embed(["Hello"])
    assert screen.getvalue() == ""


def test_an_engine_shows_how_it_goes():
    with terminal() as screen:
        tiny.engine("llama").generate([ask("x" * n, max_new_tokens=3) for n in (1, 2, 3)])
    assert "3/3" in screen.getvalue()


def test_whole_items_have_their_number_of_questions():
    adapter = HuggingAdapter({"model_name": "tiny"})
    adapter._engine = tiny.engine("llama")
    turns = {str(i): {"value": "Hi"} for i in range(3)}
    with terminal() as screen:
        adapter.predict([{"prompts": {"a": turns, "b": turns}}], max_new_tokens=2)
    assert "0/6" in screen.getvalue()
    assert "6/6" in screen.getvalue()
