"""Text while it grows: whatever the tokens are, its pieces make the whole; a stop string is found at once."""

from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from engine.text import (
    Deltas,
    Detokenizer,
    StopMatcher,
    StoppingCriteria,
    before_stop,
    decode_after,
    decoding_context,
    token_texts,
)
from tests import tiny
from tests.helpers.tiny_tokenizers import KINDS, TEXTS, made

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def sentence_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer in Llama's manner: words bring their space, the first loses it, a byte may be a token."""
    words = ["<s>", "</s>", "▁a", "▁word", "b", "▁", "é", "日", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.detokenizer = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


BYTE = tiny.byte_tokenizer()
SENTENCE = sentence_tokenizer()
TOKENIZERS = pytest.mark.parametrize("tokenizer", [BYTE, SENTENCE], ids=["bytes", "sentences"])


def bytes_of(text: str) -> list[int]:
    return BYTE(text)["input_ids"]


# Words, characters of one to four bytes, and parts of them that are no character.
spelled = [bytes_of(text) for text in ("a", "ab", " ", "é", "日", "😀", "word", "\n", REPLACEMENT)]
broken = [bytes_of("😀")[:2], bytes_of("😀")[2:], bytes_of("é")[1:], bytes_of("日")[:2]]
special = [[tiny.BOS], [tiny.EOS]]


def sequences(*parts: list[int]) -> st.SearchStrategy[list[int]]:
    """Parts one behind the other."""
    return st.lists(st.sampled_from(parts), max_size=12).map(lambda chosen: list(chain(*chosen)))


# Whole characters: this decoder takes neighbouring bytes for none where they are not all characters.
sentences = sequences(
    *([token] for token in range(8)),
    *(
        SENTENCE.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text.encode()])
        for text in ("A", "é", "😀")
    ),
)
stops = st.lists(
    st.sampled_from(["a", "ab", "wo", "é日", "日", "d ", "😀", "rda", " ", "ba\n", "aa"]),
    min_size=1,
    max_size=3,
)


def whole(tokenizer: PreTrainedTokenizerFast, tokens: list[int], special: bool = False) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=not special)


def grown(tokenizer: PreTrainedTokenizerFast, tokens: list[int], special: bool = False) -> str:
    detokenizer = Detokenizer(tokenizer, special)
    return "".join(map(detokenizer.add, tokens))


# One growing sequence


def assert_grows_to(tokenizer: PreTrainedTokenizerFast, tokens: list[int], special: bool) -> None:
    text, given = whole(tokenizer, tokens, special), grown(tokenizer, tokens, special)
    assert text.startswith(given)
    assert set(text[len(given) :]) <= {REPLACEMENT}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tokens=sequences(*spelled, *broken, *special), special=st.booleans())
@example(tokens=[*bytes_of("é")[1:], *bytes_of("😀")], special=False)
def test_the_pieces_of_bytes_are_the_whole_text_but_for_an_incomplete_end(tokens: list[int], special: bool):
    assert_grows_to(BYTE, tokens, special)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tokens=sentences, special=st.booleans())
@example(tokens=[2, 0, 2, 3], special=False)
def test_the_pieces_of_words_are_the_whole_text_but_for_an_incomplete_end(tokens: list[int], special: bool):
    assert_grows_to(SENTENCE, tokens, special)


def test_a_character_is_given_when_its_last_byte_is_there():
    detokenizer = Detokenizer(BYTE, special=False)
    assert [detokenizer.add(token) for token in bytes_of("a😀é")] == ["a", "", "", "", "😀", "", "é"]


def test_special_tokens_have_a_text_where_they_are_to_have_one():
    tokens = [*bytes_of("a"), tiny.BOS, *bytes_of("b")]
    assert (grown(BYTE, tokens, special=True), grown(BYTE, tokens)) == ("a<s>b", "ab")


@TOKENIZERS
def test_a_token_costs_no_more_the_longer_the_text_is(tokenizer, monkeypatch: pytest.MonkeyPatch):
    read, decode = [], tokenizer.decode
    monkeypatch.setattr(
        tokenizer, "decode", lambda ids, **kwargs: read.append(len(ids)) or decode(ids, **kwargs)
    )
    detokenizer = Detokenizer(tokenizer, special=False)
    for token in [3, 4, 5] * 100:
        detokenizer.add(token)
    assert max(read) <= 4


def test_bytes_that_never_make_a_character_are_not_waited_for_without_end():
    detokenizer = Detokenizer(BYTE, special=False)
    given = [detokenizer.add(token) for token in bytes_of("é")[1:] * 200]
    assert 100 <= len("".join(given)) <= 200


