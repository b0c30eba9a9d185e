"""Streaming: the pieces of each answer make its text, the last one carries the answer, all requests mixed."""

from collections import defaultdict

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.backends.local import LocalEngine
from engine.generation.sequence import SequenceState, extend
from engine.types import Answer, Chunk, Request
from tests import tiny
from tests.engine.test_text import broken, bytes_of, sequences, special, spelled, stops
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama", eos_token_id=tiny.ENDS)


def stream(engine: LocalEngine, requests: list[Request], follow=None) -> dict[int, list[Chunk]]:
    """The chunks of each request, in the order in which they came."""
    chunks = defaultdict(list)
    for chunk in engine.stream(requests, follow):
        chunks[chunk.index].append(chunk)
    return chunks


def spell(text: str, **options) -> list[Chunk]:
    """The chunks of a model that spells a text."""
    speller = LocalEngine(tiny.loaded(tiny.spelling_model(text)))
    return stream(speller, [ask("Go on", **options)])[0]


def test_the_pieces_are_the_text_and_the_last_one_carries_the_answer(engine: LocalEngine):
    requests = [ask("x" * n, max_new_tokens=n) for n in (30, 1, 12, 20)]
    chunks, expected = stream(engine, requests), engine.generate(requests)
    assert sorted(chunks) == [0, 1, 2, 3]
    for i, answer in enumerate(expected):
        *pieces, last = chunks[i]
        assert last.answer == answer
        assert "".join(chunk.text for chunk in chunks[i]) == answer.text
        assert all(piece.answer is None and piece.text for piece in pieces)


def test_an_answer_comes_while_it_grows():
    assert [chunk.text for chunk in spell("hé日 word")] == ["h", "é", "日", " w", "o", "r", "d", ""]


def test_nothing_of_a_stop_string_is_given():
    chunks = spell("hé日 word", stop="word")
    assert [chunk.text for chunk in chunks] == ["h", "é", "日", ""]
    assert chunks[-1].answer.text == "hé日"


def test_what_might_have_become_a_stop_string_is_given_in_the_end():
    assert [chunk.text for chunk in spell("hé日", stop="日本")] == ["h", "é", "日"]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8])
def test_an_answer_that_is_cut_within_a_character_ends_before_it(length: int):
    chunks = spell("ش日🙂", max_new_tokens=length)
    text = "".join(chunk.text for chunk in chunks)
    assert text == chunks[-1].answer.text == "ش日🙂".encode()[:length].decode(errors="ignore")


def test_the_chunks_of_several_requests_are_mixed(engine: LocalEngine):
    requests = [ask(text, max_new_tokens=20) for text in ("one", "two", "three")]
    order = [chunk.index for chunk in engine.stream(requests)]
    assert order != sorted(order)


def test_the_first_piece_comes_before_the_answer_is_made():
    engine = tiny.engine("llama", eos_token_id=tiny.PAD)
    passes = []
    with engine.loaded.model.register_forward_pre_hook(lambda *_: passes.append(1)):
        assert engine.batching.kv_token_bytes
        passes.clear()
        chunks = engine.stream([ask("Hello", max_new_tokens=40)])
        next(chunks)
        assert len(passes) < 10
        assert next(chunks).answer is None
        assert len(passes) < 20


def test_what_follows_is_streamed_under_its_conversations_index(engine: LocalEngine):
    asked = [ask("one", max_new_tokens=8), ask("two", max_new_tokens=8)]
    told = []

    def follow(i: int, answer: Answer) -> Request | None:
        told.append(i)
        return ask("and then?", max_new_tokens=8) if told.count(i) == 1 else None

    chunks = stream(engine, asked, follow)
    (then,) = engine.generate([ask("and then?", max_new_tokens=8)])
    for i, first in enumerate(engine.generate(asked)):
        answers = [chunk.answer for chunk in chunks[i] if chunk.answer]
        assert [answer.token_ids for answer in answers] == [first.token_ids, then.token_ids]
        assert "".join(chunk.text for chunk in chunks[i]) == first.text + then.text


@pytest.mark.parametrize("architecture", tiny.BATCHED)
def test_a_model_in_batches_gives_an_answer_as_one_piece(architecture: str):
    engine = tiny.engine(architecture)
    requests = [ask("x" * n, max_new_tokens=n) for n in (9, 20)]
    for i, answer in enumerate(engine.generate(requests)):
        (chunk,) = stream(engine, requests)[i]
        assert (chunk.text, chunk.answer) == (answer.text, answer)


def test_a_request_that_cannot_be_asked_is_one_chunk_with_its_error(engine: LocalEngine):
    chunks = stream(engine, [ask("Hello", max_new_tokens=5), ask("x" * 600)])
    (failed,) = chunks[1]
    assert (failed.text, failed.answer.finish_reason) == ("", "error")
    assert chunks[0][-1].answer.error is None


def test_a_stream_that_is_left_leaves_the_engine_as_it_was(engine: LocalEngine):
    request = ask("Hello", max_new_tokens=20)
    expected = engine.generate([request])
    chunks = engine.stream([request, ask("other", max_new_tokens=20)])
    next(chunks)
    chunks.close()
    assert engine.generate([request]) == expected


@settings(max_examples=120, deadline=None, derandomize=True)
@given(tokens=sequences(*spelled, *broken, *special).filter(bool), stops=st.just([]) | stops)
@example(tokens=[174, 126, 124, 89, 81, 84, 70], stops=["wo"])
@example(tokens=[*bytes_of("a"), tiny.BOS, *bytes_of("bword")], stops=["ab"])
@example(tokens=[174, *bytes_of("word")], stops=["wo"])  # A byte that is no character, before a stop string.
def test_whatever_tokens_come_the_pieces_are_the_answers_text(
    engine: LocalEngine, tokens: list[int], stops: list[str]
):
    request = engine.conversion.encode(ask("Go on", stop=tuple(stops), max_new_tokens=len(tokens)))
    sequence = SequenceState(request, engine.loaded.model, frozenset([tiny.EOS]))
    detokenizer, deltas = engine.conversion.streaming(request)
    given = ""
    for token in tokens:
        if sequence.running:
            # The model is as certain of this token as can be.
            extend([sequence], torch.nn.functional.one_hot(torch.tensor([token]), tiny.VOCABULARY) * 50.0)
            given += deltas.add(detokenizer.add(token)) if sequence.running else ""
    answer = engine.conversion.decode(sequence)
    assert given + deltas.rest(answer.text) == answer.text
    assert not any(stop in answer.text for stop in stops)
