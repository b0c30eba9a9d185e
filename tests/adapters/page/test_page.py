"""The page as it is served, asked by Gradio's own client; test_browser.py does the same in a browser."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters import page, registry
from adapters.cli import main
from engine.errors import ConfigurationError
from tests.adapters.page.fakes import Model
from tests.helpers.calibrated_models import calibrated_talk

gradio_client = pytest.importorskip("gradio_client")
ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The URL of a page with two models."""
    loud = Model(lambda request: request.messages[-1].text.upper(), "loud")
    app = page.start(loud, second=Model(lambda _: "hush", "quiet"), port=free_port())
    yield app.local_url
    app.close(verbose=False)


@pytest.mark.parametrize("confidence", ["calibrated", ""])
def test_a_calibrated_model_shows_its_calibrated_confidence(confidence: str):
    app = page.start(calibrated_talk(), port=free_port())
    try:
        visitor = gradio_client.Client(app.local_url, verbose=False, analytics_enabled=False)
        visitor.predict("What is the capital of Japan?", api_name="/ask")
        answer = visitor.predict(*options(confidence=confidence), api_name="/answer_1")[-1]
    finally:
        app.close(verbose=False)
    assert "confidence 0.50" in str(answer)
    assert "of 100 such answers are right" in str(answer)


def test_two_weights_of_one_model_file_have_the_names_of_the_weights():
    one, other = (Model(str, weights=weights) for weights in ("owner/one", "owner/other"))
    app = page.start(one, second=other, port=free_port())
    app.close(verbose=False)
    assert app.title == "owner/one and owner/other"
    with pytest.raises(ConfigurationError, match="both models are owner/one: give two different ones"):
        page.start(one, second=one, port=free_port())


def test_a_page_of_ones_own_asks_a_model():
    [block] = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "page.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict = {"__name__": "page_of_ones_own"}
    exec(block, names)
    history = [
        {"role": "user", "content": [{"type": "text", "text": "My name is Ada."}], "metadata": None},
        {"role": "assistant", "content": [{"type": "text", "text": "Nice to meet you, Ada!"}]},
    ]
    *_, last = names["ask"]("What is my name?", history)
    assert last == "Your name is Ada."
    assert type(names["page"]).__name__ == "ChatInterface"


@pytest.fixture
def client(served: str) -> gradio_client.Client:
    """A new visitor of the page."""
    return gradio_client.Client(served, verbose=False, analytics_enabled=False)


def shown(messages: list) -> list[str]:
    """The text of each message, without its alternatives and what is said below it."""
    contents = [message["content"][0] for message in messages]
    return [one.get("text") or plain(one["value"]) for one in contents]


def plain(html: str) -> str:
    body = html.partition("<p ")[0]
    return re.sub(r"<[^>]*>", "", re.sub(r'<span class="alternatives".*?</span></span>', "", body))


def options(**values: str) -> list[str]:
    from adapters.page.fields import fields
    from engine.options import GenerationOptions

    return [values.get(field.name, "") for field in fields(GenerationOptions())]


def test_a_question_is_answered_by_both_models_while_it_grows(client):
    client.predict("abc", api_name="/ask")
    first = client.submit(*options(), api_name="/answer_1")
    assert shown(first.result()) == ["abc", "ABC"]
    assert [shown(stage)[-1] for stage in first.outputs()] == ["A", "AB", "ABC", "ABC", "ABC"]
    assert shown(client.predict(*options(), api_name="/answer_2")) == ["abc", "hush"]


def test_each_visitor_has_a_conversation_of_its_own(client, served):
    client.predict("mine", api_name="/ask")
    other = gradio_client.Client(served, verbose=False, analytics_enabled=False)
    assert shown(other.predict("theirs", api_name="/ask")[0])[0] == "theirs"
    assert shown(client.predict(api_name="/stop")[0])[0] == "mine"


def test_an_invalid_option_is_named_in_the_place_of_the_answer(client):
    client.predict("abc", api_name="/ask")
    answer = client.predict(*options(top_p="7"), api_name="/answer_1")[-1]
    assert "top_p" in answer["content"][0]["value"]


def test_a_conversation_is_saved_opened_and_walked_through(client, tmp_path: Path):
    client.predict("abc", api_name="/ask")
    client.predict(*options(), api_name="/answer_1")
    text, name = client.predict(api_name="/save_item")
    assert name == "item.json"
    item = json.loads(text)
    assert [answer["coordinates"] for answer in item["annotations"]] == ["ABC"]
    record = json.loads(client.predict(api_name="/save_conversation")[0])
    assert record["loud"][0]["tokens"][0]["token"] == "A"
    assert record["quiet"][0]["text"] == ""

    loud, quiet, *_ = open_file(client, tmp_path, item)
    assert shown(loud) == shown(quiet) == ["abc", "ABC"], (
        "whoever gave them, the answers of the file are shown"
    )


