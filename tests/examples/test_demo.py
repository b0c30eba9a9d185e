"""The demonstration's own help; `make demo` is run by tests/test_readme.py."""

import sys

import pytest

from examples import demo


def test_help_says_what_it_does(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--help"])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 0
    assert "python -m examples.demo" in (printed := capsys.readouterr().out)
    assert "publishes it, uploads prompt items" in printed
