"""Confidences that take more requests: sampled answers beside the answer, and a question about it."""

import logging
from dataclasses import replace

import pytest
import torch
import transformers

from engine.backends.dispatch import dispatch
from engine.backends.local import LocalEngine
from engine.backends.sampling_worker import SamplingWorker
from engine.confidence import Samples, clusters, sampled
from engine.errors import GenerationError
from engine.options import GenerationOptions
from engine.types import Answer, Chunk, Request
from tests import tiny
from tests.fakes import FakeEngine, FakeWorker
from tests.helpers.talk import answered, ask, dialogue


def ran(worker: FakeWorker, requests, engine=None, follow=None) -> list[Chunk]:
    engine = engine or FakeEngine(lambda request: "")
    return list(dispatch(iter(requests), follow, SamplingWorker(worker, engine)))


def answers(chunks: list[Chunk]) -> dict[int, Answer]:
    return {chunk.index: chunk.answer for chunk in chunks if chunk.answer is not None}


def by_seed(*texts: str):
    """Replies to the sample of seed 1, 2, … with these texts, to the request itself with "Yes."."""
    return lambda request: texts[request.options.seed - 1] if request.options.seed else "Yes."


def test_the_confidence_is_the_share_of_samples_that_agree():
    worker = FakeWorker(by_seed("yes", " YES! ", "no", "maybe"))
    request = ask("Is it?", confidence="self_consistency", confidence_samples=4)
    [answer] = answers(ran(worker, [request])).values()
    assert (answer.text, answer.confidence) == ("Yes.", 0.5)
    assert answer.evidence.samples.texts == ("yes", " YES! ", "no", "maybe")


def test_samples_are_drawn_and_seeded_and_ask_the_same():
    worker = FakeWorker(lambda request: "a")
    request = ask("Is it?", confidence="self_consistency", confidence_samples=2, max_new_tokens=7, seed=5)
    ran(worker, [request])
    first, *others = [request for _, request in worker.asked]
    assert first is request
    assert {one.messages for one in others} == {request.messages}
    assert [(one.options.seed, one.options.temperature) for one in others] == [(6, 1.0), (7, 1.0)]
    assert all(one.options.sampled and one.options.max_new_tokens == 7 for one in others)


def test_only_the_answer_is_streamed_and_its_end_waits_for_the_samples():
    worker = FakeWorker(by_seed("no", "yes"))
    plain = ask("Another")
    chunks = ran(worker, [ask("Is it?", confidence="self_consistency", confidence_samples=2), plain])
    assert {chunk.index for chunk in chunks} == {0, 1}
    assert "".join(chunk.text for chunk in chunks if chunk.index == 0) == "Yes."
    assert list(answers(chunks)) == [0, 1]


def test_no_more_samples_are_added_than_there_is_room_for():
    worker = FakeWorker(by_seed(*["yes"] * 8), room=2)
    requests = [ask("Is it?", confidence="self_consistency") for _ in range(3)]
    found = answers(ran(worker, requests))
    assert [found[i].confidence for i in range(3)] == [1.0] * 3
    assert len(worker.asked) == 27


def test_a_sample_that_fails_does_not_count_and_costs_nothing_else():
    def reply(request: Request) -> str:
        if request.options.seed in (1, 2):
            raise GenerationError("out of memory")
        return by_seed("", "", "yes", "no")(request)

    request = ask("Is it?", confidence="self_consistency", confidence_samples=4)
    [answer] = answers(ran(FakeWorker(reply), [request])).values()
    assert answer.confidence == 0.5


def test_without_any_sample_the_confidence_is_unknown():
    def reply(request: Request) -> str:
        if request.options.seed:
            raise GenerationError("out of memory")
        return "Yes."

    [answer] = answers(ran(FakeWorker(reply), [ask("Is it?", confidence="self_consistency")])).values()
    assert (answer.text, answer.confidence) == ("Yes.", None)


def test_an_answer_that_fails_is_not_measured():
    def reply(request: Request) -> str:
        if not request.options.seed:
            raise GenerationError("out of memory")
        return "yes"

    failed, well = ask("Is it?", confidence="self_consistency"), ask("Another")
    found = answers(ran(FakeWorker(reply), [failed, well]))
    assert [str(found[i].error) for i in range(2)] == ["out of memory"] * 2


def test_the_turns_of_a_conversation_are_measured_one_by_one():
    worker = FakeWorker(by_seed("yes", "no"))
    options = {"confidence": "self_consistency", "confidence_samples": 2}
    seen = []

    def follow(index: int, answer: Answer) -> Request | None:
        seen.append(answer.confidence)
        return ask("Is it?", "Yes.", "And now?", **options) if len(seen) < 3 else None

    ran(worker, [ask("Is it?", **options)], follow=follow)
    assert seen == [0.5, 0.5, 0.5]


