"""Text items are answered by `prompt_template`, and the labels are those of the dataset's recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.dataloop import ModelAdapter, PredictionError
from adapters.platform.prompt_items import CreationError
from engine.errors import ConfigurationError
from tests.adapters.conftest import asked, configured, listed, texts_on

TEMPLATE = "Which of {labels} is this? {text}"


@pytest.fixture
def recipe(dl: Any, dataset: Any):
    """Gives a dataset a recipe with these labels; each may have children."""

    def make(labels: dict[str, list[str]], of: Any = dataset) -> Any:
        made = [
            dl.Label(
                tag=tag,
                color="#ff0000",
                children=[dl.Label(tag=child, color="#00ff00") for child in children],
            )
            for tag, children in labels.items()
        ]
        of.recipes.create(labels=made)
        return of

    return make


def labels_on(item: Any) -> list[tuple[str, set[str]]]:
    """The label of each annotation, and those that it was chosen from."""
    found = [annotation.to_json() for annotation in item.annotations.list()]
    return [(one["label"], set(one["metadata"]["user"]["labels"])) for one in found]


def test_text_items_are_answered_beside_prompt_items(answering, upload, questions):
    adapter = answering(asked, prompt_template="<{text}>")
    items = [
        upload("a.txt", "Grüß Gott".encode()),
        upload("b.json", {"text": "b"}),
        upload("c.json", questions),
    ]
    adapter.predict_items(items)
    assert texts_on(items[0]) == [("1", "<Grüß Gott>! (1)")]
    assert texts_on(items[1]) == [("1", "<b>! (1)")]
    assert len(texts_on(items[2])) == 3


def test_an_answer_is_replaced_and_an_answered_item_is_left_when_the_run_resumes(answering, upload):
    item = upload("a.txt", b"a")
    answering(lambda request: "old", prompt_template="<{text}>").predict_items([item])
    adapter = answering(asked, prompt_template="<{text}>")
    adapter.predict_items([item], resume=True)
    assert texts_on(item) == [("1", "old")]
    adapter.predict_items([item], prompt_template="[{text}]")
    assert texts_on(item) == [("1", "[a]! (1)")]


def test_an_item_without_a_field_is_named_and_costs_no_other_its_answer(answering, upload):
    adapter = answering(asked, prompt_template="{title}: {text}")
    bad, image = upload("a.txt", b"a"), upload("b.png", b"\x89PNG\xff")
    good = upload("c.json", {"title": "T", "text": "x"})
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([bad, image, good])
    assert set(listed(raised)) == {bad.id, image.id}
    assert "it has no {title} of prompt_template: it has text" in str(raised.value)
    assert texts_on(good) == [("1", "T: x! (1)")]


def test_without_a_template_a_text_item_is_no_prompt_item(answering, upload):
    with pytest.raises(PredictionError, match="it could not be read"):
        answering(asked).predict_items([upload("a.txt", b"a")])


def test_the_sdks_own_flow_prepares_a_text_item(answering, upload):
    adapter = answering(asked, prompt_template="<{text}>")
    [found] = adapter.predict([adapter.prepare_item_func(upload("a.txt", b"a"))])
    assert [annotation.annotation_definition.text for annotation in found.annotations] == ["<a>! (1)"]


def test_the_labels_of_the_recipe_are_chosen_from_and_stand_in_the_template(
    model_entity, tiny_model: Path, upload, recipe, dataset
):
    recipe({"good": [], "bad": ["dull", "rude"]})
    adapter = ModelAdapter(
        model_entity=model_entity(configured(tiny_model, labels="recipe", prompt_template=TEMPLATE))
    )
    item = upload("a.txt", b"a")
    adapter.predict_dataset(dataset)
    [(label, known)] = labels_on(item)
    assert label in known
    assert known == {"good", "bad", "bad.dull", "bad.rude"}
    adapter.predict_items([item], labels=["x", "y"])
    assert labels_on(item)[0][1] == {"x", "y"}
    with pytest.raises(ConfigurationError, match="predict_items and predict_dataset read it"):
        adapter.predict([adapter.prepare_item_func(item)])


def test_a_recipe_without_labels_and_datasets_that_differ_are_told(
    answering, upload, recipe, project, tmp_path
):
    adapter, item = answering(asked), upload("a.json", {"prompts": {"1": {"1": {"value": "Hi"}}}})
    with pytest.raises(ConfigurationError, match="the recipe of dataset 'dataset' has 0 labels, and two"):
        adapter.predict_items([item], labels="recipe")
    recipe({"good": [], "bad": []})
    other = recipe({"yes": [], "no": []}, project.datasets.create(dataset_name="other"))
    (tmp_path / "b.json").write_text("{}")
    second = other.items.upload(local_path=str(tmp_path / "b.json"))
    with pytest.raises(ConfigurationError, match="datasets with different labels"):
        adapter.predict_items([item, second], labels="recipe")
    assert texts_on(item) == []


def test_prompt_items_are_made_of_text_items(answering, upload, dataset, questions, dl):
    adapter = answering(asked, prompt_template=TEMPLATE, labels=["good", "bad"])
    upload("a.txt", b"Nice."), upload("b.json", questions)
    bad = upload("c.png", b"\xff")
    for _ in range(2):  # The second time they are there already.
        with pytest.raises(CreationError, match="these have no prompt item") as raised:
            adapter.create_prompt_items(dataset)
        assert listed(raised) == [bad.id]
    made = [item for item in dataset.items.list().all() if "prompt_items" in item.filename]
    assert [item.filename for item in made] == ["/prompt_items/a.txt.json"]
    [item] = made
    content = json.loads(item.download(save_locally=False).read())
    assert content["prompts"]["1"][0]["value"] == "Which of good, bad is this? Nice."
    assert item.metadata["system"]["shebang"]["dltype"] == "prompt"
    assert dl.PromptItem.from_item(item).prompts[0].elements[0]["value"].endswith("Nice.")
    with pytest.raises(ConfigurationError, match="option 'prompt_template' is needed"):
        answering(asked).create_prompt_items(dataset)
