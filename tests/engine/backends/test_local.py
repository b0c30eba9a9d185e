"""The local engine: requests in, answers out, each with its own options, its own end and its own failure."""

import logging
import math
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from engine.backends.local import LocalEngine
from engine.errors import GenerationError, PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Image, Message, Request
from tests import tiny
from tests.helpers.sequences import breaking, poisoned
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama")


def spell(text: str, **options) -> Answer:
    """The answer of a model that spells a text."""
    speller = LocalEngine(tiny.loaded(tiny.spelling_model(text)))
    return speller.generate([ask("Go on", **options)])[0]


# Answers


def test_an_answer_is_the_text_without_the_tokens_that_end_it():
    answer = spell("grün")
    assert (answer.text, answer.finish_reason, answer.error) == ("grün", "stop", None)
    assert answer.token_ids[-1] == tiny.EOS
    assert answer.usage.completion_tokens == len(answer.token_ids) == len("grün".encode()) + 1
    assert len(answer.logprobs) == len(answer.token_ids)


def test_the_prompts_tokens_are_counted():
    prompt = "[user]Go on"
    assert spell("grün").usage.prompt_tokens == len(f"<{prompt}>[assistant]")


def test_answers_come_in_the_order_of_the_requests(engine: LocalEngine):
    requests = [ask("x" * n, max_new_tokens=n) for n in (7, 30, 2, 18)]
    answers = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert [len(answer.token_ids) for answer in answers] == [7, 30, 2, 18]


def test_no_requests_have_no_answers(engine: LocalEngine):
    assert engine.generate([]) == []


@pytest.mark.parametrize("architecture", ["llama", *tiny.BATCHED])
def test_a_tokenizer_without_a_pad_token_will_do(architecture: str):
    tokenizer = tiny.byte_tokenizer(pad_token=None)
    assert tokenizer.pad_token_id is None
    requests = [ask("x" * n, max_new_tokens=12) for n in (40, 3)]
    answers = [
        LocalEngine(tiny.loaded(tiny.random_model(architecture, eos_token_id=tiny.ENDS), one)).generate(
            requests
        )
        for one in (tokenizer, tiny.byte_tokenizer())
    ]
    assert [answer.token_ids for answer in answers[0]] == [answer.token_ids for answer in answers[1]]


def test_a_model_that_cannot_be_in_flight_says_so_once(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "engine"):
        engine = tiny.engine("bloom")
        for _ in range(2):
            engine.generate([ask("Hello", max_new_tokens=2)])
    assert caplog.text.count("BloomForCausalLM generates in static batches (padded), not continuously") == 1


def test_a_model_that_is_in_flight_says_nothing(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "engine"):
        tiny.engine("llama").generate([ask("Hello", max_new_tokens=2)])
    assert caplog.text == ""


def test_the_likeliest_tokens_are_part_of_an_answer_where_they_are_asked_for(engine: LocalEngine):
    asked, plain = engine.generate([ask("Hello", max_new_tokens=4, top_logprobs=n) for n in (3, 0)])
    assert [len(top) for top in asked.top_logprobs] == [3] * 4
    assert tuple(top[0] for top in asked.top_logprobs) == tuple(
        zip(asked.token_ids, asked.logprobs, strict=True)
    )
    assert plain.top_logprobs == ()


# Ends


def test_an_answer_ends_with_any_token_of_a_list(engine: LocalEngine):
    free = engine.generate([ask("Hello", max_new_tokens=20)])[0].token_ids
    model = tiny.random_model("llama")
    model.generation_config.eos_token_id = [tiny.EOS, free[7]]
    answer = LocalEngine(tiny.loaded(model)).generate([ask("Hello", max_new_tokens=20)])[0]
    assert answer.token_ids == free[: free.index(free[7]) + 1]
    assert answer.finish_reason == "stop"


def test_a_model_that_names_no_end_has_its_tokenizers():
    model = tiny.spelling_model("grün")
    model.generation_config.eos_token_id = None
    answer = LocalEngine(tiny.loaded(model)).generate([ask("Go on")])[0]
    assert (answer.text, answer.finish_reason) == ("grün", "stop")