def test_p_true_is_unknown_where_the_backend_cannot_score(caplog):
    requests = [ask("Is it?", confidence="p_true") for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        found = answers(ran(FakeWorker(lambda request: "Yes."), requests))
    assert [answer.confidence for answer in found.values()] == [None] * 3
    assert caplog.text.count("p_true needs a backend that scores texts") == 1


# With models


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama")


def test_p_true_is_the_probability_of_true_over_false(engine: LocalEngine):
    request = ask("Hi", "Hello.", "Is it?", confidence="p_true", max_new_tokens=5)
    [answer] = engine.generate([request])
    asked = (
        f"Question: Is it?\n Possible answer:{answer.text}\n Is the possible answer:\n (A) True\n (B) False\n"
        " The possible answer is:"
    )
    [scores] = engine.score([ask("Hi", "Hello.", asked)], [["True", "False"]])
    assert answer.confidence == pytest.approx(scores.candidates[0].probability, abs=1e-4)


@pytest.mark.parametrize("prompt", ["A plain text", (5, 9, 12)])
def test_a_plain_prompt_is_asked_about_too(engine: LocalEngine, prompt):
    [answer] = engine.generate(
        [Request((), GenerationOptions(confidence="p_true", max_new_tokens=5), prompt)]
    )
    assert 0 < answer.confidence < 1


def test_samples_of_a_model_are_the_same_again_and_differ_from_each_other(engine: LocalEngine):
    request = ask("Hello", confidence="lexical_similarity", confidence_samples=4, max_new_tokens=8)
    once, again = (engine.generate([request])[0] for _ in range(2))
    assert once == again
    assert once.evidence.samples == again.evidence.samples
    assert len(set(once.evidence.samples.texts)) == 4
    assert once.token_ids == engine.generate([ask("Hello", max_new_tokens=8)])[0].token_ids


def test_conversations_have_them_as_well(engine: LocalEngine):
    options = GenerationOptions(confidence="self_consistency", confidence_samples=2, max_new_tokens=4)
    found = answered(engine, [dialogue("a", "One", "Two"), dialogue("b", "Three")], options)
    assert [len(one) for one in found] == [2, 1]
    assert all(answer.confidence is not None for one in found for answer in one)


@pytest.fixture
def nli(tmp_path) -> str:
    """A folder with a tiny classifier of pairs, one of whose classes is entailment."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=tiny.PAD,
        id2label={0: "contradiction", 1: "NEUTRAL", 2: "Entailment"},
        label2id={"contradiction": 0, "NEUTRAL": 1, "Entailment": 2},
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():  # It says that all follows from all.
        model.classifier.bias.copy_(torch.tensor([0.0, 0.0, 99.0]))
    model.save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_samples_that_entail_each_other_mean_the_same(engine: LocalEngine, nli: str):
    request = ask("Hello", confidence="semantic_entropy", confidence_model=nli, max_new_tokens=8)
    [answer] = engine.generate([request])
    assert answer.confidence == 1.0
    assert answer.evidence.samples.clusters == (0,) * 8


def test_an_embedding_model_compares_by_cosine(engine: LocalEngine, tmp_path):
    folder = str(tiny.save(tmp_path))
    options = {"confidence": "semantic_entropy", "confidence_model": folder, "max_new_tokens": 8}
    apart, together = (
        engine.generate([ask("Hello", confidence_similarity=similarity, **options)])[0]
        for similarity in (1.0, -1.0)
    )
    assert together.confidence == 1.0
    assert len(set(apart.evidence.samples.clusters)) > 4
    assert apart.confidence < 0.25


def test_texts_join_the_first_cluster_that_they_entail_and_are_entailed_by():
    def entails(texts, similarity):
        follows = {("a", "b"), ("b", "a"), ("a", "c"), ("d", "c"), ("c", "d")}
        return torch.tensor([[x == y or (x, y) in follows for y in texts] for x in texts]).numpy()

    assert clusters.clusters(["a", "b", "c", "a", "d"], entails, 0.9) == (0, 0, 1, 0, 1)
    assert clusters.clusters([], entails, 0.9) == ()


def test_a_model_that_is_missing_is_named_and_costs_no_other_answer(engine: LocalEngine):
    bad = ask("Hello", confidence="semantic_entropy", confidence_model="no folder", max_new_tokens=2)
    failed, well = engine.generate([bad, ask("Hello", max_new_tokens=2)])
    assert "no folder is missing" in str(failed.error)
    assert well.error is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("Yes.", "yes"), ("  The  answer ", "the answer"), ("„Tokyo“", "Tokyo"), ("", " \n"), ("ＡＢＣ", "abc")],
)
def test_answers_that_differ_in_form_only_are_equal(one: str, other: str):
    assert sampled.self_consistency(Samples(one, (other,))) == 1


@pytest.mark.parametrize(("one", "other"), [("3.5", "35"), ("-3", "3"), ("C++", "C"), ("yes", "")])
def test_answers_that_differ_in_what_they_say_are_not(one: str, other: str):
    assert sampled.self_consistency(Samples(one, (other,))) == 0


def test_words_of_every_alphabet_count():
    assert sampled.lexical_similarity(Samples("", ("Москва столица", "столица Москва"))) == pytest.approx(0.5)
    assert sampled.lexical_similarity(Samples("", ("東京", "東京"))) == 1
    assert sampled.lexical_similarity(Samples("", ("one",))) is None


@pytest.mark.parametrize("room", [100, 2])
def test_a_cancelled_request_takes_its_samples_along(room: int):
    worker = FakeWorker(lambda request: "yes", room)
    gone: list[str] = []
    first = replace(
        ask("a", confidence="self_consistency", confidence_samples=3), cancelled=lambda: bool(gone)
    )
    found = []
    for chunk in dispatch([first, ask("b")], None, SamplingWorker(worker, FakeEngine(str))):
        gone.append(chunk.text)
        if chunk.answer is not None:
            found.append((chunk.index, chunk.answer.finish_reason))
    assert sorted(found) == [(0, "error"), (1, "stop")]
    assert len(worker.asked) <= room + 1
    assert not worker.queue
