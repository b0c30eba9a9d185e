"""Embedding on the platform, with the real SDK against a local platform over HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from adapters.dataloop import ModelAdapter
from adapters.platform.embedding import PROBE, EmbeddingError
from adapters.platform.texts import Text, read_text
from engine.errors import ConfigurationError, PromptError, Unsupported
from tests.helpers import sentences

SIZE = 32


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentences.save(tmp_path_factory.mktemp("sentences"), SIZE)


@pytest.fixture
def adapter(model_entity: Callable, folder: Path) -> Callable[..., ModelAdapter]:
    """A tiny embedding model, loaded the way the platform's runner does it, with more configuration."""

    def make(**configuration: Any) -> ModelAdapter:
        known = {"module_name": "all_minilm_l6_v2", "model_name": str(folder), "embeddings_size": SIZE}
        return ModelAdapter(model_entity=model_entity(known | configuration))

    return make


@pytest.fixture
def expected(folder: Path) -> Callable[[str], np.ndarray]:
    """The vector that the sentence-transformers library makes of a text."""
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda text: model.encode(text)


def features_of(adapter: ModelAdapter, item: Any) -> list[list[float]]:
    stored = item.features.list().all()
    return [one.value for one in stored if one.feature_set_id == adapter.feature_set.id]


def test_the_vectors_of_texts_and_of_prompt_items_land_as_features(
    adapter, upload, questions, messages, expected
):
    embedder = adapter(upload_features=True)
    items = [
        upload("text.txt", b"A cat sat.\nOn a mat."),
        upload("questions.json", questions),
        upload("messages.json", messages),
    ]
    returned, vectors = embedder.embed_items(items)
    asked = ["A cat sat.\nOn a mat.", "And again\nGrüß Gott", "And again"]
    assert [item.id for item in returned] == [item.id for item in items]
    for item, text, vector in zip(items, asked, vectors, strict=True):
        assert features_of(embedder, item) == [vector]
        np.testing.assert_allclose(vector, expected(text), atol=1e-5)
    assert embedder.feature_set.size == SIZE
    assert embedder.feature_set.model_id == embedder.model_entity.id


def test_what_lands_is_what_the_sdk_says_of_upload_features(adapter, upload, questions):
    embedder = adapter()
    for configured, given, landing in [
        (False, None, []),
        (True, False, []),
        (None, None, ["text.txt"]),
        (True, None, ["text.txt", "questions.json"]),
        (False, True, ["text.txt", "questions.json"]),
    ]:
        items = [upload("text.txt", b"A cat."), upload("questions.json", questions)]
        embedder.model_entity.configuration["upload_features"] = configured
        _, vectors = embedder.embed_items(items, upload_features=given)
        assert len(vectors) == 2
        assert [item.name for item in items if features_of(embedder, item)] == landing
        for item in items:
            item.delete()


def test_a_second_run_replaces_the_first(adapter, upload):
    embedder = adapter()
    item, other = upload("text.txt", b"A cat."), upload("other.txt", b"A dog.")
    embedder.embed_items([item, other])
    changed = upload("text.txt", b"A dog.")
    assert changed.id == item.id
    _, [vector, again] = embedder.embed_items([changed, changed])
    assert vector == again
    assert features_of(embedder, item) == features_of(embedder, other) == [vector]


def test_vectors_of_another_model_stay(adapter, upload, project, dl):
    embedder, item = adapter(), upload("text.txt", b"A cat.")
    other = project.feature_sets.create(
        name="other", size=2, set_type="x", entity_type=dl.FeatureEntityType.ITEM
    )
    other.features.create(entity=item, value=[1.0, 2.0])
    embedder.embed_items([item])
    embedder.embed_items([item])
    assert sorted(len(one.value) for one in item.features.list().all()) == [2, SIZE]


