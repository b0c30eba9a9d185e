"""The dialogues of the embedded model, and the model folder that ships."""

import json
import math
import re
import struct
import sys
from itertools import chain, islice
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_talk"
MODEL = FOLDER / "model"
SUM = re.compile(r"(\d+) \+ (\d+) = (\d+)")


@pytest.fixture(scope="module")
def dialogues():
    """`dialogues.py`, imported the way the scripts beside it do."""
    sys.path.insert(0, str(FOLDER))
    try:
        import dialogues

        yield dialogues
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("dialogues", "phrases"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def training(dialogues):
    dialogues.NAMES_FIRST = 500  # Enough of what comes first, and soon what comes then.
    return list(islice(dialogues.training_dialogues(seed=1), 3000))


@pytest.fixture(scope="module")
def held_out(dialogues):
    return {skill: dialogues.held_out_dialogues(skill, 200) for skill in dialogues.SKILLS}


def pairs(conversations):
    """Every (question, answer) of the conversations."""
    for messages in conversations:
        turns = [message["content"] for message in messages if message["role"] != "system"]
        yield from zip(turns[::2], turns[1::2], strict=True)


def test_same_seed_same_dialogues(dialogues, training):
    assert list(islice(dialogues.training_dialogues(seed=1), 100)) == training[:100]
    assert list(islice(dialogues.training_dialogues(seed=2), 100)) != training[:100]


def test_held_out_dialogues_are_the_same_every_time(dialogues, held_out):
    for skill, conversations in held_out.items():
        assert dialogues.held_out_dialogues(skill, 200) == conversations


def test_roles_alternate_and_the_assistant_has_the_last_word(training, held_out):
    for messages in chain(training, *held_out.values()):
        roles = [message["role"] for message in messages]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in messages)


def test_sums_are_right_and_never_of_a_held_out_pair(dialogues, training, held_out):
    sums = [SUM.fullmatch(answer) for _, answer in pairs(training) if " + " in answer]
    assert len(sums) > 500
    for a, b, total in (map(int, match.groups()) for match in sums):
        assert a + b == total
        assert max(a, b) <= 50
        assert not dialogues.is_held_out(dialogues.sum_key(a, b))
        assert not dialogues.is_watched(dialogues.sum_key(a, b))
    for messages in held_out["sum"]:
        a, b, total = map(int, SUM.fullmatch(messages[-1]["content"]).groups())
        assert a + b == total
        assert dialogues.is_held_out(dialogues.sum_key(a, b))


def test_a_fifth_of_the_sums_is_held_out_in_both_orders(dialogues):
    pairs = dialogues.sums(dialogues.is_held_out)
    assert {(b, a) for a, b in pairs} == set(pairs)
    assert 0.17 < len(pairs) / 51**2 < 0.23


def test_held_out_phrasings_of_a_capital_are_never_trained(dialogues, training):
    phrasings = [q for q in dialogues.p.CAPITAL_QUESTIONS if dialogues.is_held_out(("phrasing", q))]
    asked = {phrase.format(place=place).lower() for phrase in phrasings for place in dialogues.p.CAPITALS}
    assert len(phrasings) >= 5
    assert not asked & {question.lower() for question, _ in pairs(training)}


def test_names_of_the_unseen_skill_are_never_trained(dialogues, training):
    words = set(re.findall(r"\w+", " ".join(answer for _, answer in pairs(training))))
    assert not words & set(dialogues.p.UNSEEN_NAMES)


@pytest.mark.parametrize("skill", ["name", "unseen name", "colour"])
def test_memory_is_asked_after_two_turns_that_do_not_repeat_it(held_out, skill):
    for messages in held_out[skill]:
        turns = [message for message in messages if message["role"] != "system"]
        value = re.fullmatch(r"Your (?:name|favourite colour) is (\w+)\.", turns[-1]["content"]).group(1)
        assert value.lower() in turns[0]["content"].lower()
        assert len(turns) >= 8
        assert not any(message["content"].startswith(turns[-1]["content"]) for message in turns[:-1])


def test_forty_capitals(dialogues):
    assert len(dialogues.p.CAPITALS) == 40
    assert not set(dialogues.p.CAPITALS) & set(dialogues.p.UNKNOWN_PLACES)


def test_the_shipped_model_is_small():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8_000_000
    with (MODEL / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    assert 0 < sum(math.prod(tensor["shape"]) for tensor in tensors) <= 4_000_000


def test_the_card_gives_every_skill_as_good_as_promised(dialogues):
    card = (MODEL / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| (\d+) \| ([\d.]+)% \| ", card, re.MULTILINE)
    accuracy = {skill: float(percent) for skill, _, percent in rows}
    assert list(accuracy) == dialogues.SKILLS
    assert all(int(count) >= 200 for _, count, _ in rows)
    assert 60 <= accuracy["sum"] <= 95
    assert min(accuracy["greeting"], accuracy["capital"], accuracy["do not know"]) >= 95
    assert min(accuracy["name"], accuracy["colour"]) >= 90


def test_the_demonstration_items_are_prompt_items():
    items = [json.loads(path.read_text("utf-8")) for path in (FOLDER.parent / "items").glob("*.json")]
    assert len(items) >= 5
    for item in items:
        assert (item["shebang"], item["metadata"]["dltype"]) == ("dataloop", "prompt")
        for prompt in item["prompts"].values():
            elements = prompt if isinstance(prompt, list) else prompt.values()
            assert any(element["mimetype"] == "application/text" and element["value"] for element in elements)