# Stop strings


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tokens=sequences(*spelled, *broken, *special), stops=stops)
def test_a_stop_string_is_found_with_the_token_that_completes_it(tokens: list[int], stops: list[str]):
    ended = StoppingCriteria(BYTE, stops)
    found = next((count for count, token in enumerate(tokens, 1) if ended(token)), None)
    texts = (whole(BYTE, tokens[:count], special=True) for count in range(1, len(tokens) + 1))
    first = next((count for count, text in enumerate(texts, 1) if any(stop in text for stop in stops)), None)
    assert found == first


def test_a_stop_string_may_be_spelled_by_a_special_token():
    ended = StoppingCriteria(BYTE, ["a<s>"])
    assert [ended(token) for token in [*bytes_of("ba"), tiny.BOS]] == [False, False, True]


# Deltas of an answer


def deltas_of(text: str, stops: list[str]) -> list[str]:
    deltas = Deltas(stops)
    return [deltas.add(character) for character in text]


@pytest.mark.parametrize(
    ("text", "stops", "count"),
    [
        ("", ["ab"], 0),
        ("xa", ["ab"], 1),
        ("xab", ["abc", "b!"], 2),
        ("aaa", ["aaaa"], 3),
        ("x", ["ab", "cd"], 0),
        ("abab", ["ababc", "abx"], 4),
        ("abc", ["abcd", "bc"], 3),
    ],
)
def test_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str], count: int):
    assert Deltas(stops).add(text) == text[: len(text) - count]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.text("ab \n", max_size=4), max_size=8),
    stops=st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=3),
    trim=st.booleans(),
)
@example(parts=["\n", "a"], stops=["\n"], trim=True)
@example(parts=["abc", "d"], stops=["abcd", "bc"], trim=True)
def test_the_deltas_are_the_answer_also_where_the_text_goes_on_behind_a_stop(parts, stops, trim: bool):
    deltas = Deltas(stops, trim)
    given = "".join(map(deltas.add, parts))
    answer = before_stop("".join(parts), stops)
    answer = answer.strip() if trim else answer
    assert given + deltas.rest(answer) == answer


def test_white_space_at_either_end_is_no_part_of_the_answer():
    assert "".join(deltas_of("  a b\n ", [])) == "a b"


def test_white_space_is_given_with_what_follows_it():
    assert deltas_of("a  b", []) == ["a", "", "", "  b"]


def test_the_beginning_of_a_stop_string_is_given_when_it_goes_on_otherwise():
    assert deltas_of("xabay", ["abc"]) == ["x", "", "", "ab", "ay"]


def test_the_rest_is_what_was_held_back():
    deltas = Deltas(["abc"])
    assert deltas.add("xab") == "x"
    assert deltas.rest("xab") == "ab"


# Where a sequence goes on


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_the_text_that_it_adds_to_its_prompt(kind):
    tokenizer = made(kind)
    for text in (*TEXTS, "it is true, the end"):
        ids = tokenizer(text.lower(), add_special_tokens=False)["input_ids"]
        whole_text = whole(tokenizer, ids)
        for place in range(1, len(ids)):
            before = decoding_context(tokenizer, ids[:place])
            added = decode_after(tokenizer, before, ids[place:])
            assert whole(tokenizer, ids[:place]) + added == whole_text
            assert "".join(token_texts(tokenizer, ids[place:], before)) == added


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_character_that_a_prompt_begins_belongs_to_what_completes_it(place: int):
    ids = bytes_of("a😀b")
    before, rest = decoding_context(BYTE, ids[: 1 + place]), ids[1 + place :]
    assert decode_after(BYTE, before, rest) == "".join(token_texts(BYTE, rest, before)) == "😀b"


def test_the_context_is_short_and_begins_with_a_character():
    assert len(decoding_context(BYTE, bytes_of("a" * 1000))) == 4
    assert whole(BYTE, decoding_context(BYTE, bytes_of("日" * 100))).strip(REPLACEMENT)
    special = [*bytes_of("ab"), *[tiny.EOS] * 9]
    assert whole(BYTE, decoding_context(BYTE, special)) == "ab"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stop=st.text("ab", min_size=1, max_size=6), text=st.text("ab", max_size=30), size=st.integers(1, 5))
def test_a_match_is_as_long_as_what_the_text_ends_with(stop: str, text: str, size: int):
    matcher, seen = StopMatcher(stop), ""
    for start in range(0, len(text), size):
        part = text[start : start + size]
        end = matcher.add(part)
        if end is not None:
            assert (seen + part).find(stop) + len(stop) == len(seen) + end
            return
        seen += part
        assert stop not in seen
        assert matcher.length == max(n for n in range(len(stop)) if seen.endswith(stop[:n]))


def test_a_stop_string_that_is_longer_than_the_answer_costs_a_step_a_character():
    matcher, steps = StopMatcher("ab" * 50_000), []
    longer = matcher._longer
    matcher._longer = lambda *args: steps.append(1) or longer(*args)
    for _ in range(2000):
        matcher.add("ab")
    assert matcher.length == 4000
    assert len(steps) <= 2 * 4000
