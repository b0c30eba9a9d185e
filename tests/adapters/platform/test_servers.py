"""A server behind the platform's adapter: what is no answer replaces none."""

import base64

import pytest

from adapters.dataloop import PredictionError
from adapters.platform import remote
from engine.backends.endpoint import EndpointEngine
from engine.options import EndpointOptions
from tests.adapters.conftest import answers_on, listed, texts_on
from tests.helpers.servers import misbehaving
from tests.helpers.servers.misbehaving import Server

MESSAGES = {
    "reasoning": {"content": None, "reasoning_content": "a private matter"},
    "a thought": {"content": "<think>a private matter"},
    "a call": {"content": None, "tool_calls": [{"id": "1", "function": {"name": "a private matter"}}]},
    "a refusal": {"content": None, "refusal": "a private matter"},
    "nothing": {"content": ""},
}
ANSWERS = [("first", "AND AGAIN"), ("first", "HELLO"), ("second", "GRÜSS GOTT")]


def whole(message: dict) -> misbehaving.Handler:
    return misbehaving.answering({"choices": [{"message": message, "finish_reason": "stop"}]})


def streamed(message: dict) -> misbehaving.Handler:
    return misbehaving.streaming({"choices": [{"delta": message, "finish_reason": "stop"}]})


@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_is_no_answer_replaces_none(answering, upload, questions, message: dict, way):
    item = upload("questions.json", questions)
    adapter = answering(None, stream=way is streamed, stream_interval=0)
    with Server() as server:
        adapter.adapter._engine = EndpointEngine(EndpointOptions(base_url=server.url, model_name="m"))
        adapter.predict_items([item])
        assert texts_on(item) == ANSWERS
        before = answers_on(item)
        server.routes["/v1/chat/completions"] = way(message)
        with pytest.raises(PredictionError, match="the answer of http") as raised:
            adapter.predict_items([item])
        assert "private" not in str(raised.value)
        server.routes["/v1/chat/completions"] = misbehaving.quoting(400)
        with pytest.raises(PredictionError, match="status 400") as raised:
            adapter.predict_items([item])
        assert "Grüß" not in str(raised.value)
    assert listed(raised) == [item.id] * 3
    assert answers_on(item) == before


def test_what_was_thought_is_not_stored(answering, upload, questions):
    item = upload("questions.json", questions)
    adapter = answering(None)
    with Server() as server:
        adapter.adapter._engine = EndpointEngine(EndpointOptions(base_url=server.url, model_name="m"))
        message = {"content": "<think>a private matter</think>Yes", "reasoning": "a private matter"}
        server.routes["/v1/chat/completions"] = whole(message)
        adapter.predict_items([item])
        assert all("private" not in str(asked.body) for asked in server.asked)
    assert {text for _, text in texts_on(item)} == {"Yes"}
    assert "private" not in str(answers_on(item))


PNG = b"\x89PNG\r\n\x1a\n and so on"


def picture(prompt: str, *urls: str) -> list[dict]:
    images = [{"mimetype": "image/*", "value": url} for url in urls]
    return [{"mimetype": "application/text", "value": prompt}, *images]


def test_a_server_gets_the_images_of_a_prompt_and_the_bytes_of_the_platforms_own(answering, upload):
    image, text = upload("cat.png", PNG), upload("notes.txt", b"no image")
    link = "{}/items/{}/stream".format(remote.dl.client_api.base_gate_url, "{}")
    prompts = {
        "good": picture("look", link.format(image.id), "https://example.com/dog.png"),
        "wrong": {"1": {"mimetype": "image/*", "value": link.format(text.id)}, "2": "look"},
        "gone": {"1": {"mimetype": "image/*", "value": link.format("0" * 24)}, "2": "look"},
    }
    content = {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": prompts}
    item = upload("pictures.json", content)
    adapter = answering(None, backend="endpoint", base_url="http://127.0.0.1:9")
    with Server() as server:
        adapter.adapter._engine = EndpointEngine(EndpointOptions(base_url=server.url, model_name="m"))
        with pytest.raises(PredictionError) as raised:
            adapter.predict_items([item])
        [asked] = server.asked
    sent = [part["image_url"]["url"] for part in asked.body["messages"][0]["content"][1:]]
    bytes_of_it = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert sent == [bytes_of_it, "https://example.com/dog.png"]
    assert [key for key, _ in texts_on(item)] == ["good"]
    assert {failure.key: failure.reason.split("(")[0] for failure in raised.value.failures} == {
        "wrong": f"its image cannot be read: item {text.id} is not an image, but text/plain",
        "gone": f"its image cannot be read: item {'0' * 24}: 404: not found ",
    }
