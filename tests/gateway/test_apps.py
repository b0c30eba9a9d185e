"""The unmodified SDK against the local Dataloop: packages, apps, models, artifacts and features."""

import pytest


def manifest(version="1.0.0", models=("first",), **changes):
    module = {
        "name": "module",
        "entryPoint": "main.py",
        "className": "Adapter",
        "computeConfig": "small",
        "initInputs": [{"type": "Model", "name": "model_entity"}],
        "functions": [{"name": "predict_items", "input": [{"type": "Item[]", "name": "items"}]}],
    }
    return {
        "name": "toy",
        "displayName": "Toy",
        "version": version,
        "scope": "project",
        "codebase": {"type": "git", "gitUrl": "https://example.com/toy.git", "gitTag": version},
        "components": {
            "computeConfigs": [{"name": "small", "runtime": {"podType": "regular-s", "concurrency": 1}}],
            "modules": [module],
            "models": [
                {"name": name, "moduleName": "module", "configuration": {"size": 1, "depth": {"a": 1}}}
                for name in models
            ],
        },
    } | changes


def publish(dl, project, *args, **kwargs):
    return project.dpks.publish(dpk=dl.Dpk.from_json(manifest(*args, **kwargs), dl.client_api, project))


@pytest.fixture
def app(dl, project):
    return project.apps.install(dpk=publish(dl, project))


def test_a_package_is_pushed_and_pushed_again(dl, project):
    codebase = dl.GitCodebase(git_url="https://example.com/toy.git", git_tag="main")
    module = dl.PackageModule(name="module", entry_point="main.py", class_name="Adapter")
    push = {"package_name": "toy", "modules": [module], "codebase": codebase, "package_type": "ml"}
    first = project.packages.push(**push, ignore_sanity_check=True)
    second = project.packages.push(**push, ignore_sanity_check=True, version="1.0.1")
    assert (first.id, second.version) == (second.id, "1.0.1")
    assert project.packages.get(package_name="toy").codebase.git_url == "https://example.com/toy.git"
    with pytest.raises(dl.exceptions.BadRequest, match="Bad Name"):
        project.packages.push(**push | {"package_name": "Bad Name"}, ignore_sanity_check=True)


def test_versions_of_a_dpk(dl, project):
    first, second = publish(dl, project), publish(dl, project, "1.1.0")
    assert (second.base_id, project.dpks.get(dpk_name="toy").version) == (first.base_id, "1.1.0")
    assert dl.dpks.get(dpk_id=first.id).version == "1.0.0"
    assert dl.dpks.get(dpk_name="toy", dpk_version="1.0.0").id == first.id
    assert second.get_revisions("1.0.0").id == first.id


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, "Conflict", "already has a version 1.0.0"),
        ({"version": "2"}, "BadRequest", "1.2.3"),
        ({"displayName": ""}, "BadRequest", "displayName"),
        ({"context": {"project": "absent"}}, "NotFound", "absent"),
        (
            {"version": "2.0.0", "components": {"models": [{"name": "m", "moduleName": "gone"}]}},
            "BadRequest",
            "'m' names an unknown module: 'gone'",
        ),
    ],
)
def test_manifests_that_are_refused(dl, project, changes, error, message):
    publish(dl, project)
    with pytest.raises(getattr(dl.exceptions, error), match=message):
        publish(dl, project, **changes)


def test_installing_an_app_creates_its_models(dl, project, app):
    (model,) = project.models.list().items
    assert (model.name, model.status, model.module_name) == ("first", "pre-trained", "module")
    assert model.configuration == {"size": 1, "depth": {"a": 1}}
    assert (model.project_id, model.app["id"], model.package_id) == (project.id, app.id, app.dpk.id)
    assert model.package.version == "1.0.0"
    assert project.apps.get(app_name="Toy").id == app.id


def test_updating_an_app_moves_its_models_and_adds_new_ones(dl, project, app):
    publish(dl, project, "1.1.0", models=("first", "second"))
    before = project.models.get(model_name="first")
    app.dpk_version = "1.1.0"
    assert app.update()
    models = {model.name: model for model in project.models.list().all()}
    assert models.keys() == {"first", "second"}
    assert models["first"].id == before.id
    assert {model.app["dpkVersion"] for model in models.values()} == {"1.1.0"}


def test_uninstalling_an_app_removes_its_models(dl, project, app):
    assert app.uninstall()
    assert project.models.list().items_count == 0


def test_another_model_can_be_made_of_an_app(dl, project, app):
    created = app.models.create(model_name="mine", dpk_model_name="first", configuration={"size": 2})
    assert project.models.get(model_name="mine").configuration == {"size": 2}
    copy = created.clone(model_name="copy", configuration={"size": 3})
    assert (copy.configuration, copy.package_id) == ({"size": 3}, created.package_id)
    assert created.delete()
    assert {model.name for model in project.models.list().all()} == {"first", "copy"}


def test_a_model_update_replaces_the_configuration_and_merges_the_metadata(dl, project, app):
    model = project.models.get(model_name="first")
    model.configuration = {"depth": {"b": 2}}
    model.metadata["mine"] = 1
    model.metadata["system"]["not"] = "kept"
    model.update()
    same = project.models.get(model_name="first")
    assert same.configuration == {"depth": {"b": 2}}
    assert same.metadata == {"system": {}, "mine": 1}
    del same.metadata["mine"]
    same.metadata["system"]["now"] = "kept"
    same.update(system_metadata=True)
    assert project.models.get(model_name="first").metadata == {"system": {"now": "kept"}, "mine": 1}


def test_artifacts_are_uploaded_and_downloaded(project, app, tmp_path):
    model = project.models.get(model_name="first")
    (tmp_path / "weights.bin").write_bytes(b"123")
    model.artifacts.upload(filepath=str(tmp_path / "weights.bin"))
    same = project.models.get(model_name="first")
    same.artifacts.download(local_path=str(tmp_path / "down"))
    assert (tmp_path / "down" / "weights.bin").read_bytes() == b"123"


def test_feature_sets_and_vectors(dl, project, app, dataset, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    item = dataset.items.upload(local_path=str(tmp_path / "a.txt"))
    model = project.models.get(model_name="first")
    created = project.feature_sets.create(
        name="vectors", size=2, set_type="text", entity_type=dl.FeatureEntityType.ITEM, model_id=model.id
    )
    assert model.feature_set.id == project.feature_sets.get(feature_set_name="vectors").id == created.id
    vector = created.features.create(entity=item, value=[0.5, 1.0])
    assert [v.value for v in created.features.list().all()] == [[0.5, 1.0]]
    with pytest.raises(dl.exceptions.BadRequest, match="2 numbers"):
        created.features.create(entity=item, value=[1.0])
    assert vector.delete()
    assert created.features.list().items_count == 0
