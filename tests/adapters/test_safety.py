"""What must never happen: a request that a prompt asked for, a text in a log, a token anywhere."""

import json
import logging
import re
import traceback
from pathlib import Path
from typing import Any

import dtlpy
import pytest

from adapters.dataloop import ModelAdapter, PredictionError
from adapters.hugging import HuggingAdapter
from adapters.prediction.failures import Failure
from engine.backends.local import LocalEngine
from tests import tiny
from tests.adapters.conftest import configured
from tests.tiny import byte_tokenizer, loaded, spelling_model

SAID = "zebra-marker"  # In each prompt.
ANSWERED = "WOMBAT"  # The answer to each.
QUOTING = (
    "{% set said = messages[-1].content %}"
    "{% if 'refuse' in said %}{{ raise_exception('no: ' + said) }}{% endif %}"
    "{% if 'fail' in said %}{{ 'x'.encode(said) }}{% endif %}"
)


def text(value: Any) -> dict:
    return {"mimetype": "application/text", "value": value}


def ask(*questions: str) -> dict:
    return {str(i): text(question) for i, question in enumerate(questions)}


def adapter_of(template: str = tiny.CHAT_TEMPLATE) -> HuggingAdapter:
    """A model that answers with `ANSWERED`."""
    adapter = HuggingAdapter({"model_name": "nobody/nothing"})
    adapter._engine = LocalEngine(
        loaded(spelling_model(ANSWERED.replace("WOMBAT", "WOMBAT")), byte_tokenizer(template))
    )
    return adapter


# Links


def linking(url: str) -> dict[str, dict]:
    """Items that name an address wherever one may stand."""
    image = {"mimetype": "image/*", "value": f"{url}/image.png"}
    link = {"mimetype": "metadata", "value": {"role": "user", "nearestItems": [f"{url}/near"], "url": url}}
    part = {"type": "image_url", "image_url": {"url": f"{url}/trace.png"}}
    message = {"role": "user", "content": [part, f"See {url}"], "context": [{"item_id": f"{url}/near"}]}
    return {
        "messages.json": {"prompts": {"1": [image, text(f"What is {url}/page?"), link]}},
        "questions.json": {"prompts": {"q": {"1": image, "2": text(f"{url}/text")}}},
        "others.json": {"prompts": {"1": [{"mimetype": "video/*", "value": url}, text("Hi")]}},
        "trace.json": {"metadata": {"dltype": "llm_trace"}, "messages": [message]},
    }


def test_no_request_is_made_for_what_a_prompt_links_to(elsewhere, caplog):
    url, asked = elsewhere
    items = linking(url)
    answers = adapter_of().predict(list(items.values()))
    assert [len(found) for found in answers] == [1] * len(items)
    assert asked == []
    assert "images are left out" in caplog.text


def test_nor_is_one_on_the_platform(elsewhere, model_entity, tiny_model: Path, upload, gateway):
    url, asked = elsewhere
    items = linking(url)
    del items["trace.json"]
    uploaded = [
        upload(name, {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, **item})
        for name, item in items.items()
    ]
    adapter = ModelAdapter(model_entity=model_entity(configured(tiny_model)))
    adapter.predict_items(uploaded)
    assert asked == []
    streamed = {request.path.split("/")[-2] for request in gateway.sent("GET", "/stream$")}
    assert streamed == {item.id for item in uploaded}


def test_a_link_item_leads_to_no_file_of_this_machine_and_no_other_host(
    elsewhere, model_entity, tiny_model: Path, upload, tmp_path: Path
):
    url, asked = elsewhere
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"prompts": {"a": ask("Hi")}}))
    links = [
        upload(f"{i}.json", {"shebang": "dataloop", "metadata": {"linkInfo": {"type": "url", "ref": ref}}})
        for i, ref in enumerate([secret.as_uri(), f"{url}/item.json"])
    ]
    adapter = ModelAdapter(model_entity=model_entity(configured(tiny_model)))
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items(links)
    assert {failure.item for failure in raised.value.failures} == {link.id for link in links}
    assert all("prompts" not in adapter.prepare_item_func(link) for link in links)
    assert asked == []


# Logs


