"""The endpoint engine against `transformers serve`, which answers as the same model does here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from engine.backends.endpoint import EndpointEngine
from engine.backends.local import LocalEngine
from engine.loading import load
from engine.options import EndpointOptions, GenerationOptions, LoadOptions
from engine.types import Request
from tests import tiny
from tests.helpers.servers.serving import serving
from tests.helpers.talk import ask

# No byte of the answer occurs in it twice: the model sees no more than the last one.
ANSWER = "hé日 word"


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that answers every conversation with `ANSWER`."""
    folder = tmp_path_factory.mktemp("speller")
    tiny.spelling_model(ANSWER).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(speller: Path) -> Iterator[str]:
    with serving(speller) as url:
        yield url


@pytest.fixture
def engine(url: str, speller: Path) -> EndpointEngine:
    return EndpointEngine(EndpointOptions(base_url=url, model_name=str(speller), retries=0))


def test_it_answers_what_the_model_answers_here(engine: EndpointEngine, speller: Path):
    requests = [ask("Hi"), ask("Go on", "hm", "And?", max_new_tokens=3), ask("Hi", stop=" wo")]
    expected = LocalEngine(load(LoadOptions(model_name=str(speller)))).generate(requests)
    for answer, local in zip(engine.generate(requests), expected, strict=True):
        assert (answer.text, answer.finish_reason) == (local.text, local.finish_reason)
        assert answer.usage == local.usage
        assert answer.logprobs is None
        assert answer.confidence is None


def test_a_stream_gives_the_answer_in_pieces(engine: EndpointEngine):
    chunks = list(engine.stream([ask("Hi")]))
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].answer.text == ANSWER


def test_a_plain_prompt_is_continued(engine: EndpointEngine):
    request = Request((), GenerationOptions(max_new_tokens=20), "x]")
    assert engine.generate([request])[0].text == ANSWER
    assert "".join(chunk.text for chunk in engine.stream([request])) == ANSWER


def test_what_it_does_not_take_is_named(engine: EndpointEngine):
    [answer] = engine.generate([ask("Hi", top_k=3)])
    assert "status 422" in str(answer.error)
    assert "top_k" in str(answer.error)


def test_any_model_file_can_be_asked_there(url: str, speller: Path, questions: dict):
    configuration = {"backend": "endpoint", "base_url": url, "model_name": str(speller)}
    for name in ("inference_endpoint", "tiny_talk"):
        adapter = models.load(name, configuration)
        [answers] = adapter.predict([questions])
        assert [answer["coordinates"] for answer in answers] == [ANSWER] * 3
