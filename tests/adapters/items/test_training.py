"""Corrected prompt items become training data as trl reads it."""

import json
from pathlib import Path

import pytest

from adapters.cli import main
from adapters.items.training import Export, lines, write
from adapters.prediction.failures import Failure
from engine.errors import ConfigurationError


def by_model(key: str, text: str, rank: int = 1, name: str = "tiny", **more) -> dict:
    provenance = {"rank": rank, "of": 2}
    return {
        "type": "text",
        "coordinates": text,
        "metadata": {
            "system": {"promptId": key},
            "user": {"model": {"name": name}, "provenance": provenance, **more},
        },
    }


def by_person(key: str, text: str, created: str = "") -> dict:
    return {
        "type": "text",
        "coordinates": text,
        "createdAt": created,
        "metadata": {"system": {"promptId": key}},
    }


def questions(*annotations: dict, **prompts: list[str]) -> dict:
    return {
        "prompts": {
            key: {str(i): {"value": text} for i, text in enumerate(texts)} for key, texts in prompts.items()
        },
        "annotations": list(annotations),
        "filename": "item.json",
    }


def messages(*annotations: dict, **prompts: str) -> dict:
    elements = {key: [{"mimetype": "application/text", "value": text}] for key, text in prompts.items()}
    return {"prompts": elements, "annotations": list(annotations), "filename": "item.json"}


def exported(item: dict | Failure, form: str = "chosen_rejected") -> list[dict]:
    return list(lines([item], form, Export()))


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def says(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_a_persons_answer_is_chosen_and_each_other_one_rejected():
    item = questions(
        by_model("a", "5"),
        by_model("a", "6", rank=2),
        by_model("a", "4", rank=3),
        by_person("a", "4"),
        a=["2+2?"],
    )
    pair = {"prompt": [user("2+2?")], "chosen": [says("4")]}
    assert exported(item) == [pair | {"rejected": [says("5")]}, pair | {"rejected": [says("6")]}]
    assert exported(item, "sft") == [{"messages": [user("2+2?"), says("4")]}]


def test_a_correction_stands_in_the_history_of_what_follows():
    item = messages(
        by_model("1", "no"),
        by_person("1", "yes"),
        by_model("2", "hm"),
        by_model("3", "bad"),
        by_person("3", "good"),
        **{"1": "One?", "2": "Two?", "3": "Three?"},
    )
    first, last = exported(item)
    assert first == {"prompt": [user("One?")], "chosen": [says("yes")], "rejected": [says("no")]}
    assert last["prompt"] == [user("One?"), says("yes"), user("Two?"), says("hm"), user("Three?")]
    assert exported(item, "sft") == [{"messages": [*last["prompt"], says("good")]}]


def test_what_follows_no_correction_is_not_trained_on():
    item = messages(
        by_model("1", "no"), by_person("1", "yes"), by_model("2", "hm"), **{"1": "One?", "2": "Two?"}
    )
    assert exported(item, "sft") == [{"messages": [user("One?"), says("yes")]}]


def test_answers_under_one_key_belong_to_its_turns_in_order():
    models = [by_model("a", text, rank) for text in ("A", "B") for rank in (1, 2)]
    both = questions(*models, by_person("a", "X"), by_person("a", "Y"), a=["One?", "Two?"])
    assert [(pair["chosen"], pair["rejected"]) for pair in exported(both)] == [
        ([says("X")], [says("A")]),
        ([says("Y")], [says("B")]),
    ]
    assert exported(both, "sft") == [{"messages": [user("One?"), says("X"), user("Two?"), says("Y")]}]
    one = questions(*models, by_person("a", "Y"), a=["One?", "Two?"])
    assert exported(one, "sft") == [{"messages": [user("One?"), says("A"), user("Two?"), says("Y")]}]


def test_of_a_persons_answers_to_one_turn_the_last_counts():
    item = questions(by_person("a", "new", "2026-02"), by_person("a", "old", "2026-01"), a=["One?"])
    assert exported(item, "sft")[0]["messages"][-1] == says("new")


def test_uploads_are_ordered_by_their_numbers_and_drafts_are_none():
    def sent(text: str, number: int, **more) -> dict:
        return by_model("a", text, upload={"id": "u", "order": 1, "number": number, "of": 2, **more})

    item = questions(
        sent("B", 1), sent("A", 0), sent("…", 0, draft=True), by_person("a", "Y"), a=["One?", "Two?"]
    )
    assert exported(item)[0]["prompt"] == [user("One?"), says("A"), user("Two?")]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            messages(by_person("2", "yes"), **{"1": "One?", "2": "Two?"}),
            "'2': a person's answer to it is not",
        ),
        (questions(by_person("b", "yes"), a=["One?"]), "'b': a person's answer to it is not used"),
        ({"prompts": 3, "filename": "item.json"}, "item.json: 'prompts' must be"),
        (Failure("item.json", None, "it cannot be read"), "item.json: it cannot be read"),
        ({"prompts": {"a": 3, "b": {"x": {"value": "?"}}}, "annotations": 3}, "item 1: prompt 'a'"),
    ],
)
def test_what_is_left_out_is_named(item, reason: str):
    export = Export()
    assert list(lines([item], "sft", export)) == []
    assert reason in str(export.failures[0])


def test_a_conversation_with_an_image_is_left_out():
    item = messages(by_person("1", "a cat"), **{"1": "What is it?"})
    item["prompts"]["1"].append({"mimetype": "image/png", "value": "https://example.com/cat.png"})
    assert exported(item) == []


def test_nothing_to_write_keeps_the_file_and_says_what_to_do(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(ConfigurationError, match=r"nothing to write .*have people annotate"):
        write([questions(by_model("a", "5"), a=["2+2?"])], "sft", path)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_a_line_is_a_line_whatever_was_said(tmp_path: Path):
    text = "a\u2028b\n\ud800 grün"
    write([questions(by_person("a", text), a=["?"])], "sft", tmp_path / "out.jsonl")
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["messages"][-1] == says("a\u2028b\n? grün")


def test_the_command_writes_files_and_names_what_it_leaves_out(tmp_path: Path, capsys):
    item = questions(by_model("a", "5"), by_person("a", "4"), by_person("b", "x"), a=["2+2?"])
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "one.json").write_text(json.dumps(item))
    out = tmp_path / "pairs.jsonl"
    assert main(["export", str(tmp_path / "items"), "--format", "chosen_rejected", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 lines of 1 corrected answers on 1 items" in said
    assert "left out: " in said
    assert json.loads(out.read_text())["rejected"] == [says("5")]
    assert main(["export", str(tmp_path / "items"), "--format", "ppo", "--out", str(out)]) == 2