def test_one_bad_item_costs_no_other_its_vector(adapter, upload, questions, gateway, no_pauses):
    embedder = adapter(upload_features=True)
    good = [upload("text.txt", b"A cat."), upload("questions.json", questions)]
    unread = upload("unread.txt", b"A dog.")
    bad = {
        upload("image.png", b"\x89PNG\xff").id: "not UTF-8 text",
        upload("empty.txt", b" \n").id: "it has no text",
        upload("nothing.json", {**questions, "prompts": {}}).id: "'prompts' is empty",
        upload("odd.json", {**questions, "prompts": questions["prompts"] | {"x": 3}}).id: "prompt 'x': it is",
        unread.id: "could not be read",
    }
    items = [*good, *(item for item in good[0].dataset.items.list().all() if item.id in bad)]
    gateway.fail("GET", rf"/items/{unread.id}/stream", status=500, times=float("inf"))
    with pytest.raises(EmbeddingError) as raised:
        embedder.embed_items(items[::-1])
    reasons = {failure.item: failure.reason for failure in raised.value.failures}
    assert reasons.keys() == bad.keys()
    for item, reason in bad.items():
        assert reason in reasons[item]
        assert f"{item}: {reasons[item]}" in str(raised.value)
    assert all(len(features_of(embedder, item)) == 1 for item in good)


def test_a_text_that_the_model_fails_on_costs_no_other_its_vector(adapter, upload, monkeypatch):
    embedder = adapter()
    engine = embedder.adapter.engine
    embed = engine.embed

    def fails(texts, *args):
        if "A dog." in texts:
            raise RuntimeError("out of order")
        return embed(texts, *args) * (np.nan if "A cow." in texts and len(texts) == 1 else 1)

    monkeypatch.setattr(engine, "embed", fails)
    cat, dog, cow = [upload(f"{name}.txt", f"A {name}.".encode()) for name in ("cat", "dog", "cow")]
    with pytest.raises(EmbeddingError) as raised:
        embedder.embed_items([dog, cat, cow])
    assert {failure.item: failure.reason for failure in raised.value.failures} == {
        dog.id: "it could not be embedded (RuntimeError)",
        cow.id: "it could not be embedded (its embedding has numbers that are not finite)",
    }
    assert len(features_of(embedder, cat)) == 1


def test_a_model_that_fails_on_every_text_is_not_asked_for_each(adapter, upload, monkeypatch):
    embedder, asked = adapter(), []

    def fails(texts, *args):
        asked.append(list(texts))
        raise RuntimeError("no server")

    items = [upload(f"{i}.txt", b"Text.") for i in range(3)]
    monkeypatch.setattr(embedder.adapter.engine, "embed", fails)
    with pytest.raises(EmbeddingError, match="RuntimeError") as raised:
        embedder.embed_items(items, upload_features=False)
    assert len(raised.value.failures) == 3
    assert asked == [["Text."] * 3, [PROBE]]


def test_vectors_refused_together_are_stored_one_by_one(adapter, upload, gateway):
    embedder = adapter()
    items = [upload(f"{name}.txt", name.encode()) for name in ("one", "two", "three")]
    gateway.fail("POST", "^/features/vectors$", status=400, times=2)
    with pytest.raises(EmbeddingError, match="its embedding could not be stored") as raised:
        embedder.embed_items(items)
    assert [failure.item for failure in raised.value.failures] == [items[0].id]
    assert [len(features_of(embedder, item)) for item in items] == [0, 1, 1]


def test_a_model_of_unknown_size_tells_the_platform_before_it_embeds(adapter, upload, project):
    embedder = adapter(embeddings_size=None)
    item = upload("text.txt", b"A cat.")
    embedder.embed_items([item])
    assert project.models.get(model_name="tiny").configuration["embeddings_size"] == SIZE
    assert embedder.feature_set.size == len(features_of(embedder, item)[0]) == SIZE


@pytest.mark.parametrize("how", ["items", "dataset"])
def test_a_wrong_size_is_an_error_before_anything_is_embedded(adapter, upload, dataset, gateway, how):
    embedder = adapter(embeddings_size=256)
    item = upload("text.txt", b"A cat.")
    with pytest.raises(ConfigurationError, match=r"have 32 numbers.*embeddings_size 256: set it to 32"):
        embedder.embed_items([item]) if how == "items" else embedder.embed_dataset(dataset)
    assert not gateway.sent("POST", "^/features/(sets|vectors)$")