def test_a_length_reached_is_named_as_the_reason():
    answer = spell("grün", max_new_tokens=3)
    assert (answer.text, answer.finish_reason) == ("gr", "length")
    assert answer.usage.completion_tokens == 3


def test_the_last_token_allowed_may_be_the_end():
    assert spell("grün", max_new_tokens=6).finish_reason == "stop"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_answer_never_runs_past_the_window(architecture: str):
    engine = tiny.engine(architecture, max_position_embeddings=64, eos_token_id=tiny.PAD)
    answers = engine.generate([ask("x" * n, max_new_tokens=500) for n in (10, 20, 38)])
    assert [answer.usage.prompt_tokens + answer.usage.completion_tokens for answer in answers] == [64] * 3
    assert {answer.finish_reason for answer in answers} == {"length"}


# Stop strings


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("d", "hé日 wor"),
        ("wo", "hé日"),
        ("é日", "h"),
        ("日", "hé"),
        ("日 w", "hé"),
        ("h", ""),
        ("hé日 word", ""),
        (["rd", "日", "word"], "hé"),
        (["absent", "wo"], "hé日"),
    ],
)
def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(stop: str | list[str], text: str):
    answer = spell("hé日 word", stop=stop)
    assert (answer.text, answer.finish_reason) == (text, "stop")


def test_tokens_and_log_probabilities_are_all_that_was_generated_up_to_the_stop_strings_end():
    free, stopped = spell("hé日 word"), spell("hé日 word", stop="日 w")
    generated = len("hé日 w".encode())
    assert stopped.token_ids == free.token_ids[:generated]
    assert stopped.logprobs == pytest.approx(free.logprobs[:generated])
    assert stopped.usage.completion_tokens == generated
    assert stopped.confidence == pytest.approx(math.exp(min(stopped.logprobs)))


def test_of_two_stop_strings_complete_at_once_the_earlier_one_cuts():
    assert spell("hé日 word", stop=["o", "wo", " wo"]).text == "hé日"


def test_a_stop_string_that_never_comes_changes_nothing():
    assert spell("hé日 word", stop=["word!", "hé日  "]) == spell("hé日 word")


def test_a_stop_string_in_the_prompt_does_not_end_the_answer():
    speller = LocalEngine(tiny.loaded(tiny.spelling_model("hé日 word")))
    answer = speller.generate([ask("a word?", "a word.", "what word?", stop=["a", "?", "user"])])[0]
    assert answer.text == "hé日 word"


def test_a_stop_string_may_be_a_special_token():
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    a, b, bracket = tiny.byte_tokenizer()("ab]")["input_ids"]
    for token, following in ((bracket, a), (a, tiny.BOS), (tiny.BOS, b), (b, tiny.EOS)):
        logits[token, following] = 10
    speller = LocalEngine(tiny.loaded(tiny.scripted_model(logits)))
    assert speller.generate([ask("Go on")])[0].text == "ab"
    answer = speller.generate([ask("Go on", stop="<s>")])[0]
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("a", (a, tiny.BOS), "stop")


def test_a_transcript_ends_where_the_user_would_speak_again():
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    loop = tiny.byte_tokenizer()(":ok\nUser:")["input_ids"]
    logits[loop[:-1], loop[1:]] = 10
    writer = LocalEngine(tiny.loaded(tiny.scripted_model(logits), tiny.byte_tokenizer(None)))
    answer = writer.generate([ask("Go on", max_new_tokens=20)])[0]
    assert (answer.text, answer.finish_reason) == ("ok", "stop")


# Options row by row