def test_the_questions_of_a_file_are_answered_one_conversation_after_the_other(
    client, tmp_path: Path, questions
):
    loud, _, status, key, *_ = open_file(client, tmp_path, questions)
    assert (status, key["choices"]) == ("", [["first", "first"], ["second", "second"]])
    assert shown(loud) == ["Hello", "", "And again", ""]
    answered = client.predict(*options(), api_name="/answer_1")
    assert shown(answered) == ["Hello", "HELLO", "And again", "AND AGAIN"]
    assert shown(client.predict(api_name="/next")[0]) == ["Grüß Gott", ""]
    assert shown(client.predict(api_name="/previous")[0]) == shown(answered)


def test_a_file_that_is_no_item_is_refused_in_a_sentence(client, tmp_path: Path):
    _, _, status, *_ = open_file(client, tmp_path, ["<b>"])
    assert "item.json: a prompt item is a JSON object" in status


def open_file(client, folder: Path, content: object) -> tuple:
    path = folder / "item.json"
    path.write_text(json.dumps(content))
    return client.predict(gradio_client.handle_file(path), api_name="/open")


class Asked(HTMLParser):
    """The addresses that a browser asks for when it has read a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ("link", "script", "img", "iframe"):
            self.addresses += [value for name, value in attrs if name in ("href", "src")]


def test_the_page_asks_no_other_host_and_is_told_not_to(served: str):
    with urllib.request.urlopen(served) as response:
        text, policy = response.read().decode(), response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:;")
    addresses = Asked(text).addresses
    assert any(address.endswith(".js") for address in addresses)
    assert [address for address in addresses if address.startswith(("http:", "https:", "//"))] == []
    for address in addresses:
        if address.endswith(".css"):
            with urllib.request.urlopen(served + address.lstrip("./")) as response:
                assert not re.findall(rb"url\(['\"]?(?:https?:)?//", response.read()), address


def test_no_one_is_told_that_the_page_is_used(client):
    assert client.config["analytics_enabled"] is False


def test_a_port_that_is_taken_is_refused_in_a_sentence():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(ConfigurationError, match="give another --port"):
            page.start(Model(str), port=port)


def test_an_address_that_other_machines_reach_is_refused_unless_that_is_allowed():
    with pytest.raises(ConfigurationError, match="--open-to-all"):
        page.launch(Model(str), host="0.0.0.0")
    page.check_host("0.0.0.0", open_to_all=True)
    page.check_host("127.0.0.1", open_to_all=False)


def test_models_that_cannot_be_shown_are_refused():
    with pytest.raises(ConfigurationError, match="two different ones"):
        page.start(Model(str, "one"), second=Model(str, "one"))
    with pytest.raises(ConfigurationError, match=r"must subclass adapters\.hugging\.HuggingAdapter"):
        page.start(SimpleNamespace(predict=list))


def test_without_gradio_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "adapters.page.app", raising=False)
    with pytest.raises(ConfigurationError, match="pip install 'gradio>=6'"):
        page.start(Model(str))


@pytest.mark.slow
def test_the_command_serves_the_embedded_model_until_it_is_interrupted(tmp_path: Path):
    command = [sys.executable, "-m", "adapters", "chat", "--page", "--port", str(free_port())]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            [url] = next(found for line in running.stderr if (found := re.findall(r"page is at (\S+)", line)))
            asked = gradio_client.Client(url, verbose=False, analytics_enabled=False)
            asked.predict("What is the capital of Japan?", api_name="/ask")
            [_, answer] = shown(asked.predict(*options(), api_name="/answer_1"))
            assert answer == "The capital of Japan is Tokyo."
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0


def test_the_command_of_the_page_s_documentation_takes_two_models(monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    [command] = re.findall(r"```bash\npython -m adapters (.*)\n```", text)
    served: dict = {}
    monkeypatch.setattr(registry, "load", lambda name, configuration: name)
    monkeypatch.setattr(page, "launch", lambda model, **others: served.update(others, model=model))
    assert main(shlex.split(command)) == 0
    chosen = {key: served[key] for key in ("model", "second", "port", "open_to_all")}
    assert chosen == {
        "model": "smollm2_1_7b_instruct",
        "second": "phi_3_5_mini_instruct",
        "port": 7860,
        "open_to_all": False,
    }


def test_the_embedded_model_has_examples():
    assert registry.find("tiny_talk").examples
