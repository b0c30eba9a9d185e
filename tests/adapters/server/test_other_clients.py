"""Other clients than OpenAI's: the hub library's, curl, and this package's own endpoint backend."""

import json
import subprocess

import pytest
from huggingface_hub import InferenceClient

import models
from engine.backends.endpoint import EndpointEngine
from engine.options import EmbeddingOptions, EndpointOptions, GenerationOptions
from engine.types import Request
from tests.helpers.servers.ours import Ours
from tests.helpers.talk import ask

CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris."
MESSAGES = [{"role": "user", "content": CAPITAL}]


def test_the_hub_librarys_client_chats_and_streams(talk: Ours, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # Else it asks no server at all.
    client = InferenceClient(base_url=f"{talk.url}/v1", api_key="any", timeout=30)
    response = client.chat_completion(
        MESSAGES, model="tiny_talk", logprobs=True, top_logprobs=1, max_tokens=20
    )
    assert response.choices[0].message.content == PARIS
    assert response.choices[0].logprobs.content[0].token == "The"
    chunks = client.chat.completions.create(MESSAGES, model="tiny_talk", stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == PARIS


def test_curl_gets_an_answer_and_a_stream(talk: Ours):
    def curl(*arguments: str, **body) -> str:
        command = ["curl", "-sS", "--fail-with-body", *arguments, f"{talk.url}/v1/chat/completions"]
        command += ["-H", "content-type: application/json", "-d", json.dumps({"messages": MESSAGES} | body)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    assert json.loads(curl())["choices"][0]["message"]["content"] == PARIS
    *events, done, _ = curl("-N", stream=True).split("\n\n")
    assert done == "data: [DONE]"
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    assert "".join(delta["content"] for delta in deltas) == PARIS


@pytest.fixture
def endpoint(talk: Ours) -> EndpointEngine:
    return EndpointEngine(EndpointOptions(base_url=talk.url, model_name="tiny_talk", retries=0, timeout=30))


def test_the_endpoint_backend_answers_as_the_model_does_here(endpoint: EndpointEngine):
    requests = [
        ask(CAPITAL, top_logprobs=2, logprobs=True),
        ask("Hi", max_new_tokens=3),
        ask(CAPITAL, stop=" Paris"),
        ask("Hi", temperature=0.7, seed=3, top_k=20, min_p=0.01, repetition_penalty=1.1),
        ask(CAPITAL, confidence="top_k_mass"),
        Request((), GenerationOptions(max_new_tokens=5), "The capital of Japan"),
    ]
    local = models.load("tiny_talk").engine.generate(requests)
    for answer, expected in zip(endpoint.generate(requests), local, strict=True):
        assert answer.error is None
        assert (answer.text, answer.finish_reason) == (expected.text, expected.finish_reason)
        assert answer.usage == expected.usage
        assert answer.confidence == pytest.approx(expected.confidence, abs=1e-3)


def test_the_endpoint_backend_streams_and_embeds(endpoint: EndpointEngine):
    chunks = list(endpoint.stream([ask(CAPITAL)]))
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == PARIS
    texts = ["Hi", "Good morning!"]
    local = models.load("tiny_talk").encode(texts)
    assert endpoint.embed(texts, EmbeddingOptions()) == pytest.approx(local, abs=1e-5)


def test_a_model_file_is_answered_by_the_server(talk: Ours, questions: dict):
    remote = models.load(
        "tiny_talk", {"backend": "endpoint", "base_url": talk.url, "model_name": "tiny_talk"}
    )
    local = models.load("tiny_talk")

    def answered(adapter) -> list[tuple[str, str]]:
        [answers] = adapter.predict([questions], max_new_tokens=16)
        return [(one["metadata"]["system"]["promptId"], one["coordinates"]) for one in answers]

    assert answered(remote) == answered(local)
