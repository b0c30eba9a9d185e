"""The unmodified SDK against the local Dataloop: projects, datasets, items, queries and annotations."""

import json

import pytest

PROMPT_ITEM = {
    "shebang": "dataloop",
    "metadata": {"dltype": "prompt"},
    "prompts": {"p1": [{"mimetype": "application/text", "value": "Hello"}]},
}


@pytest.fixture
def item(dataset, tmp_path):
    path = tmp_path / "hello.json"
    path.write_text(json.dumps(PROMPT_ITEM))
    return dataset.items.upload(local_path=str(path), item_metadata={"user": {"a": 1, "b": 2}})


def texts(dl, count):
    definitions = [dl.FreeText(text=str(n), label="q") for n in range(count)]
    return [dl.Annotation.new(annotation_definition=definition) for definition in definitions]


# Projects, datasets and items


def test_projects_are_found_by_id_and_name(dl, project):
    assert dl.projects.get(project_id=project.id).name == "project"
    assert dl.projects.get(project_name="project").id == project.id
    with pytest.raises(dl.exceptions.NotFound):
        dl.projects.get(project_id="absent")


def test_datasets_are_listed_without_the_binaries(dl, project, dataset):
    assert [d.name for d in project.datasets.list()] == ["dataset"]
    assert project.datasets.get(dataset_name="dataset").id == dataset.id
    assert project.datasets.get(dataset_id=dataset.id).project.id == project.id
    assert project.datasets._get_binaries_dataset().name == "Binaries"


def test_an_uploaded_item_comes_back_as_it_was_sent(dl, dataset, item):
    content = json.dumps(PROMPT_ITEM).encode()
    same = dataset.items.get(filepath="/hello.json")
    assert (same.id, same.size, same.mimetype) == (item.id, len(content), "application/json")
    assert same.metadata["system"]["shebang"] == {"dltype": "prompt"}
    assert dl.items.get(item_id=item.id).download(save_locally=False).read() == content
    assert [message["role"] for message in dl.PromptItem.from_item(item).to_messages()] == ["user"]


