"""Once is enough: equal requests of a run are answered once, and what the cache has is not answered again."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from engine.answer_cache import FILE
from engine.backends import sharing_worker
from engine.backends.dispatch import dispatch
from engine.backends.local import LocalEngine
from engine.backends.sharing_worker import SharingWorker
from engine.contract import gathered
from engine.errors import Cancelled, ConfigurationError, GenerationError
from engine.loading import load
from engine.options import EndpointOptions, LoadOptions
from engine.types import Answer, Chunk, Request
from tests import tiny
from tests.fakes import FakeWorker
from tests.helpers.talk import ask


def echo(request: Request) -> str:
    return f"{request.messages[-1].text}!"


def ran(worker: FakeWorker, requests, follow=None) -> list[Chunk]:
    return list(dispatch(iter(requests), follow, SharingWorker(worker, None)))


def texts(chunks: list[Chunk]) -> dict[int, list[str]]:
    """The answers of each index, from its deltas; each equals the answer that its last chunk has."""
    found, text = defaultdict(list), defaultdict(str)
    for chunk in chunks:
        text[chunk.index] += chunk.text
        if chunk.answer is not None:
            assert chunk.answer.error or text[chunk.index] == chunk.answer.text
            found[chunk.index].append(text.pop(chunk.index))
    return dict(found)


def test_equal_requests_are_answered_once_and_each_gets_the_answer():
    worker = FakeWorker(echo)
    requests = [ask("a"), ask("b"), ask("a"), ask("a", max_new_tokens=3), ask("a", seed=1), ask("b")]
    assert texts(ran(worker, requests)) == {i: [f"{text}!"] for i, text in enumerate("abaaab")}
    assert [request for _, request in worker.asked] == [requests[i] for i in (0, 1, 3, 4)]


def test_a_prompt_of_tokens_is_not_the_same_as_messages_or_text():
    worker = FakeWorker(lambda request: "yes")
    options = ask("").options
    ran(worker, [Request((), options, "a"), Request((), options, (97,)), ask("a"), Request((), options)])
    assert len(worker.asked) == 4


def test_every_field_that_tells_requests_apart_counts():
    telling = [one.name for one in fields(Request) if one.compare]
    assert len(ask("a").asked) == len(telling) - 1, "all but the options, which have a digest"


def test_one_that_comes_while_the_answer_grows_gets_all_of_it_as_it_grows():
    worker = FakeWorker(lambda request: "word", letters=True)

    def requests() -> Iterator[Request | None]:
        yield ask("a")
        yield None
        yield None
        yield ask("a")

    chunks = ran(worker, requests())
    late = [chunk.text for chunk in chunks if chunk.index == 1]
    assert "".join(late) == "word"
    assert len(late) > 2, "what there was, and then the deltas"
    assert len(worker.asked) == 1


def test_what_follows_is_asked_for_each_and_shared_again():
    worker = FakeWorker(echo)
    turns = defaultdict(int)

    def follow(index: int, answer: Answer) -> Request | None:
        turns[index] += 1
        return ask("a", answer.text, f"b{turns[index]}") if turns[index] < 3 else None

    found = texts(ran(worker, [ask("a"), ask("a")], follow))
    assert found == {i: ["a!", "b1!", "b2!"] for i in (0, 1)}
    assert len(worker.asked) == 3


def test_a_conversation_of_a_thousand_turns_that_are_all_known_ends():
    turns = defaultdict(int)

    def follow(index: int, answer: Answer) -> Request | None:
        turns[index] += 1
        return ask(str(turns[index])) if turns[index] < 1000 else None

    def requests() -> Iterator[Request | None]:
        yield ask("a")
        while turns[0] < 1000:
            yield None
        yield ask("a")

    worker = FakeWorker(echo)
    ran(worker, requests(), follow)
    assert (turns[1], len(worker.asked)) == (1000, 1000)


@pytest.mark.parametrize("gone", [0, 1])
def test_who_has_gone_does_not_take_the_answer_of_its_equal_away(gone: int):
    worker = FakeWorker(lambda request: "word", letters=True)
    requests = [ask("a"), ask("a")]
    requests[gone] = replace(requests[gone], cancelled=lambda: bool(worker._given))
    answers = gathered(ran(worker, requests), 2)
    assert isinstance(answers[gone].error, Cancelled)
    assert answers[1 - gone].text == "word"


def test_when_all_have_gone_the_request_leaves_and_may_be_asked_anew():
    worker = FakeWorker(lambda request: "word", letters=True)
    waiting = replace(ask("a"), cancelled=lambda: bool(worker._given))

    def follow(index: int, answer: Answer) -> Request | None:
        worker._given = 0
        return ask("a") if answer.error and index == 1 else None

    found = texts(ran(worker, [waiting, waiting], follow))
    assert found[1][-1] == "word"
    assert [index for index, _ in worker.asked] == [0, 1], "never under the index that was dropped"


def test_sampled_requests_are_shared_by_an_equal_seed_only():
    worker = FakeWorker(echo)
    drawn, seeded, other = ({"temperature": 1.0, "seed": seed} for seed in (None, 1, 2))
    ran(worker, [ask("a", **options) for options in (drawn, seeded, drawn, seeded, other)])
    assert [request.options.seed for _, request in worker.asked] == [None, 1, None, 2]


def test_a_failure_goes_to_those_who_wait_and_is_forgotten():
    tries = []

    def reply(request: Request) -> str:
        tries.append(request)
        if len(tries) == 1:
            raise GenerationError("out of memory")
        return "well"

    def requests() -> Iterator[Request | None]:
        yield from (ask("a"), ask("a"), None, ask("a"))

    answers = gathered(ran(FakeWorker(reply), requests()), 3)
    assert [str(answer.error) for answer in answers] == ["out of memory", "out of memory", "None"]


def test_neither_requests_that_wait_nor_answers_pile_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharing_worker, "MAX_WAITING", 3)
    monkeypatch.setattr(sharing_worker, "KEPT", 500)
    taken = []

    def requests() -> Iterator[Request]:
        for i in range(40):
            taken.append(i)
            yield ask("a" if i < 20 else str(i % 10))

    worker = FakeWorker(echo, room=2)
    sharing = SharingWorker(worker, None)
    most = 0
    for chunk in dispatch(requests(), None, sharing):
        if chunk.answer is not None:
            most = max(most, len(taken) - chunk.index)
    assert most <= 6
    assert len(worker.asked) > 11, "some of the ten answers had gone when they were asked for again"


@pytest.mark.parametrize("confidence", ["min_token", "self_consistency"])
def test_a_model_answers_equal_requests_once(confidence: str):
    engine = tiny.engine("llama")
    request = ask("Hello", max_new_tokens=4, confidence=confidence, confidence_samples=2)
    first, other, second = engine.generate([request, ask("Bye", max_new_tokens=4), request])
    assert first == second
    assert first != other
    assert (engine.reused.shared, engine.reused.cached) == (1, 0)


@pytest.fixture
def cached(tiny_model: Path, tmp_path: Path):
    """Makes an engine with a cache in the same folder, of the tiny model or one in another folder."""

    def make(folder: Path = tiny_model, **options) -> LocalEngine:
        engine = LocalEngine(load(LoadOptions(model_name=str(folder), device="cpu", **options)))
        engine.cache_in(tmp_path / "cache")
        return engine

    return make


REQUESTS = [
    ask("Hello", max_new_tokens=4, logprobs=True, top_logprobs=2),
    ask("Is it?", labels=("yes", "no")),
]


def test_the_next_run_takes_answers_from_the_cache(cached, caplog: pytest.LogCaptureFixture):
    first = cached().generate(REQUESTS)
    engine = cached()
    with caplog.at_level("INFO", "engine"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "score", None)  # Nothing is computed.
        patch.setattr("engine.backends.local_worker.LocalWorker.add", None)
        assert engine.generate(REQUESTS) == first
    assert engine.reused.cached == 2
    assert "0 answers were shared by equal requests, 2 came from the cache" in caplog.text


def test_an_entry_that_cannot_be_read_is_made_anew(cached, tmp_path: Path):
    first = cached().generate(REQUESTS)
    with sqlite3.connect(tmp_path / "cache" / FILE) as database:
        database.execute("UPDATE answers SET answer = CAST(replace(answer, 'stop', 'step') AS BLOB)")
        database.execute("UPDATE answers SET answer = CAST(replace(answer, 'length', 'lengths') AS BLOB)")
    engine = cached()
    assert engine.generate(REQUESTS) == first
    assert engine.reused.cached == 0
    again = cached()
    again.generate(REQUESTS)
    assert again.reused.cached == 2, "it was stored again"


def test_other_weights_or_other_loading_never_share(cached, tiny_model: Path, tmp_path: Path):
    [answer] = cached().generate(REQUESTS[:1])
    changed = tiny.save(tmp_path / "changed", seed=1)
    for engine in (cached(changed), cached(dtype="float16")):
        engine.generate(REQUESTS[:1])
        assert engine.reused.cached == 0
    moved = tmp_path / "changed"  # Now with the weights of the other.
    for path in tiny_model.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    engine = cached(moved)
    assert engine.generate(REQUESTS[:1]) == [answer]
    assert engine.reused.cached == 1, "the content counts, not the folder's name"


def test_what_failed_or_was_drawn_is_not_cached(cached, tmp_path: Path):
    failed, drawn = ask("x" * 600, overflow="error"), ask("Hi", temperature=1.0, max_new_tokens=2)
    assert cached().generate([failed, drawn])[0].error is not None
    with sqlite3.connect(tmp_path / "cache" / FILE) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (0,)


def test_a_cache_that_others_use_at_once_or_that_breaks_costs_no_answer(cached, tmp_path: Path, caplog):
    one, other = cached(), cached()
    for engine in (one, other, one):
        engine.generate(REQUESTS)
    assert one.reused.cached + other.reused.cached == 4
    assert (tmp_path / "cache" / FILE).stat().st_mode & 0o077 == 0, "for its owner alone"
    one.cache._database.close()
    assert one.generate(REQUESTS) == other.generate(REQUESTS)
    assert "the cache does not work (ProgrammingError): answers are made anew" in caplog.text


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path, tiny_model: Path):
    from adapters.hugging import HuggingAdapter
    from engine.backends.endpoint import EndpointEngine

    (tmp_path / FILE).write_text("no database " * 99)
    configured = {"model_name": str(tiny_model), "device": "cpu", "cache": str(tmp_path)}
    with pytest.raises(ConfigurationError, match=r"option 'cache': .* cannot be used .*: choose another"):
        HuggingAdapter(configured).load()
    with pytest.raises(ConfigurationError, match="a server may change its weights unseen"):
        EndpointEngine(EndpointOptions(base_url="http://127.0.0.1:1")).cache_in(tmp_path)


def test_ranked_answers_come_back_from_the_cache_with_all_that_is_known_of_them(cached):
    request = ask("Hello", max_new_tokens=4, n=3, temperature=1, seed=1)
    [made] = cached().generate([request])
    again = cached()
    [found] = again.generate([request])
    assert (found, len(found.others)) == (made, 2)
    assert again.reused.cached == 1
