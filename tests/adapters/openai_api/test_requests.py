"""A model by OpenAI's interface: the official package's own types, its option names, its meanings."""

import json
import math

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import models
from adapters.hugging import HuggingAdapter
from adapters.openai_api.responses import chat_token
from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.types import Token
from tests.helpers.servers.misbehaving import Server

CAPITAL = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def model():
    return models.load("tiny_talk", {"max_new_tokens": 32})


def joined(chunks, index: int = 0) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


# Chats


def test_a_chat_is_answered_in_the_official_types(model):
    response = model.chat(messages=CAPITAL)
    assert type(response) is ChatCompletion
    assert response.choices[0].message.content == PARIS
    assert (response.choices[0].message.role, response.choices[0].finish_reason) == ("assistant", "stop")
    assert (response.object, response.model) == ("chat.completion", "tiny_talk")
    usage = response.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert min(usage.prompt_tokens, usage.completion_tokens) > 0
    assert response.choices[0].logprobs is None


def test_content_may_be_a_list_of_parts_and_a_developer_speaks_as_the_system(model):
    question = [{"type": "text", "text": "What is the capital of France?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": question}]
    assert model.chat(messages=messages).choices[0].message.content == PARIS


def test_a_conversation_is_remembered(model):
    messages = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ]
    assert model.chat(messages=messages).choices[0].message.content == "Your name is Ada."


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_a_length_goes_by_three_names(model, name: str):
    response = model.chat(messages=CAPITAL, **{name: 3})
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens == 3


@pytest.mark.parametrize("stop", [" Paris", [" Paris", "xyz"], ("France is P", " Paris")])
def test_a_stop_is_a_string_or_several(model, stop):
    response = model.chat(messages=CAPITAL, stop=stop)
    assert response.choices[0].message.content in ("The capital of France is", "The capital of")
    assert response.choices[0].finish_reason == "stop"


def test_log_probabilities_come_with_each_token_and_its_rivals(model):
    response = model.chat(messages=CAPITAL, logprobs=True, top_logprobs=3)
    tokens = response.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == PARIS
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == PARIS
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) < 1.0001


def test_log_probabilities_end_where_a_stop_cuts_the_text(model):
    response = model.chat(messages=CAPITAL, logprobs=True, stop="nce is Pa")
    tokens = response.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "The capital of Fra"
    assert response.choices[0].message.content == "The capital of Fra"


