"""`doctor` tells what is good and what is not, shows no token, and asks the platform for an answer."""

import re

import pytest

from adapters.cli import checks, main
from adapters.cli.checks import CHECKS, Finding
from adapters.platform import login


def found(capsys: pytest.CaptureFixture, code: int) -> dict[str, list[str]]:
    assert main(["doctor"]) == code
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == list(CHECKS)
    return {row[1]: [row[0], *row[2:]] for row in rows}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Leaves these checks alone of all."""

    def leave(**kept) -> None:
        for name in [*CHECKS]:
            monkeypatch.delitem(CHECKS, name)
        for name, check in kept.items():
            monkeypatch.setitem(CHECKS, name, check)

    return leave


def test_a_machine_with_a_login_is_good(gateway, project, capsys):
    table = found(capsys, 0)
    assert {row[0] for row in table.values()} == {"ok"}
    assert "logged in, 127.0.0.1 answers" in table["Dataloop"][1]
    assert "float32: " in table["CPU"][1]
    assert "GiB free" in table["memory"][1]


@pytest.mark.parametrize("reachable", [True, False])
def test_without_a_login_the_machine_is_good_all_the_same(reachable: bool, only, capsys, monkeypatch):
    only(Dataloop=checks.platform_login)
    monkeypatch.setattr(login, "state", lambda: login.State("https://x", False, reachable, "x answers"))
    mark, text, remedy = found(capsys, 0)["Dataloop"]
    assert (mark, remedy) == ("ok", "")
    assert text == "https://x: not logged in, x answers; only publishing needs it: dlp login"


def test_what_is_not_good_says_what_to_do(only, capsys):
    only(memory=lambda: Finding("0.1 GiB free", "end other programs"), torch=lambda: Finding("2.13"))
    table = found(capsys, 1)
    assert table == {"memory": ["!!", "0.1 GiB free", "end other programs"], "torch": ["ok", "2.13", ""]}


def test_a_broken_installation_is_a_finding_and_hides_no_other(only, capsys):
    def broken() -> Finding:
        raise OSError("libtorch.so: no such file")

    only(torch=broken, GPU=lambda: Finding("none"))
    table = found(capsys, 1)
    assert table["torch"] == [
        "!!",
        "OSError: libtorch.so: no such file",
        "repair the installation: make setup",
    ]
    assert table["GPU"][0] == "ok"


def test_a_token_is_present_or_not_and_never_shown(only, capsys, monkeypatch):
    only(token=checks.token)
    assert found(capsys, 0)["token"][1].startswith("none: ")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert found(capsys, 0)["token"] == ["ok", "present", ""]


def test_missing_packages_and_other_versions_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    (tmp_path / "constraints.txt").write_text("typer==0.0.1\nno_such==1\n")
    (tmp_path / "requirements.txt").write_text("# why\ntyper>=0.1\n")
    assert re.fullmatch(r"typer \S+ \(tested: 0.0.1\)", checks.packages().text)
    (tmp_path / "requirements.txt").write_text("typer\nno-such-package-of-ours>=2\n")
    assert checks.packages().text.startswith("no-such-package-of-ours is missing, typer ")


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "LEAST_DISK", 2**80)
    assert checks.disk().remedy == "make room, or set HF_HOME to a larger disk"
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert checks.disk().remedy == "set HF_HOME to a folder of yours"
