"""`predict` answers OpenAI's batch files: each request once, whatever becomes of the others and the run."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from adapters.cli import main
from engine.errors import GenerationError
from engine.types import Request
from tests.fakes import FakeEngine

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def request(name: Any, text: str = "Hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": text}]} if url == CHAT else {}
    said |= {TEXT: {"prompt": text}, VECTORS: {"input": text}}.get(url, {})
    return {"custom_id": name, "method": "POST", "url": url, "body": said | body}


def asked(request: Request) -> str:
    return request.messages[-1].text if request.prompt is None else str(request.prompt)


@pytest.fixture
def engine(model) -> FakeEngine:
    return model(lambda request: f"{asked(request)}!")


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes batch.jsonl into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(*lines: Any) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "batch.jsonl").write_text("\n".join(texts) + "\n")

    return write


def read(name: str) -> list[dict[str, Any]]:
    path = Path(name)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def output(name: str = "batch_output.jsonl") -> dict[str, dict[str, Any]]:
    """The bodies of the answers by custom_id, each there once."""
    lines = read(name)
    assert len({line["custom_id"] for line in lines}) == len(lines)
    for line in lines:
        assert line.keys() == {"id", "custom_id", "response", "error"}
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"]
    return {line["custom_id"]: line["response"]["body"] for line in lines}


def errors(name: str = "batch_error.jsonl") -> list[tuple[str | None, Any, str]]:
    """custom_id, and status or code, and message of each error."""
    found = []
    for line in read(name):
        if line["response"] is None:
            found.append((line["custom_id"], line["error"]["code"], line["error"]["message"]))
        else:
            said = line["response"]["body"]["error"]["message"]
            found.append((line["custom_id"], line["response"]["status_code"], said))
    return found


def texts(bodies: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: body["choices"][0]["message"]["content"] for name, body in bodies.items()}


def test_each_request_is_answered_in_the_official_types_and_all_in_one_run(
    engine, batch, monkeypatch, capsys
):
    runs = []
    stream = FakeEngine.stream

    def counted(self: FakeEngine, *arguments: Any, **named: Any) -> Iterator[Any]:
        runs.append(1)
        return stream(self, *arguments, **named)

    monkeypatch.setattr(FakeEngine, "stream", counted)
    batch(
        request("a", "Hello", n=2, temperature=1),
        request("b", "The sky", url=TEXT),
        request("c", url="/v1/responses") | {"body": {"input": "Yes?"}},
        request("d", "Bye", max_completion_tokens=3, temperature=0),
    )
    assert main(["predict", "batch.jsonl"]) == 0
    found = output()
    chat = ChatCompletion.model_validate(found["a"])
    assert [choice.message.content for choice in chat.choices] == ["Hello!", "Hello!"]
    assert Completion.model_validate(found["b"]).choices[0].text == "The sky!"
    assert Response.model_validate(found["c"]).output_text == "Yes?!"
    assert engine.requests[-1].options.max_new_tokens == 3
    assert len(runs) == 1
    assert not Path("batch_error.jsonl").exists()
    assert capsys.readouterr().err.endswith("requests answered: 4, in batch_output.jsonl\n")


def test_what_is_no_request_has_a_line_of_its_own_and_costs_no_other_its_answer(engine, batch, capsys):
    batch(
        request("a"),
        "{",
        "[]",
        {"method": "POST", "url": CHAT, "body": {}},
        request("a", "again"),
        request("get") | {"method": "GET"},
        request("images", url="/v1/images/generations"),
        request("list") | {"url": []},
        request("stream", stream=True),
        request("template", chat_template="{{ 1 }}"),
        request("body") | {"body": "Hi"},
        request("messages") | {"body": {"messages": "Hi"}},
        request("nothing") | {"body": {}},
        request("option", temprature=1),
        request("model", model="gpt-4o"),
        request("z", "last"),
    )
    assert main(["predict", "batch.jsonl"]) == 1
    assert texts(output()) == {"a": "Hi!", "z": "last!"}
    found = {(name, code): said for name, code, said in errors()}
    assert set(found) == {
        (None, "invalid_json_line"),
        (None, "missing_required_parameter"),
        ("a", "duplicate_custom_id"),
        ("get", "invalid_method"),
        ("images", "invalid_url"),
        ("list", "invalid_url"),
        ("stream", "invalid_request"),
        ("template", "invalid_request"),
        ("body", "invalid_request"),
        ("messages", 400),
        ("nothing", 400),
        ("option", 400),
        ("model", 404),
    }
    assert "did you mean 'temperature'" in found["option", 400]
    assert "take one of /v1/chat/completions" in found["images", "invalid_url"]
    assert len(errors()) == 14
    said = capsys.readouterr().err
    assert "requests answered: 2, in batch_output.jsonl; without an answer: 14, in batch_error.jsonl" in said
    assert "error: line 2: this is not JSON" in said


def test_an_error_names_its_first_request_and_how_many_have_it(engine, batch, capsys):
    batch(request("a"), request("b", temprature=1), request("c", temprature=1))
    assert main(["predict", "batch.jsonl"]) == 1
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said.startswith("error: request 'b': ")
    assert said.endswith(" (2 requests)")


def test_a_batch_for_another_model_is_told_the_way_out(engine, batch, capsys):
    batch(request("a", model="gpt-4o-mini"))
    assert main(["predict", "batch.jsonl"]) == 1
    assert re.search(
        r"error: request 'a': this model is not called 'gpt-4o-mini': its names are .*; the option "
        r"model_deploys gives it others\n",
        capsys.readouterr().err,
    )


def test_a_killed_run_is_gone_on_with(model, batch, capsys):
    batch(*(request(name, name) for name in "abcd"))
    engine = model(lambda request: f"{asked(request)}!")
    assert main(["predict", "batch.jsonl"]) == 0
    whole = Path("batch_output.jsonl").read_bytes().splitlines(keepends=True)
    Path("batch_output.jsonl").write_bytes(whole[0] + whole[2] + whole[1][:-9])  # It was writing b.
    engine.requests.clear()
    assert main(["predict", "batch.jsonl"]) == 0
    assert texts(output()) == {name: f"{name}!" for name in "abcd"}
    assert list(map(asked, engine.requests)) == ["b", "d"]
    assert capsys.readouterr().err.endswith("requests answered: 2 (2 before), in batch_output.jsonl\n")


@pytest.mark.parametrize("cut", [1, 17, 18, 60])
def test_a_last_line_that_is_torn_anywhere_is_repaired(engine, batch, cut: int):
    batch(request("a"), request("b"))
    assert main(["predict", "batch.jsonl"]) == 0
    first, second = Path("batch_output.jsonl").read_bytes().splitlines(keepends=True)
    for torn in (second[:cut], second[:-1]):  # The second lacks its line end only.
        Path("batch_output.jsonl").write_bytes(first + torn)
        assert main(["predict", "batch.jsonl"]) == 0
        assert texts(output()) == {"a": "Hi!", "b": "Hi!"}


def test_what_failed_is_asked_again_and_the_errors_are_of_the_last_run(model, batch):
    def reply(request: Request) -> str:
        raise GenerationError("out of memory")

    batch(request("a"), request("b"))
    model(reply)
    assert main(["predict", "batch.jsonl"]) == 1
    assert errors() == [("a", 500, "out of memory"), ("b", 500, "out of memory")]
    assert not Path("batch_output.jsonl").exists()
    model(lambda request: "well")
    assert main(["predict", "batch.jsonl"]) == 0
    assert texts(output()) == {"a": "well", "b": "well"}
    assert errors() == []


def test_a_run_that_breaks_costs_what_was_running_alone(model, batch):
    def reply(request: Request) -> str:
        if asked(request) == "bad":
            raise RuntimeError("a bug")
        return "well"

    model(reply)
    batch(request("a"), request("b", "bad", n=3, temperature=1), request("c"))
    assert main(["predict", "batch.jsonl"]) == 1
    assert texts(output()) == {"a": "well", "c": "well"}
    assert errors() == [("b", 500, "the model failed (RuntimeError): run again")]


def test_ctrl_c_keeps_what_was_answered(model, batch, capsys):
    def reply(request: Request) -> str:
        if asked(request) == "c":
            raise KeyboardInterrupt
        return "well"

    model(reply)
    batch(*(request(name, name) for name in "abcd"))
    assert main(["predict", "batch.jsonl"]) == 130
    assert texts(output()) == {"a": "well", "b": "well"}
    assert errors() == []


class Embedding(FakeEngine):
    """Embeds a text as its length; one that is called so fails its whole batch."""

    def __init__(self) -> None:
        super().__init__(asked)
        self.calls: list[int] = []

    def token_ids(self, texts, options=None, kind=None):
        return [[1] * len(text) for text in texts]

    def embed(self, texts, options=None, kind=None):
        self.calls.append(len(texts))
        if any(len(text) == 3 for text in texts):
            raise ValueError("three")
        return np.array([[len(text), 0.5] for text in texts], np.float32)


def test_embeddings_are_made_together(batch, model, monkeypatch):
    from adapters import registry

    engine = Embedding()
    model(asked)
    registry.load("any")._engine = engine
    batch(
        request("a", "1", url=VECTORS),
        request("b", url=VECTORS) | {"body": {"input": ["12", "1234"], "encoding_format": "base64"}},
        request("c", "123", url=VECTORS),
        request("d", "Hi"),
        request("e", url=VECTORS) | {"body": {"input": [7, 8]}},
        request("f", url=VECTORS) | {"body": {"input": []}},
    )
    assert main(["predict", "batch.jsonl"]) == 1
    found = output()
    assert CreateEmbeddingResponse.model_validate(found["a"]).data[0].embedding == [1, 0.5]
    assert found["b"]["usage"]["total_tokens"] == 6
    assert isinstance(found["b"]["data"][1]["embedding"], str)
    assert found["e"]["data"][0]["embedding"] == [2, 0.5]
    assert texts({"d": found["d"]}) == {"d": "Hi"}
    assert [(name, code) for name, code, _ in errors()] == [("f", 400), ("c", 500)]
    assert engine.calls == [4, 1, 2, 1, 1], "together, and one by one once they failed"


def test_out_names_the_output_and_the_errors_lie_beside_it(engine, batch, tmp_path):
    (tmp_path / "to").mkdir()
    batch(request("a"), request("b", url="/v1/x"))
    assert main(["predict", "batch.jsonl", "--out", "to/answers.jsonl"]) == 1
    assert list(output("to/answers.jsonl")) == ["a"]
    assert [name for name, _, _ in errors("to/answers_error.jsonl")] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "batch.jsonl"], "'batch.jsonl' is the input"),
        (
            ["--out", "notes.txt"],
            "line 1 of 'notes.txt': it is not a line of a batch's output: choose another",
        ),
        (["--out", "no/such.jsonl"], "'no/such.jsonl' cannot be written (No such file or directory)"),
        (["--out", "."], "'.' is not a file"),
        (["--json"], "leave --json and --jsonl out"),
        (["notes.txt"], "give it alone"),
    ],
)
def test_what_cannot_be_is_refused_and_no_file_is_lost(engine, batch, arguments, said: str, capsys):
    batch(request("a"))
    Path("notes.txt").write_text("buy milk")
    before = Path("batch.jsonl").read_bytes()
    assert main(["predict", "batch.jsonl", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert (Path("batch.jsonl").read_bytes(), Path("notes.txt").read_text()) == (before, "buy milk")
    assert engine.requests == []


def test_a_file_of_items_is_no_batch(engine, batch, capsys):
    batch('"What is this?"')
    assert main(["predict", "batch.jsonl", "--jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "What is this?!"
