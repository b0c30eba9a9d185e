"""`models` lists what can be asked here, for people and for other programs."""

import io
import re
import sys

import pytest

from adapters import registry
from adapters.cli import main
from adapters.cli.cache import size_in


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def listed(capsys: pytest.CaptureFixture) -> dict[str, list[str]]:
    assert main(["models"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_pipe_gets_a_line_for_each_model_with_tabs(capsys):
    table = listed(capsys)
    assert list(table) == registry.names()
    assert table["tiny_talk"][:3] == ["0.9 M", "generate", "yes"]
    assert table["gpt2"][:3] == ["124 M", "generate", "no"]
    assert table["bge_small_en_v1_5"][:2] == ["33 M", "embed"]
    assert table["auto_causal_lm"][:3] == ["-", "generate", "-"]
    assert table["inference_endpoint"][1:3] == ["server", "at a server"]
    assert table["gpt2"][3].startswith("GPT-2 (124 M): continues a text")


def test_a_model_in_the_hub_librarys_cache_is_here(in_hub_cache, tiny_model, user_models, capsys):
    (user_models / "mine.py").write_text(
        '"""Mine."""\n\nclass HuggingAdapter:\n    model_name = "owner/mine"\n'
    )
    assert listed(capsys) == {"mine": ["-", "generate", "no", "Mine."]}
    in_hub_cache("owner/mine", tiny_model)
    assert size_in("owner/mine") > 10_000
    assert listed(capsys) == {"mine": ["0.0 M", "generate", "yes", "Mine."]}


def test_a_file_that_cannot_be_read_hides_no_other(user_models, capsys):
    (user_models / "bad.py").write_text("class")
    (user_models / "good.py").write_text("class HuggingAdapter: pass\n")
    table = listed(capsys)
    assert table["bad"][3].startswith("cannot be read (")
    assert table["good"][3] == "no docstring: say what it is in good.py"


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_gets_a_table_in_colour_unless_no_color_is_set(no_color: bool, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    assert main(["models"]) == 0
    lines = stream.getvalue().splitlines()
    assert any("tiny_talk" in line and "0.9 M" in line for line in lines)
    assert "\t" not in stream.getvalue()
    coloured = [code for code in re.findall(r"\x1b\[([\d;]*)m", stream.getvalue()) if code not in ("0", "1")]
    assert not no_color or not coloured
