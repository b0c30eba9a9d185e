"""`publish` does what creation.py does, and is called by its own name."""

import json

import pytest

from adapters.cli import main


def test_a_dry_run_prints_what_would_be_sent(capsys):
    assert main(["publish", "--dry-run", "--models", "tiny_talk"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in sent["dpk"]["components"]["models"]] == ["tiny-talk"]


def test_without_a_project_it_says_what_to_add(capsys):
    assert main(["publish"]) == 2
    assert capsys.readouterr().err == (
        "python -m adapters publish: no project is named: add --project-id or --project-name\n"
    )


def test_a_wrong_option_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["publish", "--nope"])
    assert "unrecognized arguments: --nope" in capsys.readouterr().err
