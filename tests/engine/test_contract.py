"""What an engine does, and what it says of the rest."""

from typing import get_args

import pytest

from engine.backends.endpoint import EndpointEngine
from engine.contract import Capability, Engine, gathered
from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.options import EndpointOptions, GenerationOptions
from engine.types import Answer, Chunk, Request, Usage
from tests import tiny
from tests.fakes import FakeEngine

CALLS = {
    "score": lambda engine: engine.score(["hi"], [["a"]]),
    "next_logits": lambda engine: engine.next_logits(["hi"]),
    "classify": lambda engine: engine.classify(["hi"]),
    "embed": lambda engine: engine.embed(["hi"]),
    "token_ids": lambda engine: engine.token_ids(["hi"]),
    "hidden_states": lambda engine: engine.hidden_states(["hi"]),
    "prompt_text": lambda engine: engine.prompt_text(Request((), GenerationOptions(), "hi")),
    "prompt_tokens": lambda engine: engine.prompt_tokens(Request((), GenerationOptions(), "hi")),
    "save": lambda engine: engine.save("/no/such"),
}


def local() -> Engine:
    return tiny.engine("llama")


def endpoint() -> Engine:
    return EndpointEngine(EndpointOptions(base_url="http://127.0.0.1:9", model_name="m"))


def fake() -> Engine:
    return FakeEngine(lambda request: "hi")


@pytest.mark.parametrize(
    ("made", "supported"),
    [(local, set(CALLS) - {"classify"}), (endpoint, {"embed", "prompt_text"}), (fake, set())],
)
def test_what_a_backend_does_not_support_is_refused_by_its_name(made, supported: set[str]):
    engine = made()
    assert engine.supports == supported
    assert set(CALLS) == set(get_args(Capability))
    for name in set(CALLS) - supported:
        with pytest.raises(Unsupported, match=name):
            CALLS[name](engine)


def test_tokens_are_counted_by_the_tokenizer_or_estimated():
    assert local().count_tokens("Grüße") == len("Grüße".encode())
    assert local().count_tokens("\ud800") == 1
    assert endpoint().count_tokens("Grüße!") == 3
    assert (local().context_length, endpoint().context_length) == (
        tiny.engine("llama").loaded.context_length,
        None,
    )


@pytest.mark.parametrize("made", [local, endpoint])
def test_what_is_no_request_is_refused(made):
    with pytest.raises(PromptError, match=r"request 1 is a str: give a Request, as Request\(\(\), prompt="):
        made().generate([Request((), prompt="a"), "Hi"])
    with pytest.raises(ConfigurationError, match=r"options .* a dict: give GenerationOptions\(\.\.\.\)"):
        Request((), {"temperature": 1}, "Hi")


def test_a_request_has_options_of_its_own_only_where_they_are_given():
    assert Request((), prompt="Hi") == Request((), GenerationOptions(), "Hi")


def test_the_first_answer_of_each_index_is_gathered():
    first, second = (Answer(text, (), None, None, "stop", Usage(0, 0)) for text in "ab")
    chunks = [Chunk(1, "b", second), Chunk(0, "a"), Chunk(0, "", first), Chunk(0, "", second)]
    assert gathered(chunks, 2) == [first, second]
