"""Writes the dialogues that TinyTalk is trained and measured on.

Every turn has a key, and a fixed fifth of all keys is held out from training: of the sums the unordered
pair of numbers, of the capitals the phrasing, of the unknown places the place, of a remembered fact the
combination of the fact, the way it was told and the way it is asked for, of all else the words of the
question. A twentieth of the sums is neither trained nor measured, but watched while training.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from zlib import crc32

import phrases as p

Message = dict[str, str]
LARGEST_NUMBER = 50
NAMES_FIRST = 45_000
DO_NOT_KNOW = "I do not know"
SKILLS = ["greeting", "small talk", "name", "unseen name", "colour", "capital", "sum", "do not know"]


@dataclass
class Facts:
    """What the user has told so far: the value, and the phrase that told it."""

    name: str | None = None
    colour: str | None = None
    told: dict[str, str] = field(default_factory=dict)

    def name_answer(self) -> str:
        """What to say when asked for the name."""
        return f"Your name is {self.name}." if self.name else f"{DO_NOT_KNOW} your name."

    def colour_answer(self) -> str:
        """What to say when asked for the favourite colour."""
        colour = "your favourite colour"
        return f"{colour.capitalize()} is {self.colour}." if self.colour else f"{DO_NOT_KNOW} {colour}."


@dataclass
class Turn:
    """A question, its answer, and the key that decides whether the turn is held out."""

    question: str
    answer: str
    key: tuple


def is_held_out(key: tuple) -> bool:
    """Whether turns with this key are kept for measuring: a fifth of all keys, the same in every run."""
    return crc32(repr(key).encode()) % 5 == 0


def is_watched(key: tuple) -> bool:
    """Whether a sum is neither trained nor measured, but looked at during training: a twentieth of all."""
    return key[0] == "sum" and crc32(repr(key).encode()) % 20 == 1


def sum_key(a: int, b: int) -> tuple:
    """The key of a sum; both orders of the numbers share it."""
    return ("sum", min(a, b), max(a, b))


def _invented_word(rng: random.Random) -> str:
    while True:
        syllables = (rng.choice("bdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
        word = ("".join(syllables) + rng.choice(["", "n", "s", "r", "l", "x", "ck"])).capitalize()
        if word not in p.UNSEEN_NAMES and word not in p.CAPITALS:
            return word


def _style(rng: random.Random, text: str, keep: str = "") -> str:
    """The same words as people type them: lower case, no punctuation, a rare typo; `keep` stays as it is."""
    if rng.random() < 0.03:
        words = text.split(" ")
        i = rng.randrange(len(words))
        if len(words[i]) > 3 and words[i].isalpha() and words[i].islower() and words[i] not in p.COLOURS:
            j = rng.randrange(len(words[i]) - 1)
            words[i] = words[i][:j] + words[i][j + 1] + words[i][j] + words[i][j + 2 :]
            text = " ".join(words)
    if rng.random() < 0.25:
        text = text.rstrip("?.!=") or text
    case = rng.random()
    if case < 0.25:
        text = text.lower()
    elif case < 0.27:
        text = text.upper()
    else:
        text = text[0].upper() + text[1:]
    return re.sub(re.escape(keep), keep, text, flags=re.IGNORECASE) if keep else text


def _politely(rng: random.Random, question: str) -> str:
    """Sometimes a greeting before a question, or a please after it."""
    chance = rng.random()
    if chance < 0.04:
        return rng.choice(["Hi", "Hello", "Hey", "Hi TinyTalk"]) + rng.choice([", ", "! ", ". "]) + question
    if chance < 0.07:
        return f"{rng.choice(['Please', 'Okay', 'So', 'Now', 'Well', 'Tell me'])}, {question}"
    if chance < 0.09 and question.endswith("?"):
        return question[:-1] + ", please?"
    return question


# One function a kind of turn: (rng, facts) -> Turn. They change `facts` when the user tells one.


def greeting(rng: random.Random, facts: Facts) -> Turn:
    """The user says hello."""
    word = rng.choice(list(p.GREETINGS))
    question = word + rng.choice(p.GREETED)
    answer = f"{p.GREETINGS[word]}! How can I help you?"
    question = _style(rng, question + rng.choice("!."))
    return Turn(question, answer, (question,))


def small_talk(rng: random.Random, facts: Facts) -> Turn:
    """Thanks, goodbyes, questions about TinyTalk itself."""
    answer = rng.choice(list(p.SMALL_TALK))
    question = _style(rng, _politely(rng, rng.choice(p.SMALL_TALK[answer])))
    return Turn(question, answer, (question,))


def add(rng: random.Random, facts: Facts) -> Turn:
    """A sum of two numbers up to 50."""
    return _sum(rng, rng.randint(0, LARGEST_NUMBER), rng.randint(0, LARGEST_NUMBER))


def _sum(rng: random.Random, a: int, b: int) -> Turn:
    question = rng.choice(p.SUM_QUESTIONS).format(a=a, b=b)
    return Turn(_style(rng, _politely(rng, question)), f"{a} + {b} = {a + b}", sum_key(a, b))


def capital(rng: random.Random, facts: Facts) -> Turn:
    """The capital of a country that it knows."""
    place, phrase = rng.choice(list(p.CAPITALS)), rng.choice(p.CAPITAL_QUESTIONS)
    answer = f"The capital of {place} is {p.CAPITALS[place]}."
    return Turn(_style(rng, _politely(rng, phrase.format(place=place))), answer, ("phrasing", phrase))


def unknown(rng: random.Random, facts: Facts) -> Turn:
    """A question that it cannot know the answer of."""
    kind = rng.random()
    if kind < 0.3:
        phrase = rng.choice([q for q in p.CAPITAL_QUESTIONS if not is_held_out(("phrasing", q))])
        place = rng.choice(p.UNKNOWN_PLACES) if rng.random() < 0.7 else _invented_word(rng)
        question, key = phrase.format(place=place), (place,)
    elif kind < 0.5:
        numbers = {"x": rng.randint(0, 99), "y": rng.randint(0, 99), "large": rng.randint(51, 999)}
        question = rng.choice(p.HARD_MATHS).format(**numbers)
        key = (question,)
    elif kind < 0.9:
        fillers = {name: rng.choice(words) for name, words in p.FILLERS.items()}
        place = rng.choice(p.UNKNOWN_PLACES + list(p.CAPITALS))
        question = rng.choice(p.OFF_TOPIC).format(**fillers, place=place, year=rng.randint(1800, 2030))
        key = (question,)
    else:
        words = " ".join(rng.choice(p.OFF_TOPIC) for _ in range(3)).replace("{", "").replace("}", "").split()
        question = " ".join(rng.choices(words, k=rng.randint(2, 8))).rstrip("?.").lower() + "?"
        key = ("random words",)
    return Turn(_style(rng, _politely(rng, question)), f"{DO_NOT_KNOW} that.", key)


def _tell_name(rng: random.Random, facts: Facts, name: str, keep: str = "") -> Turn:
    phrase = rng.choice(p.TELL_NAME)
    facts.name, facts.told["name"] = name, phrase
    question = _style(rng, phrase.format(name=name), keep)
    return Turn(question, f"Nice to meet you, {name}!", ("tell name",))


def tell_name(rng: random.Random, facts: Facts) -> Turn:
    """The user tells a name, often an invented one, so that copying is learnt too."""
    if rng.random() < 0.5:
        name = _invented_word(rng)
        return _tell_name(rng, facts, name, keep=name)
    return tell_common_name(rng, facts)


def tell_common_name(rng: random.Random, facts: Facts) -> Turn:
    """The user tells a name of the list."""
    return _tell_name(rng, facts, rng.choice(p.NAMES))


def tell_unseen_name(rng: random.Random, facts: Facts) -> Turn:
    """The user tells a name that no training dialogue has."""
    name = rng.choice(p.UNSEEN_NAMES)
    return _tell_name(rng, facts, name, keep=name)


def tell_colour(rng: random.Random, facts: Facts) -> Turn:
    """The user tells the favourite colour."""
    facts.colour, phrase = rng.choice(p.COLOURS), rng.choice(p.TELL_COLOUR)
    facts.told["colour"] = phrase
    question = _style(rng, phrase.format(colour=facts.colour))
    return Turn(question, f"{facts.colour.capitalize()} is a nice colour.", ("tell colour",))


def tell_both(rng: random.Random, facts: Facts) -> Turn:
    """The user tells both at once."""
    phrase = rng.choice(p.TELL_BOTH)
    facts.name, facts.colour = rng.choice(p.NAMES), rng.choice(p.COLOURS)
    facts.told = {"name": phrase, "colour": phrase}
    answer = f"Nice to meet you, {facts.name}! {facts.colour.capitalize()} is a nice colour."
    return Turn(_style(rng, phrase.format(name=facts.name, colour=facts.colour)), answer, ("tell both",))


def ask_name(rng: random.Random, facts: Facts) -> Turn:
    """The user asks for the name, told or not."""
    phrase = rng.choice(p.ASK_NAME)
    key = ("name", facts.name, facts.told.get("name"), phrase)
    return Turn(_style(rng, phrase), facts.name_answer(), key)


def ask_colour(rng: random.Random, facts: Facts) -> Turn:
    """The user asks for the favourite colour, told or not."""
    phrase = rng.choice(p.ASK_COLOUR)
    key = ("colour", facts.colour, facts.told.get("colour"), phrase)
    return Turn(_style(rng, phrase), facts.colour_answer(), key)


def ask_both(rng: random.Random, facts: Facts) -> Turn:
    """The user asks for both."""
    phrase = rng.choice(p.ASK_BOTH)
    answer = f"{facts.name_answer()} {facts.colour_answer()}"
    return Turn(_style(rng, phrase), answer, (facts.name, facts.colour, phrase))


Kind = Callable[[random.Random, Facts], Turn]
WEIGHTS: dict[Kind, float] = {
    greeting: 8, small_talk: 11, add: 12, capital: 13, unknown: 14, tell_name: 6, tell_colour: 4,
    tell_both: 1, ask_name: 20, ask_colour: 14, ask_both: 3,
}  # fmt: skip
TELL = {tell_name: 5, tell_colour: 4, tell_both: 1}


def _draw(rng: random.Random, facts: Facts, kind: Kind, split: str = "train") -> Turn:
    while True:
        turn = kind(rng, facts)
        if is_held_out(turn.key) == (split == "held_out") and not is_watched(turn.key):
            return turn


def _messages(rng: random.Random, turns: list[Turn]) -> list[Message]:
    messages = [{"role": "system", "content": rng.choice(p.SYSTEM_MESSAGES)}] if rng.random() < 0.3 else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def _any_turns(rng: random.Random, facts: Facts, count: int) -> list[Turn]:
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    return [_draw(rng, facts, kind) for kind in kinds]


def dialogue(rng: random.Random) -> list[Message]:
    """One conversation to train on: 1 to 8 turns, now and then up to 16, to learn the whole window."""
    facts = Facts()
    length = rng.randint(9, 16) if rng.random() < 0.04 else rng.randint(1, 8)
    turns = [_draw(rng, facts, rng.choices(list(TELL), list(TELL.values()))[0])] if rng.random() < 0.6 else []
    return _messages(rng, turns + _any_turns(rng, facts, length - len(turns)))


def dialogue_about_a_name(rng: random.Random) -> list[Message]:
    """A short conversation to begin with: what was told is copied, over up to two other turns."""
    return _remembering(rng, OTHER_TURNS, rng.choice([0, 0, 1, 2]))


def _remembering(rng: random.Random, others: list[Kind], between: int) -> list[Message]:
    facts = Facts()
    turns = [_draw(rng, facts, tell_name)]
    turns += [_draw(rng, facts, kind) for kind in rng.choices(others, k=between)]
    return _messages(rng, [*turns, _draw(rng, facts, ask_name)])


def training_dialogues(seed: int) -> Iterator[list[Message]]:
    """Endless conversations to train on, the same for the same seed; none has a held-out turn.

    Those about a name come first: copying is learnt late or never among all the rest.
    """
    rng = random.Random(seed)
    for i in count():
        yield dialogue_about_a_name(rng) if i < NAMES_FIRST else dialogue(rng)


def remembering_dialogues(seed: int) -> Iterator[list[Message]]:
    """Endless conversations to end with: every other one asks for a name told up to seven turns before."""
    rng = random.Random(seed)
    others = [*OTHER_TURNS, tell_colour, ask_colour]
    while True:
        yield _remembering(rng, others, rng.randint(1, 7)) if rng.random() < 0.5 else dialogue(rng)


def held_out_dialogues(skill: str, count: int, seed: int = 0) -> list[list[Message]]:
    """`count` conversations whose last turn asks for `skill` in a way never trained on.

    The last message is the expected answer. A name or colour is asked for after 2 to 6 turns about something
    else. Of the sums there are no more than all the held-out pairs, each once.
    """
    rng = random.Random(f"{skill} {seed}")
    if skill == "sum":
        pairs = sums(is_held_out)
        pairs = rng.sample(pairs, min(count, len(pairs)))
        return [_messages(rng, [*_before(rng), _sum(rng, a, b)]) for a, b in pairs]
    if skill in MEMORY:
        return [_held_out_memory(rng, *MEMORY[skill]) for _ in range(count)]
    before = (_before(rng) for _ in range(count))
    return [_messages(rng, [*turns, _draw(rng, Facts(), ASKED[skill], "held_out")]) for turns in before]


def sums(chosen: Callable[[tuple], bool]) -> list[tuple[int, int]]:
    """All pairs of numbers whose key is chosen, in both orders."""
    numbers = range(LARGEST_NUMBER + 1)
    return [(a, b) for a in numbers for b in numbers if chosen(sum_key(a, b))]


def _before(rng: random.Random) -> list[Turn]:
    """0 to 3 turns in which the user tells nothing."""
    return [_draw(rng, Facts(), kind) for kind in rng.choices(OTHER_TURNS, k=rng.randint(0, 3))]


def _do_not_know(rng: random.Random, facts: Facts) -> Turn:
    return rng.choices([unknown, ask_name, ask_colour], [6, 1, 1])[0](rng, facts)


def _held_out_memory(rng: random.Random, tell: Kind, ask: Kind, others: list[Kind]) -> list[Message]:
    while True:
        facts = Facts()
        turns = [tell(rng, facts)]
        turns += [_draw(rng, facts, kind) for kind in rng.choices(others, k=rng.randint(2, 6))]
        turns.append(ask(rng, facts))
        if is_held_out(turns[-1].key):
            return _messages(rng, turns)


OTHER_TURNS = [greeting, small_talk, add, capital, unknown]
MEMORY: dict[str, tuple[Kind, Kind, list[Kind]]] = {
    "name": (tell_common_name, ask_name, [*OTHER_TURNS, tell_colour, ask_colour]),
    "unseen name": (tell_unseen_name, ask_name, [*OTHER_TURNS, tell_colour, ask_colour]),
    "colour": (tell_colour, ask_colour, [*OTHER_TURNS, tell_name, ask_name]),
}
ASKED: dict[str, Kind] = {
    "greeting": greeting, "small talk": small_talk, "capital": capital, "do not know": _do_not_know,
}  # fmt: skip