def test_calls_at_the_same_time_do_not_mix(engine: LocalEngine):
    batches = [
        [
            ask("x" * n, max_new_tokens=12, repetition_penalty=penalty),
            ask("y" * n, temperature=1, seed=n, max_new_tokens=9),
        ]
        for n, penalty in ((3, 1.0), (30, 2.0), (9, 1.0), (60, 3.0))
    ]
    expected = [engine.generate(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        assert list(pool.map(engine.generate, batches)) == expected


def test_each_request_of_a_batch_keeps_its_own_options(engine: LocalEngine):
    free = engine.generate([ask("Hello", max_new_tokens=24)])[0]
    requests = [
        ask("Hello", max_new_tokens=5),
        ask("Hello", max_new_tokens=24, temperature=2.0, seed=1),
        ask("Hello", max_new_tokens=24, stop=free.text[6:8]),
        ask("Hello", max_new_tokens=24, repetition_penalty=3.0),
        ask("Hello", max_new_tokens=24, confidence="top_k_mass"),
        ask("Hello", max_new_tokens=24, system_prompt="Be brief."),
    ]
    answers = engine.generate(requests)
    assert [answer.token_ids for answer in answers] == [
        engine.generate([request])[0].token_ids for request in requests
    ]
    assert answers[0].token_ids == free.token_ids[:5]
    assert answers[2].text == free.text[:6].strip()
    assert answers[4].token_ids == free.token_ids
    assert len({answer.token_ids for answer in answers}) == len(answers)


# Confidence


def test_the_confidence_is_of_what_the_model_gave_its_tokens_the_end_included():
    probability = math.exp(10) / (math.exp(10) + tiny.VOCABULARY - 1)
    answer = spell("grün")
    assert answer.logprobs == pytest.approx([math.log(probability)] * 6, abs=1e-5)
    assert answer.confidence == pytest.approx(probability, abs=1e-5)


def test_an_unlikely_end_lowers_the_confidence():
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    a, b, bracket = tiny.byte_tokenizer()("ab]")["input_ids"]
    logits[bracket, a] = 50
    logits[a, tiny.EOS], logits[a, b] = 20.0, 19.99
    answer = LocalEngine(tiny.loaded(tiny.scripted_model(logits))).generate([ask("Go on")])[0]
    assert answer.text == "a"
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-0.01)), abs=1e-4)


def test_top_k_mass_is_that_of_the_five_likeliest_first_tokens():
    shares = torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.08, 0.06])
    logits = torch.full((tiny.VOCABULARY, tiny.VOCABULARY), -50.0)
    (bracket,) = tiny.byte_tokenizer()("]")["input_ids"]
    logits[bracket, 10:17] = shares.log()
    logits[:, tiny.EOS] = torch.where(torch.arange(tiny.VOCABULARY) == bracket, -50.0, 50.0)
    engine = LocalEngine(tiny.loaded(tiny.scripted_model(logits)))
    mass, mean = engine.generate([ask("Go on", confidence=name) for name in ("top_k_mass", "mean_logprob")])
    assert mass.confidence == pytest.approx(0.8 / 0.94, abs=1e-4)
    assert mean.confidence == pytest.approx(math.sqrt(0.3 / 0.94), abs=1e-4)


@pytest.mark.parametrize("options", [{"temperature": 3.0, "seed": 0}, {"top_k": 2, "seed": 0}, {}])
def test_the_confidence_is_the_models_own_however_the_answer_was_drawn(engine: LocalEngine, options: dict):
    answer = engine.generate([ask("Hello", max_new_tokens=12, **options)])[0]
    assert answer.confidence == pytest.approx(math.exp(min(answer.logprobs)))
    prompt = engine.prompter.encode(ask("Hello").messages, GenerationOptions())
    with torch.no_grad():
        logits = engine.loaded.model(torch.tensor([[*prompt, *answer.token_ids]])).logits[
            0, len(prompt) - 1 : -1
        ]
    own = logits.log_softmax(-1)[range(len(answer.token_ids)), answer.token_ids]
    assert answer.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_a_model_that_computes_nan_fails_and_costs_no_other_row():
    (poison,) = tiny.byte_tokenizer()("~")["input_ids"]
    engine = LocalEngine(tiny.loaded(poisoned(tiny.random_model("llama"), poison)))
    requests = [
        ask("Hello", max_new_tokens=8),
        ask("He~llo", max_new_tokens=8),
        ask("He~llo", max_new_tokens=8, temperature=1.0),
        ask("Hello", max_new_tokens=8, confidence="top_k_mass"),
    ]
    well, greedy, sampled, mass = engine.generate(requests)
    for failed in (greedy, sampled):
        assert isinstance(failed.error, GenerationError)
        assert (failed.confidence, failed.finish_reason) == (None, "error")
    assert 0 < well.confidence < 1
    assert 0 < mass.confidence < 1


