"""Any JSON as a prompt item gives answers or a listed failure, and costs no other item its answers."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.hugging import HuggingAdapter
from adapters.items import context, stored
from adapters.items.item import Item
from adapters.items.references import ID, Source
from adapters.platform.texts import read_text
from adapters.prediction.batches import predict_each
from adapters.prediction.failures import Failure
from engine.configuration import KNOWN, split
from engine.errors import AdapterError, ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.prompting.prompter import Prompter
from tests import tiny
from tests.fakes import FakeEngine

GOOD = {"filename": "/good.json", "prompts": {"only": {"1": {"value": "Hello"}}}}

# All that JSON can hold: half of a surrogate pair, NaN, and numbers beyond any machine's among it.
WORDS = st.one_of(
    st.text(max_size=8), st.characters(categories=["Cs", "Cc", "Co"]), st.sampled_from(["", " ", "0", "-1"])
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


def shaped(**fields: st.SearchStrategy) -> st.SearchStrategy:
    """An object with these fields, each of which may be missing or be anything."""
    return st.fixed_dictionaries({}, optional={key: value | ANYTHING for key, value in fields.items()})


MIMETYPES = ["application/text", "text/plain", "image/*", "audio/wav", "metadata", "TEXT; charset=utf-8", "/"]
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "USER"])
CONTEXT = st.lists(
    shaped(text=WORDS, item_id=WORDS, filename=WORDS, score=st.floats()) | ANYTHING, max_size=3
)
METADATA = shaped(role=ROLES, nearestItems=st.lists(WORDS | ANYTHING, max_size=3))
ELEMENTS = shaped(mimetype=st.sampled_from(MIMETYPES), value=WORDS | METADATA) | ANYTHING
PROMPTS = (
    st.lists(ELEMENTS, max_size=3) | st.dictionaries(WORDS, ELEMENTS, max_size=3) | ELEMENTS
)  # of messages, of questions, or an element where a prompt should be
SIGNED = shaped(model=shaped(name=st.just("mine")), promptId=WORDS)
ANNOTATIONS = shaped(
    type=st.just("text"), coordinates=WORDS, createdAt=WORDS, metadata=shaped(user=SIGNED, system=SIGNED)
)
CALLS = shaped(id=WORDS, name=WORDS, function=shaped(name=WORDS, arguments=WORDS), args=ANYTHING)
PARTS = shaped(
    type=st.sampled_from(["text", "image_url", "tool_use", "tool_result", "audio"]),
    text=WORDS,
    image_url=WORDS | shaped(url=WORDS),
    id=WORDS,
    tool_use_id=WORDS,
    content=WORDS,
)
SPOKEN = shaped(
    role=ROLES,
    content=WORDS | st.lists(PARTS, max_size=3),
    tool_calls=st.lists(CALLS, max_size=2),
    function_call=CALLS,
    tool_call_id=WORDS,
    context=CONTEXT,
    model_info=shaped(name=st.just("mine")),
)
ITEMS = st.one_of(
    ANYTHING,
    shaped(
        prompts=st.dictionaries(WORDS, PROMPTS, max_size=4),
        annotations=st.lists(ANNOTATIONS | ANYTHING, max_size=3),
        metadata=shaped(dltype=st.sampled_from(["prompt", "llm_trace"])),
        filename=WORDS,
        id=WORDS,
        sources=st.dictionaries(WORDS, ANYTHING, max_size=2),
    ),
    shaped(messages=st.lists(SPOKEN | ANYTHING, max_size=4), metadata=shaped(dltype=st.just("llm_trace"))),
)


FUZZ = settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def reply(request: Any) -> str:
    """An answer, or the failure of a conversation that ends in a zero."""
    if request.messages[-1].text.endswith("0"):
        raise PromptError("it refuses")
    return "An answer"


@pytest.fixture(scope="module")
def adapter() -> HuggingAdapter:
    adapter = HuggingAdapter({"model_name": "nobody/nothing"})
    adapter._engine = FakeEngine(reply)
    return adapter


@FUZZ
@given(items=st.lists(ITEMS, min_size=1, max_size=3))
def test_any_json_gives_answers_or_a_listed_failure(adapter: HuggingAdapter, items: list):
    batch = [GOOD, *items, GOOD]
    failures: list[Failure] = []
    ways = [(adapter.predict(batch, model_name="mine", failures=failures), failures)]
    ways.append(predict_each(adapter, batch, "mine"))
    for answers, failed in ways:
        check(answers, failed, len(batch))


@FUZZ
@given(items=st.lists(ITEMS.filter(lambda item: item is not None), min_size=1, max_size=3))
def test_items_that_come_one_by_one_do_so_too(adapter: HuggingAdapter, items: list):
    batch = [GOOD, *items, GOOD]
    check(*one_by_one(adapter, batch), len(batch))


def one_by_one(adapter: HuggingAdapter, batch: list) -> tuple[list[list[dict]], list[Failure]]:
    """Answers and failures, by position, of items that come one by one."""
    items = [Item.of(one, "mine") for one in batch]
    done: dict[Item, tuple[list, list[Failure]]] = {}
    adapter.answer(items, lambda item, *result: done.setdefault(item, result), model_name="mine")
    failures = [replace(one, position=i) for i, item in enumerate(items) for one in done[item][1]]
    return [done[item][0] for item in items], failures


def check(answers: list[list[dict]], failures: list[Failure], size: int) -> None:
    """Each item has answers or a failure that says why, the first and the last their answers."""
    assert len(answers) == size
    failed = {failure.position for failure in failures}
    assert {position for position, found in enumerate(answers) if not found} <= failed
    assert failed <= set(range(1, size - 1))
    assert all(failure.reason and failure.item.isprintable() for failure in failures)
    for good in (answers[0], answers[-1]):
        assert [answer["coordinates"] for answer in good] == ["An answer"]


@FUZZ
@given(item=ITEMS)
def test_whatever_can_be_read_can_be_asked_with_its_context(item: Any):
    parsed = Item.of(item, "mine")
    turns = [turn for dialogue in parsed.dialogues for turn in dialogue.turns]
    ids = context.wanted(parsed, ["system.source"])
    assert all(map(ID.fullmatch, ids))
    parsed.sources = {one: Source("text", {"system": None}) for one in ids}
    with_context = context.with_context(parsed, len, 1000, fields=["system.source"])
    assert [turn.key for dialogue in with_context for turn in dialogue.turns] == [turn.key for turn in turns]


@FUZZ
@given(item=ITEMS)
def test_whatever_can_be_read_is_tokens_or_an_error_of_ours(item: Any):
    prompter = Prompter(tiny.byte_tokenizer(), tiny.CONFIGS["llama"](), 100)
    with contextlib.suppress(AdapterError):
        for dialogue in Item.of(item, "mine").dialogues:
            for turn in dialogue.turns:
                assert prompter.encode((*dialogue.history, *turn.messages), GenerationOptions())


def deep(depth: int) -> list:
    """A list in lists."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [500, 900, 5000, 100_000])