def test_a_feature_set_of_another_size_is_an_error_before_anything_is_embedded(adapter, upload, project, dl):
    embedder = adapter()
    project.feature_sets.create(
        name="old",
        size=7,
        set_type="x",
        entity_type=dl.FeatureEntityType.ITEM,
        model_id=embedder.model_entity.id,
    )
    with pytest.raises(ConfigurationError, match=r"have 32 numbers.*feature set 'old' takes 7"):
        embedder.embed_items([upload("text.txt", b"A cat.")])


def test_a_dataset_is_embedded_as_its_items_are(adapter, upload, questions, dataset, dl, gateway):
    embedder = adapter(upload_features=True)
    items = [upload(f"{i}.txt", f"Text {i}.".encode()) for i in range(4)] + [upload("q.json", questions)]
    embedder.embed_dataset(dataset, dl.Filters(field="filename", values="/*"))
    assert [len(features_of(embedder, item)) for item in items] == [1] * 5
    assert len(gateway.sent("POST", "^/features/vectors$")) == 1, "one request for all"


def test_a_batch_is_as_large_as_the_configuration_says(adapter, upload, gateway):
    embedder = adapter(batch_size=2)
    embedder.embed_items([upload(f"{i}.txt", b"Text.") for i in range(3)])
    stored = [len(request.json) for request in gateway.sent("POST", "^/features/vectors$")]
    assert stored == [2, 1]


def test_progress_is_reported_to_the_platform(adapter, upload):
    updates: list[dict[str, Any]] = []
    progress = SimpleNamespace(update=lambda **told: updates.append(told))
    adapter().embed_items([upload(f"{i}.txt", b"Text.") for i in range(3)], progress=progress)
    assert updates[-1] == {"progress": 100, "message": "3 of 3 items"}


def test_a_prompt_item_is_a_query_and_a_text_a_document(adapter, upload, messages, expected):
    embedder = adapter(query_prefix="find: ", document_prefix="text: ")
    items = [upload("text.txt", b"A cat."), upload("messages.json", messages)]
    _, vectors = embedder.embed_items(items)
    for vector, text in zip(vectors, ("text: A cat.", "find: And again"), strict=True):
        np.testing.assert_allclose(vector, expected(text), atol=1e-5)


def test_a_chat_model_embeds_too(model_entity, tiny_model, upload, questions):
    configuration = {"module_name": "auto_causal_lm", "model_name": str(tiny_model), "max_new_tokens": 4}
    chat = ModelAdapter(model_entity=model_entity(configuration))
    item = upload("text.txt", b"A cat.")
    _, [vector] = chat.embed_items([item])
    assert features_of(chat, item) == [vector]
    assert len(vector) == chat.adapter.engine.loaded.model.config.hidden_size
    prompts = upload("questions.json", questions)
    _, stored = chat.predict_items([prompts])
    assert len(stored) == 3, "and still answers"


def test_a_users_own_file_that_cannot_embed_says_so(model_entity, upload, tmp_path, monkeypatch):
    from adapters import registry

    source = "class HuggingAdapter:\n def __init__(self, _): ...\n def predict(self, batch): ...\n"
    (tmp_path / "own.py").write_text(source)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    own = ModelAdapter(model_entity=model_entity({"module_name": "own"}))
    with pytest.raises(Unsupported, match="cannot embed: build it on"):
        own.embed_items([upload("text.txt", b"A cat.")])


def test_no_text_is_logged_above_debug(adapter, upload, messages, caplog):
    items = [upload("text.txt", b"A secret cat."), upload("messages.json", messages)]
    with caplog.at_level("INFO"):
        adapter(upload_features=True).embed_items(items)
    assert "secret" not in caplog.text
    assert "And again" not in caplog.text


def test_a_text_item_of_json_is_a_text():
    assert read_text("1", b'\xef\xbb\xbf{"a": 1}') == Text("1", '{"a": 1}', "document")


