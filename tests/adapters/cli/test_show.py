"""`show` tells where each value of a configuration comes from, and whether the model fits here."""

import pytest

from adapters.cli import main


def shown(*arguments: str, capsys: pytest.CaptureFixture) -> tuple[dict[str, list[str]], str]:
    """The options as (value, origin), and all that was printed."""
    assert main(["show", *arguments]) == 0
    text = capsys.readouterr().out
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return {row[0]: row[1:] for row in rows}, text


def test_each_value_has_its_origin(capsys):
    options, text = shown("tiny_talk", "--set", "temperature=0.5", capsys=capsys)
    assert options["temperature"] == ["0.5", "command line"]
    assert options["max_new_tokens"] == ["48", "models/tiny_talk.py"]
    assert options["model_name"][1] == "models/tiny_talk.py"
    assert "top_p" not in options
    assert text.startswith("tiny_talk: TinyTalk: the small model shipped here")


def test_what_the_command_sets_wins_over_the_file_and_defaults_are_shown_on_request(capsys):
    options, _ = shown("tiny_talk", "--set", "max_tokens=9", "--all", capsys=capsys)
    assert options["max_new_tokens"] == ["9", "command line"]
    assert options["top_p"] == ["None", "default"]


def test_the_environment_may_name_the_model(monkeypatch, capsys):
    monkeypatch.setenv("HF_MODEL_NAME", "owner/name")
    assert shown("auto_causal_lm", capsys=capsys)[0]["model_name"] == ["owner/name", "environment"]


def test_a_model_that_is_here_tells_its_memory_and_that_it_fits(capsys):
    _, text = shown("tiny_talk", "--set", "dtype=float32", capsys=capsys)
    assert "weights             3.6 MiB  in float32" in text
    assert "It fits here." in text


def test_a_model_that_does_not_fit_says_what_to_do(monkeypatch, tiny_model, capsys):
    from engine.loading import placement

    monkeypatch.setattr(placement, "free_memory", lambda device: 1000)
    _, text = shown(str(tiny_model), capsys=capsys)
    assert "It does not fit: " in text
    assert "take a smaller model" in text


def test_a_model_that_is_not_here_is_estimated_by_its_size_and_not_downloaded(capsys):
    _, text = shown("smollm2_1_7b_instruct", capsys=capsys)
    assert "weights: about 3.2 GiB in half precision" in text
    assert "is not on this machine: the first load downloads it" in text


def test_a_server_takes_no_memory_here(capsys):
    _, text = shown("inference_endpoint", capsys=capsys)
    assert "memory: none here, a server answers" in text


def test_a_class_of_the_users_own_is_told(user_models, capsys):
    source = "class HuggingAdapter:\n def __init__(self, _): ...\n def predict(self, batch): ...\n"
    (user_models / "own.py").write_text(source)
    assert "a class of its own" in shown("own", capsys=capsys)[1]


def test_a_wrong_option_is_a_sentence(capsys):
    assert main(["show", "tiny_talk", "--set", "temprature=1"]) == 2
    assert "did you mean 'temperature'?" in capsys.readouterr().err