def test_no_prompt_or_answer_is_in_a_log_or_a_reason(caplog):
    adapter = adapter_of(QUOTING + tiny.CHAT_TEMPLATE)
    near = {"mimetype": "metadata", "value": {"role": SAID, "nearestItems": [SAID + "!", {"id": SAID}]}}
    batch: list[Any] = [
        {"filename": "/good.json", "prompts": {"a": ask(SAID)}},
        {"filename": "/refuse.json", "prompts": {"a": ask(f"refuse {SAID}"), "b": ask(f"fail {SAID}")}},
        {"filename": "/long.json", "prompts": {"a": ask(SAID * 100)}},
        {
            "filename": "/parts.json",
            "prompts": {"a": [text([SAID]), text(SAID), near], "b": [SAID, {"value": 3}]},
        },
        {"filename": "/image.json", "prompts": {"a": [{"mimetype": "image/*", "value": SAID}]}},
        {"filename": "/none.json", "prompts": SAID},
        {
            "filename": "/odd.json",
            "prompts": {"a": SAID, "b": [[SAID]], "c": {"mimetype": "audio/x", "value": SAID}},
        },
        {"messages": [{"role": "user", "content": SAID}, {"role": "tool", "content": SAID}]},
        SAID,
    ]
    failures: list[Failure] = []
    with caplog.at_level(logging.INFO):
        answers = adapter.predict(batch, failures=failures)
        adapter.predict(batch)
    assert answers[0][0]["coordinates"] == ANSWERED
    assert [len(found) for found in answers] == [1, 0, 0, 2, 0, 0, 0, 1, 0]
    told = caplog.text + "".join(map(str, failures))
    assert "refuse.json: prompt 'a'" in told
    assert SAID not in told
    assert ANSWERED not in told


def test_a_templates_own_words_are_told():
    adapter = adapter_of("{{ raise_exception('roles must alternate') }}")
    failures: list[Failure] = []
    adapter.predict([{"prompts": {"a": ask(SAID)}}], failures=failures)
    assert "refuses this conversation: roles must alternate" in failures[0].reason


@pytest.fixture
def run(model_entity, tiny_model: Path, upload, gateway, caplog, capfd) -> tuple[Any, list[str], str, str]:
    """A model's adapter after a run in which much fails: it, its answers, the error, and what was printed."""
    good, refused, lost, gone = (
        upload(f"{name}.json", {"prompts": {"a": ask(f"{name} {SAID}")}})
        for name in ("good", "refuse", "lost", "gone")
    )
    broken = upload("broken.json", f'{{"prompts": "{SAID}'.encode())
    gateway.fail(method="POST", path=rf"/items/{lost.id}/annotations$", status=400, times=99)
    gateway.fail(method="GET", path=rf"/items/{gone.id}/stream$", status=404, times=99)
    template = QUOTING + tiny.CHAT_TEMPLATE
    with caplog.at_level(logging.DEBUG):
        adapter = ModelAdapter(model_entity=model_entity(configured(tiny_model, chat_template=template)))
        with pytest.raises(PredictionError) as raised:
            adapter.predict_items([good, refused, lost, gone, broken])
    assert {failure.item for failure in raised.value.failures} == {refused.id, lost.id, gone.id, broken.id}
    stored = [annotation.coordinates for annotation in good.annotations.list()]
    printed = "".join(capfd.readouterr())
    failed = "".join(traceback.format_exception(raised.value))
    return adapter, stored, failed, printed


def above_debug(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG)


def test_nor_is_one_on_the_platform_whatever_fails(run, caplog):
    _, stored, failed, printed = run
    told = above_debug(caplog) + failed + printed
    assert SAID not in told
    assert stored
    assert not [answer for answer in stored if len(answer) > 3 and answer in told]


# Tokens


def test_the_platforms_token_is_in_no_log_error_repr_or_configuration(run, caplog, gateway):
    adapter, _, failed, printed = run
    token = dtlpy.client_api.token
    assert len(token) > 100
    entity = dtlpy.models.get(model_id=adapter.model_entity.id)
    told = [
        caplog.text,
        failed,
        printed,
        repr(adapter),
        repr(adapter.adapter),
        repr(adapter.adapter.configuration),
    ]
    told += [json.dumps(entity.to_json()), json.dumps(dict(entity.configuration)), repr(entity)]
    for one in told:
        assert token not in one
        assert token.rpartition(".")[2] not in one, "its signature alone is secret enough"


# The document


def test_every_test_that_the_document_names_is_there():
    root = Path(__file__).parents[2]
    named = re.findall(
        r"`(tests/\S+\.py)::(\w+)`", (root / "docs" / "security.md").read_text(encoding="utf-8")
    )
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (root / file).read_text(encoding="utf-8"), f"{file}::{test}"
