"""Statuses, headers and bodies, as any HTTP client sees them."""

import pytest

import models
from tests.adapters.server.prompts import CAPITAL, PARIS
from tests.helpers.servers.ours import Ours, serving

CHAT = "/v1/chat/completions"
ASK = {"messages": CAPITAL}


def test_what_is_no_json_object_is_refused(talk: Ours):
    for body in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        reply = talk.post(CHAT, body)
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_error"), body[:9]
        assert "JSON" in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT, {}, "messages is missing"),
        (CHAT, {"messages": "Hi"}, "messages is a list"),
        (CHAT, {"messages": [{"role": [], "content": "Hi"}]}, "has the role []"),
        (CHAT, ASK | {"n": 0}, "option 'n'"),
        (CHAT, ASK | {"self": 1}, "unknown option 'self'"),
        (CHAT, ASK | {"stop": [""]}, "an empty text is in every answer"),
        (CHAT, ASK | {"chat_template": "{{ 1 }}"}, "chat_template: only the model's own configuration"),
        (CHAT, ASK | {"judge": "owner/model"}, "judge: only the model's own configuration"),
        (CHAT, ASK | {"confidence_model": "owner/model"}, "confidence_model: only the model's own"),
        (CHAT, ASK | {"prompt_builder": "{{ 1 }}"}, "prompt_builder: only the model's own configuration"),
        (CHAT, ASK | {"functions": [{"name": "f"}]}, "functions: no model here calls functions"),
        (CHAT, ASK | {"logit_bias": {"1": 101}}, "logit_bias"),
        ("/v1/completions", {"prompt": [[]]}, "neither a text nor token ids"),
        ("/v1/embeddings", {"input": 5}, "neither a text nor token ids"),
        ("/v1/embeddings", {"input": ["Hi", ""]}, "input 1 is empty"),
        ("/v1/completions", {"prompt": "a", "echo": True, "stream": True}, "echo and stream"),
        ("/v1/responses", {"input": 3}, "input is a text or a list of messages"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "only messages are read"),
        ("/v1/responses", {"input": "Hi", "previous_response_id": "r"}, "previous_response_id"),
        ("/v1/responses", {"input": "Hi", "include": 5, "tools": [{"type": "web_search"}]}, "tools: "),
        ("/v1/embeddings", {"input": "Hi", "dimensions": 129}, "dimensions 129 is more than"),
        ("/v1/embeddings", {"input": "Hi", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/score", {"prompt": "Hi", "candidates": []}, "candidates is a list"),
        ("/v1/score", {"prompt": "Hi", "candidates": ["a"], "temprature": 1}, "unknown option"),
        ("/v1/rerank", {"query": "Hi", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "Hi", "documents": ["a"], "top": 1}, "unknown option 'top'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(talk: Ours, path: str, body: dict, message: str):
    reply = talk.post(path, body)
    assert reply.status == 400
    assert message in reply.error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/score", "/v1/responses"])
def test_another_model_is_not_found_on_any_route(talk: Ours, path: str):
    needed = {"messages": CAPITAL} if path == CHAT else {"input": "Hi", "prompt": "Hi", "candidates": ["a"]}
    allowed = {"/v1/completions": ["prompt"], "/v1/embeddings": ["input"], "/v1/responses": ["input"]}
    body = {key: needed[key] for key in allowed.get(path, needed)}
    reply = talk.post(path, body | {"model": "gpt-4"})
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")


def test_an_unknown_route_or_method_is_an_error_object(talk: Ours):
    assert (talk.post("/v1/images", {}).status, talk.get(CHAT).status) == (404, 405)
    assert "GET /docs lists the routes" in talk.get("/nothing").error["message"]


def test_what_asks_for_nothing_is_taken(talk: Ours):
    nothing = {"tools": [], "tool_choice": "none", "user": "ada", "metadata": {"a": "b"}, "store": False}
    assert talk.post(CHAT, ASK | nothing).body["choices"][0]["message"]["content"] == PARIS


def test_a_body_that_is_too_large_is_refused_before_it_is_read(talk: Ours):
    with talk.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {10**12}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)
    # Without a length, it is refused as soon as it is too long.
    with talk.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(64):
                connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        except OSError:  # It has hung up already.
            pass
        else:
            assert b" 413 " in connection.recv(1000)
    assert talk.post(CHAT, ASK | {"user": "x" * 2**20}).status == 200


def test_each_response_has_a_request_id_and_a_client_may_choose_it(talk: Ours):
    one, other = talk.get("/health"), talk.post(CHAT, b"{")
    assert one.headers["x-request-id"] != other.headers["x-request-id"]
    assert talk.post(CHAT, ASK, x_request_id="mine").headers["x-request-id"] == "mine"
    assert talk.get("/health", x_request_id="x" * 200).headers["x-request-id"] != "x" * 200


def test_candidates_are_scored(talk: Ours):
    reply = talk.post("/v1/score", {"prompt": "The capital of Japan is", "candidates": [" Tokyo", " Paris"]})
    tokyo, paris = reply.body["data"]
    scores = models.load("tiny_talk").score("The capital of Japan is", [" Tokyo", " Paris"])
    assert tokyo["logprob"] == pytest.approx(scores.candidates[0].total, abs=1e-4)
    assert tokyo["probability"] + paris["probability"] == pytest.approx(1)
    chat = talk.post("/v1/score", {"prompt": CAPITAL, "candidates": [PARIS, "Good morning!"]}).body["data"]
    assert chat[0]["logprob"] > chat[1]["logprob"]


def test_documents_are_ranked_by_a_model_that_writes_and_by_one_that_embeds(talk: Ours):
    documents = ["The capital of France is Paris.", "The capital of Japan is Tokyo."]
    body = {"query": "Where is Tokyo?", "documents": documents}
    for reply in (talk.post("/v1/rerank", body), talk.post("/v1/rerank", body | {"model": "tiny_talk"})):
        assert [one["index"] for one in reply.body["results"]] == [1, 0]
    [best] = talk.post("/v1/rerank", body | {"top_n": 1, "return_documents": False}).body["results"]
    assert set(best) == {"index", "relevance_score"}
    adapter = models.load("tiny_talk")
    adapter.task = "embed"
    with serving(adapter) as server:
        results = server.post("/v1/rerank", body | {"query": documents[1]}).body["results"]
    assert results[0]["index"] == 1
    assert results[0]["relevance_score"] == pytest.approx(1, abs=1e-4)
    assert results[0]["document"] == {"text": documents[1]}


def test_metrics_count_what_was_answered():
    with serving(models.load("tiny_talk", {"max_new_tokens": 4})) as server:
        for stop in ("#", "~"):  # Equal requests would have one answer.
            server.post(CHAT, ASK | {"stop": stop})
        server.post(CHAT, {"messages": [{"role": "user", "content": "x " * 3000}]})
        reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert (values["llm_requests_waiting"], values["llm_requests_running"]) == ("0.0", "0.0")
    assert values['llm_requests_total{finish_reason="length"}'] == "2.0"
    assert values['llm_requests_total{finish_reason="error"}'] == "1.0"
    assert values["llm_generation_tokens_total"] == "8.0"
    assert 0 < float(values["llm_prefix_cache_hit_tokens_total"]) < float(values["llm_prompt_tokens_total"])
    assert values["llm_time_per_output_token_seconds_count"] == "2.0"


def test_the_documentation_describes_each_route(talk: Ours):
    assert "swagger" in talk.get("/docs").text
    paths = talk.get("/openapi.json").body["paths"]
    assert {f"/v1/{name}" for name in ("embeddings", "models", "responses", "score", "rerank")} <= set(paths)
    schema = paths[CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "0 is greedy" in schema["properties"]["temperature"]["description"]