def test_n_sampled_answers_differ_and_a_seed_gives_the_same_ones_again(model):
    options = {"n": 4, "temperature": 5.0, "seed": 7, "logprobs": True, "max_tokens": 8}
    first, again = (model.chat(messages=CAPITAL, **options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts == [choice.message.content for choice in again.choices]
    for choice in first.choices:
        assert choice.logprobs.content
    assert first.usage.completion_tokens == 4 * 8
    assert first.usage.prompt_tokens == model.chat(messages=CAPITAL).usage.prompt_tokens


# Streams


def test_a_stream_is_made_of_chunks_and_ends_with_its_reason(model):
    chunks = list(model.chat(messages=CAPITAL, stream=True))
    assert all(type(chunk) is ChatCompletionChunk for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert joined(chunks) == PARIS
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_its_usage_where_that_is_asked_for(model):
    *_, last = model.chat(messages=CAPITAL, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == model.chat(messages=CAPITAL).usage


@pytest.mark.parametrize("stop", [" Paris", "France is P", "nce is Pa", "T", PARIS, "."])
def test_a_stop_across_tokens_cuts_a_stream_as_it_cuts_a_text(model, stop: str):
    expected = PARIS.partition(stop)[0].strip()
    assert model.chat(messages=CAPITAL, stop=stop).choices[0].message.content == expected
    assert joined(model.chat(messages=CAPITAL, stop=stop, stream=True)) == expected


def test_several_answers_stream_at_once(model):
    options = {"n": 3, "temperature": 5.0, "seed": 7, "max_tokens": 6}
    whole = model.chat(messages=CAPITAL, **options)
    chunks = list(model.chat(messages=CAPITAL, stream=True, **options))
    assert [joined(chunks, i) for i in range(3)] == [choice.message.content for choice in whole.choices]


def test_each_request_of_a_batch_stops_at_its_own_string(model):
    stops = [" Paris", "nce is", "zzz"]
    answers = [model.generate([CAPITAL], stop=stop)[0].text for stop in stops]
    assert answers == ["The capital of France is", "The capital of Fra", PARIS]


def test_the_log_probability_of_what_cannot_be_is_json():
    token = Token("a", -math.inf, (("a", -math.inf),))
    assert json.loads(json.dumps(chat_token(token), allow_nan=False))["logprob"] == -9999


# Completions


def test_a_text_is_continued_as_it_is(model):
    response = model.text_completion(prompt="The capital of Japan", max_tokens=8)
    assert type(response) is Completion
    assert response.object == "text_completion"
    assert response.choices[0].text.startswith(" is")
    assert response.usage.completion_tokens <= 8


def test_several_prompts_have_n_choices_each_in_order(model):
    prompts = ["The capital of France", "The capital of Japan"]
    options = {"max_tokens": 6, "temperature": 5.0, "seed": 7}
    response = model.text_completion(prompt=prompts, n=2, **options)
    alone = [
        model.text_completion(prompt=prompt, **options | {"seed": seed}).choices[0].text
        for prompt in prompts
        for seed in (7, 8)
    ]
    assert [choice.text for choice in response.choices] == alone
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]


def test_token_ids_are_a_prompt(model):
    text = "The capital of France"
    ids = model.engine.tokenizer(text)["input_ids"]
    expected = model.text_completion(prompt=text, max_tokens=6).choices[0].text
    for prompt in (ids, [ids]):
        assert model.text_completion(prompt=prompt, max_tokens=6).choices[0].text == expected


def test_an_echo_has_the_prompt_and_its_log_probabilities(model):
    text = "The capital of France"
    response = model.text_completion(prompt=text, max_tokens=3, echo=True, logprobs=2)
    [choice] = response.choices
    assert choice.text.startswith(text)
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert [
        choice.text[start:][: len(token)]
        for start, token in zip(logprobs.text_offset, logprobs.tokens, strict=True)
    ] == (logprobs.tokens)
    assert len(logprobs.token_logprobs) == len(logprobs.tokens)
    assert sum(logprobs.token_logprobs[:-3]) == pytest.approx(
        model.engine.score([""], [[text]])[0].candidates[0].total
    )
    assert len(logprobs.top_logprobs[-1]) == 2


def test_an_echo_of_token_ids_has_these_tokens(model):
    text, tokenizer = "The capital of France", model.engine.tokenizer
    letters = [token for letter in text for token in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    options = {"max_tokens": 1, "echo": True}
    [choice] = model.text_completion(prompt=letters, logprobs=0, **options).choices
    assert choice.logprobs.tokens[:-1] == list(text)
    assert choice.text.startswith(text)
    [plain] = model.text_completion(prompt=letters, **options).choices
    assert (plain.text, plain.logprobs) == (choice.text, None)


def test_an_echo_of_a_server_has_the_text_and_is_refused_where_it_needs_the_model():
    with Server() as server:
        configuration = {"backend": "endpoint", "base_url": server.url, "model_name": "m"}
        model = HuggingAdapter(configuration).load()
        response = model.text_completion(prompt=["a b", "c \ud800"], n=2, temperature=1, echo=True)
        assert [choice.text for choice in response.choices] == ["a bA B", "a bA B", "c ?C ?", "c ?C ?"]
        asked = len(server.asked)
        with pytest.raises(Unsupported, match=r"prompt_tokens \(an echo with logprobs\) needs the model"):
            model.text_completion(prompt="a b", echo=True, logprobs=1)
        with pytest.raises(Unsupported, match="the text of token ids needs the model"):
            model.text_completion(prompt=[1, 2], echo=True)
        assert len(server.asked) == asked, "it is refused before the server is asked"


@pytest.mark.parametrize("half", ["Hi \ud800", "\udc00"])
def test_half_a_surrogate_pair_costs_no_other_text_its_result(model, half: str):
    completion = model.text_completion(prompt=[half, "Hi"], max_tokens=2, echo=True)
    assert len(completion.choices) == len(model.embeddings(input=[half, "Hi"]).data) == 2
    assert model.chat(messages=[{"role": "user", "content": half}], stop=half).choices[0].message.content
    assert [answer.error for answer in model.generate([half, "Hi", CAPITAL], max_new_tokens=2)] == [None] * 3
    for vectors in (model.encode([half, "Hi"], query_prefix=half, kind="query"), model.hidden_states([half])):
        assert len(vectors)


def test_a_completion_streams(model):
    text = "The capital of France"
    chunks = list(model.text_completion(prompt=text, max_tokens=6, stream=True))
    expected = model.text_completion(prompt=text, max_tokens=6).choices[0]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == expected.finish_reason


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "neither a text nor token ids"),
        ([["a"]], "neither a text nor token ids"),
        ({"a": 1}, "one of these|no list"),
        ([[10**6]], "token ids outside the vocabulary"),
        ("word " * 3000, "context length is"),
    ],
)
def test_an_invalid_prompt_is_refused(model, prompt, message: str):
    with pytest.raises(PromptError, match=message):
        model.text_completion(prompt=prompt if not isinstance(prompt, dict) else [prompt])


# Embeddings


def test_texts_and_their_token_ids_have_the_same_vectors(model):
    texts = ["Good morning!", "Hi"]
    response = model.embeddings(input=texts)
    assert type(response) is CreateEmbeddingResponse
    assert [entry.index for entry in response.data] == [0, 1]
    ids = model.engine.token_ids(texts)
    assert response.usage.prompt_tokens == response.usage.total_tokens == sum(map(len, ids))
    assert model.embeddings(input=ids) == response
    assert model.embeddings(input=texts[0]).data[0].embedding == pytest.approx(
        response.data[0].embedding, abs=1e-5
    )
    assert model.embeddings(input=ids[0]).data[0].embedding == pytest.approx(
        response.data[0].embedding, abs=1e-5
    )


@pytest.mark.parametrize("given", ["", ["Hi", ""]])
def test_an_empty_text_has_no_embedding(given, model):
    with pytest.raises(PromptError, match=r"input \d is empty, and has no embedding: leave it out"):
        model.embeddings(input=given)


def test_token_ids_that_the_model_does_not_have_are_refused(model):
    with pytest.raises(ConfigurationError, match="token ids outside the vocabulary"):
        model.embeddings(input=[10**6])


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "are one option"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"n": 0}, "option 'n'"),
        ({"n": 2}, "n is 2, but greedy answers are all the same: set temperature"),
        ({"n": 2, "temperature": 0, "stream": True}, "n is 2, but greedy"),
        ({"n": 2, "temperature": 1, "labels": ["a", "b"]}, "n is 2, but a label is chosen"),
        ({"model_name": "other"}, "unknown option 'model_name'"),
        ({"echo": True}, "unknown option 'echo'"),
        ({"stream_options": {"usage": True}}, "stream_options.usage"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"model": "gpt-4"}, "not called 'gpt-4'"),
    ],
    ids=str,
)
def test_an_invalid_option_is_refused_by_its_name(model, options: dict, message: str):
    with pytest.raises(ConfigurationError, match=message):
        model.chat(messages=CAPITAL, **options)