def test_an_upload_overwrites_only_when_told_to(dataset, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = dataset.items.upload(local_path=str(path))
    path.write_text("two")
    assert dataset.items.upload(local_path=str(path)).id == first.id
    assert first.download(save_locally=False).read() == b"one"
    assert dataset.items.upload(local_path=str(path), overwrite=True).id == first.id
    assert first.download(save_locally=False).read() == b"two"


@pytest.mark.parametrize("leave", ["move", "delete"])
def test_a_name_that_an_item_has_left_is_free(dataset, tmp_path, leave):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = dataset.items.upload(local_path=str(path))
    if leave == "move":
        first.move("/b.txt")
    else:
        first.delete()
    second = dataset.items.upload(local_path=str(path))
    assert second.id != first.id
    assert dataset.items.upload(local_path=str(path)).id == second.id


def test_empty_files_can_be_stored(dataset, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    item = dataset.items.upload(local_path=str(tmp_path / "empty.txt"))
    assert item.size == 0
    assert item.download(save_locally=False).read() == b""


def test_an_item_update_sends_the_difference_and_none_deletes(dl, item):
    item.metadata["user"] = {"b": 3}
    item.metadata["system"]["size"] = 7
    item.update()
    same = dl.items.get(item_id=item.id)
    assert same.metadata["user"] == {"b": 3}
    assert same.size == len(json.dumps(PROMPT_ITEM))
    same.metadata["system"]["note"] = "kept"
    assert same.update(system_metadata=True).metadata["system"]["note"] == "kept"


def test_deleting_an_item_takes_its_annotations_along(dl, gateway, dataset, item):
    item.annotations.upload(texts(dl, 2))
    item.delete()
    assert dataset.items.list().items_count == 0
    with pytest.raises(dl.exceptions.NotFound, match=item.id):
        dl.items.get(item_id=item.id)
    assert dataset.annotations.list().items_count == 0


def test_rewriting_a_prompt_item_replaces_its_bytes(dl, item):
    prompt_item = dl.PromptItem.from_item(item)
    prompt_item.add(message={"role": "user", "content": [{"mimetype": dl.PromptType.TEXT, "value": "More?"}]})
    assert b"More?" in dl.items.get(item_id=item.id).download(save_locally=False).read()


# Queries


@pytest.fixture
def numbered(dl, dataset, tmp_path):
    """Items /a/0.txt, /a/1.txt, /b/2.txt with metadata.user.n = 0, 1, 2."""
    items = []
    for n, folder in enumerate("aab"):
        path = tmp_path / f"{n}.txt"
        path.write_text("x" * n)
        metadata = {"user": {"n": n, "tags": ["even"] if n % 2 == 0 else []}}
        items.append(
            dataset.items.upload(local_path=str(path), remote_path=f"/{folder}", item_metadata=metadata)
        )
    items[1].annotations.upload(texts(dl, 1))
    return dataset


@pytest.mark.parametrize(
    ("field", "values", "operator", "expected"),
    [
        ("metadata.user.n", 1, None, "1"),
        ("metadata.user.n", 1, "eq", "1"),
        ("metadata.user.n", 1, "ne", "02"),
        ("metadata.user.n", 0, "gt", "12"),
        ("metadata.user.n", 1, "lte", "01"),
        ("metadata.user.n", [0, 2], "in", "02"),
        ("metadata.user.n", [0, 2], "nin", "1"),
        ("metadata.user.tags", "even", None, "02"),
        ("metadata.user", {"n": 2}, "match", "2"),
        ("metadata.user.absent", True, "exists", ""),
        ("metadata.user.absent", False, "exists", "012"),
        ("filename", "/a/*", None, "01"),
        ("filename", "/**/2.txt", None, "2"),
        ("dir", "/b", None, "2"),
        ("annotated", True, None, "1"),
    ],
)
def test_filters(dl, numbered, field, values, operator, expected):
    filters = dl.Filters(field=field, values=values, operator=operator)
    assert "".join(item.name[0] for item in numbered.items.list(filters=filters).all()) == expected


def test_filters_can_be_ored_joined_sorted_and_paged(dl, numbered):
    either = dl.Filters()
    either.add(field="metadata.user.n", values=0, method="or")
    either.add(field="metadata.user.n", values=2, method="or")
    assert [i.name for i in numbered.items.list(filters=either).items] == ["0.txt", "2.txt"]

    joined = dl.Filters()
    joined.add_join(field="label", values="q")
    assert [i.name for i in numbered.items.list(filters=joined).items] == ["1.txt"]

    down = dl.Filters(page_size=2)
    down.sort_by(field="metadata.user.n", value=dl.FiltersOrderByDirection.DESCENDING)
    pages = numbered.items.list(filters=down)
    assert (pages.items_count, pages.total_pages_count) == (3, 2)
    assert [[item.name[0] for item in page] for page in pages] == [["2", "1"], ["0"]]

    by_id = numbered.items.list(page_size=1)  # the SDK then asks for ids above the last one
    assert [item.name[0] for item in by_id.all()] == ["0", "1", "2"]


def test_a_filter_can_update_and_delete(dl, numbered):
    folder = dl.Filters(field="dir", values="/a")
    numbered.items.update(filters=folder, update_values={"seen": True})
    assert numbered.items.list(filters=dl.Filters(field="metadata.user.seen", values=True)).items_count == 2
    numbered.items.delete(filters=folder)
    assert [item.name for item in numbered.items.list().items] == ["2.txt"]


# Annotations


def test_annotations_over_one_hundred_are_sent_in_batches(dl, gateway, item):
    assert len(item.annotations.upload(texts(dl, 250))) == 250
    assert len(gateway.sent("POST", f"/items/{item.id}/annotations$")) == 3
    assert sorted(int(a.coordinates) for a in item.annotations.list()) == list(range(250))
    assert dl.items.get(item_id=item.id).annotations_count == 250


def test_annotations_are_deleted_by_the_name_of_their_model(dl, item):
    definition = dl.FreeText(text="answer", label="q")
    mine, other = (dl.Annotation.new(annotation_definition=definition) for _ in range(2))
    mine.metadata = {"system": {"promptId": "p1"}, "user": {"model": {"name": "mine", "confidence": 0.5}}}
    other.metadata = {"user": {"model": {"name": "other", "confidence": 0.5}}}
    uploaded = item.annotations.upload([mine, other])
    assert uploaded[0].metadata["system"]["promptId"] == "p1"
    clean = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
    clean.add(field="metadata.user.model.name", values="mine", method="or")
    clean.add(field="metadata.system.model.name", values="mine", method="or")
    item.annotations.delete(filters=clean)
    assert [a.id for a in item.annotations.list()] == [uploaded[1].id]


def test_an_annotation_can_be_changed(dl, item):
    annotation = item.annotations.upload(texts(dl, 1))[0]
    annotation.label = "other"
    annotation.update()
    assert dl.annotations.get(annotation_id=annotation.id).label == "other"
    annotation.delete()
    assert len(item.annotations.list()) == 0