@pytest.mark.parametrize(
    "item",
    [
        {"prompts": {"1": [{"mimetype": "metadata", "value": {"role": "DEEP"}}, "Hello"]}},
        {"prompts": {"1": [{"mimetype": "DEEP", "value": "Hello"}, "Hello"]}},
        {"prompts": {"1": "DEEP", "2": {"1": "DEEP"}}},
        {"messages": [{"role": "tool", "content": "DEEP"}, {"role": "user", "content": "Hello"}]},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"args": "DEEP"}]},
                {"role": "user", "content": "Hi"},
            ]
        },
        {"prompts": {"1": [{"mimetype": "metadata", "value": {"nearestItems": ["a"]}}, "Hello"]}},
    ],
)
def test_what_is_nested_deep_costs_no_other_its_answers(adapter: HuggingAdapter, item: dict, depth: int):
    nested = deep(depth)

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return (
            nested
            if value == "DEEP"
            else [filled(one) for one in value]
            if isinstance(value, list)
            else value
        )

    sources = {"a": Source("text", {"deep": nested})}
    batch = [GOOD, {**filled(item), "sources": sources}, GOOD]
    chosen = HuggingAdapter({"model_name": "nobody/nothing", "add_metadata": ["deep"]})
    chosen._engine = adapter._engine
    check(*one_by_one(chosen, batch), 3)
    check(*predict_each(chosen, batch, "mine"), 3)


@FUZZ
@given(annotation=ANNOTATIONS | ANYTHING, name=WORDS)
def test_an_annotation_of_any_shape_can_be_read(annotation: Any, name: str):
    assert isinstance(stored.is_from_model(annotation, name), bool)
    assert isinstance(stored.prompt_of(annotation), str | None)
    assert (
        stored.upload_tag(annotation).keys() >= {"id", "number", "of"} or stored.upload_tag(annotation) == {}
    )
    assert 0 <= stored.size_of(annotation) < 2**63
    assert isinstance(stored.is_link(annotation), bool)


SYSTEM = shaped(size=st.integers(), shebang=shaped(dltype=st.just("link"), linkInfo=shaped(ref=WORDS)))
RECORDS = shaped(metadata=shaped(system=SYSTEM), name=WORDS)


@FUZZ
@given(record=RECORDS | ANYTHING, content=st.binary(max_size=9), field=st.sampled_from(["system", "a.b"]))
def test_whatever_a_search_has_found_is_a_text_or_left_out(record: Any, content: bytes, field: str):
    found = context.fetch(["1"], lambda item_id: record, lambda item_id, size: content)
    item = {"prompts": {"1": ["Hi", {"mimetype": "metadata", "value": {"nearestItems": ["1"]}}]}}
    parsed = Item.of({**item, "sources": found}, "mine")
    [dialogue] = context.with_context(parsed, len, 1000, fields=[field])
    assert dialogue.turns[-1].messages[-1].text == "Hi"
    assert found == {} or not stored.is_link(record)


@FUZZ
@given(content=st.binary(max_size=9) | ITEMS.map(lambda item: json.dumps(item).encode()))
def test_any_content_is_a_text_to_embed_or_an_error_of_ours(content: bytes):
    with contextlib.suppress(PromptError):
        assert read_text("1", content).text.strip()


@FUZZ
@given(configuration=st.dictionaries(st.sampled_from(sorted(KNOWN)) | WORDS, ANYTHING, max_size=3))
def test_any_configuration_is_options_or_an_error_of_ours(configuration: dict):
    with contextlib.suppress(ConfigurationError):
        assert split({"model_name": "nobody/nothing"}, configuration).generation


class Own:
    """A user's own model file, whose answers are of any shape."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, batch: list, **_: Any) -> list:
        good = {"coordinates": "An answer", "metadata": {"system": {"promptId": "only"}}}
        return [[good] if item is GOOD else self.answer for item in batch]


@FUZZ
@given(answer=ANYTHING | st.lists(ANNOTATIONS | ANYTHING, max_size=3))
def test_what_a_users_own_file_answers_is_an_answer_or_a_listed_failure(answer: Any):
    answers, failures = predict_each(Own(answer), [GOOD, {"prompts": {}}, GOOD], "mine")
    assert [failure.position for failure in failures] in ([], [1])
    assert answers[0] == answers[2] != []
    assert all(isinstance(found["coordinates"], str) for found in answers[1])