def test_what_no_model_here_can_do_is_refused_with_a_reason(model):
    with pytest.raises(ConfigurationError, match=r"response_format: answers on this machine are free text"):
        model.chat(messages=CAPITAL, response_format={"type": "json_object"})
    with pytest.raises(Unsupported, match="suffix: this model has no tokens to fill a gap"):
        model.text_completion(prompt="a", suffix="b")
    with pytest.raises(ConfigurationError, match="echo and suffix"):
        model.text_completion(prompt="a", suffix="b", echo=True)
    assert model.chat(messages=CAPITAL, response_format={"type": "text"}).choices[0].message.content == PARIS
    with pytest.raises(ConfigurationError, match="echo and stream"):
        model.text_completion(prompt="a", echo=True, stream=True)


@pytest.mark.parametrize(
    "message",
    [{"role": "tool", "content": "x"}, {"content": "x"}, {"role": "user"}, {"role": "user", "content": [1]}],
    ids=str,
)
def test_an_invalid_message_is_named(model, message: dict):
    with pytest.raises(PromptError, match=r"messages\[1\]"):
        model.chat(messages=[CAPITAL[1], message])


@pytest.mark.parametrize("messages", ["Hi", ["Hi"], [None]])
def test_what_is_no_list_of_messages_is_refused(model, messages):
    with pytest.raises(PromptError, match="messages is a list of objects"):
        model.chat(messages=messages)


def test_none_is_not_given(model):
    given = dict.fromkeys(["temperature", "stop", "seed", "n", "logprobs", "response_format"])
    assert model.chat(messages=CAPITAL, **given).choices[0].message.content == PARIS