# Failures


def test_a_prompt_that_cannot_be_asked_costs_no_other_its_answer(engine: LocalEngine):
    asked = ask("Hello", max_new_tokens=8)
    requests = [
        asked,
        ask("x" * 600),
        Request((Message("user", (Image("http://example.com/cat.png"),)),), GenerationOptions()),
        Request((), GenerationOptions()),
        asked,
    ]
    first, *failed, last = engine.generate(requests)
    assert first.token_ids == last.token_ids == engine.generate([asked])[0].token_ids
    for answer in failed:
        assert isinstance(answer.error, PromptError)
        assert (answer.text, answer.confidence, answer.finish_reason) == ("", None, "error")


def test_a_conversation_longer_than_the_window_is_answered_without_its_oldest_turns():
    engine = tiny.engine("gpt2", n_positions=64)
    long, short = ask("x" * 40, "yes", "y" * 8, max_new_tokens=16), ask("y" * 8, max_new_tokens=16)
    answers = engine.generate([long, short])
    assert answers[0] == answers[1]
    assert answers[0].usage.prompt_tokens + answers[0].usage.completion_tokens <= 64


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_a_row_the_model_fails_on_costs_no_other_its_answer(architecture: str):
    engine = tiny.engine(architecture, eos_token_id=tiny.PAD)
    assert bool(engine.batching.kv_token_bytes) == (architecture == "llama")
    (poison,) = tiny.byte_tokenizer()("~")["input_ids"]
    reads_it = lambda inputs: bool((inputs["input_ids"] == poison).any()) and inputs["input_ids"].numel() > 5  # noqa: E731
    with breaking(engine.loaded.model, reads_it, RuntimeError("broken")):
        answers = engine.generate(
            [ask(text, max_new_tokens=4) for text in ("one", "two", "~", "three", "four")]
        )
    assert [answer.finish_reason for answer in answers] == ["length", "length", "error", "length", "length"]
    assert "RuntimeError: broken" in str(answers[2].error)


def test_no_prompt_and_no_answer_is_logged_above_debug(engine: LocalEngine, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        requests = [ask("a secret of mine", max_new_tokens=20), ask("a secret" + "x" * 600)]
        answer, refused = engine.generate(requests)
    assert (answer.error is None, refused.error is None) == (True, False)
    assert "secret" not in caplog.text
    assert answer.text not in caplog.text


def test_a_forked_child_is_refused_at_once():
    engine = tiny.engine()
    engine.embed(["text"])
    calls = {
        "generate": lambda: engine.generate([ask("hi")]),
        "stream": lambda: next(iter(engine.stream([ask("hi")]))),
        "score": lambda: engine.score(["hi"], [["a"]]),
        "next_logits": lambda: engine.next_logits(["hi"]),
        "embed": lambda: engine.embed(["text"]),
        "hidden_states": lambda: engine.hidden_states(["text"]),
        "save": lambda: engine.save("/no/such"),
    }

    def answer(say) -> None:
        for name, call in calls.items():
            try:
                call()
            except Exception as error:
                say.send((name, type(error).__name__, str(error)))

    context = multiprocessing.get_context("fork")
    hear, say = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=[say])
    child.start()
    for name in calls:
        assert hear.poll(60), f"{name} hangs"
        called, kind, text = hear.recv()
        assert (called, kind) == (name, "Unsupported")
        assert f"loaded in process {os.getpid()}" in text
        assert "spawn" in text
    child.join()