def test_a_trace_is_a_query_of_its_last_question():
    messages = [("user", "Hi"), ("assistant", "Hello"), ("user", "And again"), ("assistant", "Well")]
    trace = {"metadata": {"dltype": "llm_trace"}}
    trace["messages"] = [{"role": role, "content": content} for role, content in messages]
    assert read_text("1", json.dumps(trace).encode()) == Text("1", "And again", "query")
    with pytest.raises(PromptError, match="it has no text"):
        read_text("1", json.dumps({**trace, "messages": []}).encode())


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_a_prompt_item_that_nobody_can_read_is_not_embedded_as_a_text(value: str):
    content = f'{{"prompts": {{"1": {{"1": {{"value": "Hi"}}}}}}, "x": {value}}}'
    with pytest.raises(PromptError, match="its JSON cannot be read"):
        read_text("1", content.encode())


@pytest.mark.parametrize("wrong", [{"batch_size": "2"}, {"batch_size": -1}, {"upload_features": "false"}])
def test_an_invalid_setting_is_named(adapter, upload, wrong: dict):
    [(key, value)] = wrong.items()
    with pytest.raises(ConfigurationError, match=f"{key} is {value!r}: set it to"):
        adapter(**wrong).embed_items([upload("text.txt", b"A cat.")])


def test_an_image_alone_is_no_query():
    content = b'{"prompts": {"1": [{"mimetype": "image/png", "value": "x"}]}}'
    with pytest.raises(PromptError, match="it has no text"):
        read_text("1", content)


def test_the_published_app_embeds(project, dataset, upload, questions, in_hub_cache, tmp_path):
    from creation import package_creation

    in_hub_cache("sentence-transformers/all-MiniLM-L6-v2", sentences.save(tmp_path / "minilm", 384))
    package_creation(project, models=["all_minilm_l6_v2"])
    project.models.get(model_name="all-minilm-l6-v2").deploy()
    model = project.models.get(model_name="all-minilm-l6-v2")
    text, prompts, bad = (
        upload("text.txt", b"A cat."),
        upload("questions.json", questions),
        upload("bad.png", b"\xff"),
    )
    execution = model.embed(item_ids=[text.id, prompts.id]).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert execution.output["items"] == [text.id, prompts.id]
    stored = {item.id: [one.value for one in item.features.list().all()] for item in (text, prompts)}
    assert stored == {
        item: [vector]
        for item, vector in zip(execution.output["items"], execution.output["features"], strict=True)
    }
    assert {len(vector) for [vector] in stored.values()} == {384} == {model.feature_set.size}

    execution = project.models.embed(model=model, dataset_id=dataset.id).wait()
    assert execution.latest_status["status"] == "failed"
    assert f"{bad.id}: its content is not UTF-8 text" in execution.latest_status["message"]
    assert {item.id: [one.value for one in item.features.list().all()] for item in (text, prompts)} == stored


def test_hyde_embeds_a_models_answer_instead_of_the_question(adapter, answering, upload, messages, expected):
    item = upload("messages.json", messages)
    item.metadata["prompt"] = {"is_hyde": True}
    item = item.update(system_metadata=True)
    writer = answering(lambda request: f"A cat sat, {request.messages[-1].text}", "writer")
    embedder = adapter(hyde_model_name="writer")
    with pytest.raises(EmbeddingError, match=r"model 'writer' has not answered it"):
        embedder.embed_items([item])
    writer.predict_items([item])
    _, [vector] = embedder.embed_items([item])
    assert vector == pytest.approx(expected("A cat sat, And again").tolist(), abs=1e-5)
    assert features_of(embedder, item) == []  # A query's, as ever: stored only where that is asked for.


def test_hyde_needs_the_name_of_the_model_that_answers(adapter, upload, questions):
    item = upload("questions.json", questions)
    item.metadata["prompt"] = {"is_hyde": True}
    item = item.update(system_metadata=True)
    with pytest.raises(EmbeddingError, match=r"set hyde_model_name in the configuration"):
        adapter().embed_items([item])
