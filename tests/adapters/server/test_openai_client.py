"""The official `openai` package talks to the server as to OpenAI's own."""

import asyncio
import math

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

import models
from tests.helpers.servers.ours import Ours

CAPITAL = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
PARIS = "The capital of France is Paris."
MODEL = "tiny_talk"


@pytest.fixture
def client(talk: Ours):
    with openai.OpenAI(base_url=f"{talk.url}/v1", api_key="any", max_retries=0, timeout=30) as client:
        yield client


def test_a_chat_has_every_field(client: openai.OpenAI):
    response = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, logprobs=True, top_logprobs=2, seed=1, max_completion_tokens=20
    )
    assert type(response) is ChatCompletion
    ChatCompletion.model_validate(response.model_dump())  # Strictly: the client itself checks nothing.
    [choice] = response.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (PARIS, "assistant", "stop")
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == PARIS
    assert [len(token.top_logprobs) for token in tokens] == [2] * len(tokens)
    usage = response.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert response.model == MODEL


def test_the_confidence_is_that_of_the_model_asked_from_python(client: openai.OpenAI):
    [choice] = client.chat.completions.create(model=MODEL, messages=CAPITAL).choices
    [answer] = models.load(MODEL).generate([CAPITAL])
    assert choice.confidence == pytest.approx(answer.confidence, rel=1e-4)
    assert choice.message.content == answer.text


def test_a_stream_gives_the_answer_in_pieces_and_its_usage(client: openai.OpenAI):
    whole = client.chat.completions.create(model=MODEL, messages=CAPITAL)
    *chunks, last = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, stream=True, logprobs=True, stream_options={"include_usage": True}
    )
    assert len(chunks) > 3
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == PARIS
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1].choices[0].confidence == pytest.approx(whole.choices[0].confidence)
    assert "".join(token.token for token in chunks[-1].choices[0].logprobs.content) == PARIS
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {last.id}


def test_the_clients_own_helper_for_streams_puts_it_together(client: openai.OpenAI):
    with client.chat.completions.stream(model=MODEL, messages=CAPITAL) as stream:
        assert stream.get_final_completion().choices[0].message.content == PARIS


def test_many_clients_share_a_batch_and_each_has_its_own_answer(talk: Ours):
    capitals = {"Japan": "Tokyo", "France": "Paris", "Italy": "Rome", "Spain": "Madrid"}

    async def ask(client: openai.AsyncOpenAI, country: str) -> str:
        question = [{"role": "user", "content": f"What is the capital of {country}?"}]
        stream = await client.chat.completions.create(model=MODEL, messages=question, stream=True)
        return "".join([chunk.choices[0].delta.content async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{talk.url}/v1", api_key="any", timeout=30) as client:
            return await asyncio.gather(*(ask(client, country) for country in capitals for _ in range(5)))

    expected = [f"The capital of {key} is {value}." for key, value in capitals.items() for _ in range(5)]
    assert asyncio.run(all_of_them()) == expected


def test_n_answers_come_in_one_response_and_a_seed_repeats_them(client: openai.OpenAI):
    options = {"model": MODEL, "messages": CAPITAL, "n": 3, "temperature": 1.9, "seed": 7, "max_tokens": 8}
    first, again = (client.chat.completions.create(**options, top_p=1.0) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert [one.message.content for one in first.choices] == [one.message.content for one in again.choices]
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**options, top_p=1.0, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert list(streamed.values()) == [one.message.content for one in first.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_ends_the_answer_before_it(client: openai.OpenAI, stream: bool):
    response = client.chat.completions.create(model=MODEL, messages=CAPITAL, stop=["nce is"], stream=stream)
    if stream:
        assert "".join(chunk.choices[0].delta.content for chunk in response) == "The capital of Fra"
    else:
        assert response.choices[0].message.content == "The capital of Fra"


def test_completions_have_prompts_echo_and_log_probabilities(client: openai.OpenAI):
    prompts = ["The capital of France", "The capital of Japan"]
    response = client.completions.create(model=MODEL, prompt=prompts, max_tokens=3, echo=True, logprobs=1)
    Completion.model_validate(response.model_dump())
    for choice, prompt in zip(response.choices, prompts, strict=True):
        assert choice.text.startswith(prompt)
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)
    chunks = client.completions.create(model=MODEL, prompt=prompts[0], max_tokens=3, stream=True)
    assert prompts[0] + "".join(chunk.choices[0].text for chunk in chunks) == response.choices[0].text


def test_embeddings_come_as_the_client_asks_for_them(client: openai.OpenAI):
    packed = client.embeddings.create(model=MODEL, input=["Hi", "Good morning!"])  # As base64, its default.
    plain = client.embeddings.create(model=MODEL, input=["Hi", "Good morning!"], encoding_format="float")
    assert [len(entry.embedding) for entry in packed.data] == [128, 128]
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding)
    assert packed.usage.prompt_tokens == plain.usage.total_tokens > 0


def test_models_are_listed_and_found(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="not called 'gpt-4'"):
        client.models.retrieve("gpt-4")


# The Responses API


def test_a_response_has_the_text_and_every_field(client: openai.OpenAI):
    response = client.responses.create(
        model=MODEL,
        instructions="You are a helpful assistant.",
        input=[{"role": "user", "content": [{"type": "input_text", "text": CAPITAL[1]["content"]}]}],
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )
    Response.model_validate(response.model_dump())
    assert (response.output_text, response.status) == (PARIS, "completed")
    [part] = response.output[0].content
    assert math.exp(sum(token.logprob for token in part.logprobs)) > 0.9
    assert 0.9 < part.confidence <= 1
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_response_that_is_cut_says_so(client: openai.OpenAI):
    response = client.responses.create(model=MODEL, input="Hi", max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_response_streams_by_events(client: openai.OpenAI):
    with client.responses.stream(model=MODEL, input=CAPITAL[1]["content"]) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == PARIS
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARIS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")


# What is refused


def test_errors_are_of_the_clients_own_kinds(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="not called 'gpt-4': its names are tiny_talk") as refused:
        client.chat.completions.create(model="gpt-4", messages=CAPITAL)
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
        client.chat.completions.create(model=MODEL, messages=CAPITAL, extra_body={"temprature": 1})
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\] has the role 'robot'"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "robot", "content": "x"}])
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="tools: no model here calls tools") as refused:
        client.chat.completions.create(model=MODEL, messages=CAPITAL, tools=[tool])
    assert refused.value.request_id


def test_an_error_of_a_stream_has_its_status_too(client: openai.OpenAI):
    long = [{"role": "user", "content": "word " * 3000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="context length is"):
            client.chat.completions.create(model=MODEL, messages=long, stream=stream)
