"""A model's artifacts: none is written outside of its folder, none comes from elsewhere."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import dtlpy
import pytest

from adapters.dataloop import ModelAdapter
from adapters.platform import artifacts
from engine.errors import LoadError
from tests.adapters.conftest import configured


def artifact(**fields: Any) -> Any:
    """An artifact of a model, as the SDK has it before it is downloaded."""
    return dtlpy.entities.Artifact.from_json(fields, client_api=dtlpy.client_api)


@pytest.mark.parametrize(
    "name",
    [
        "/artifacts/models/mine/model.safetensors",
        "/artifacts/models/mine/deeper/..model.safetensors",
        "/artifacts/models/of..mine/a b.json",
        "/elsewhere/model.safetensors",
    ],
)
def test_an_artifact_within_its_folder_is_taken(name: str):
    found = [artifact(type="item", itemId="5" * 24), artifact(type="local", localPath="/tmp")]
    artifacts.check(found, {"5" * 24: {"filename": name}}.__getitem__)


@pytest.mark.parametrize(
    "name",
    [
        "/artifacts/models/mine/../evil",
        "/artifacts/models/mine/../../../../tmp/evil",
        "/artifacts/models/mine/deeper/../../evil",
        "/artifacts/models/mine/..",
        "/artifacts/models/mine/..\\evil",
        "//etc/evil",
        "etc/../../evil",
        "/artifacts/models/../evil",
        "/evil\0.json",
        "/",
        None,
    ],
)
def test_an_artifact_whose_name_leads_out_of_it_is_refused(name: Any):
    with pytest.raises(LoadError, match="leads out of the model's folder"):
        artifacts.check([artifact(type="item", itemId="5" * 24)], {"5" * 24: {"filename": name}}.__getitem__)


def test_what_an_artifact_says_of_itself_is_looked_at_too():
    honest = {"id": "5" * 24, "filename": "/artifacts/models/mine/a.json", "metadata": {}}
    there = {honest["id"]: honest}
    artifacts.check([artifact(type="file", **honest)], there.__getitem__)
    for said in (
        {"filename": "/../../evil"},
        {"metadata": {"system": {"shebang": {"linkInfo": {"ref": "file:///x"}}}}},
    ):
        with pytest.raises(LoadError, match=r"leads out|is a link"):
            artifacts.check([artifact(type="file", **{**honest, **said})], there.__getitem__)


@pytest.mark.parametrize(
    "shebang",
    [
        {"dltype": "link", "linkInfo": {"type": "url", "ref": "https://elsewhere.test/x"}},
        {"linkInfo": {"type": "url", "ref": "file:///etc/passwd"}},
        {"linkInfo": "https://elsewhere.test/x"},
        {"dltype": "link"},
    ],
)
def test_an_artifact_that_is_a_link_item_is_refused(shebang: Any):
    item = {"filename": "/artifacts/models/mine/a.json", "metadata": {"system": {"shebang": shebang}}}
    with pytest.raises(LoadError, match="a link to another host or a file, which is not followed"):
        artifacts.check([artifact(type="item", itemId="5" * 24)], {"5" * 24: item}.__getitem__)


def test_a_model_with_an_artifact_that_is_a_link_item_is_not_loaded(
    model_entity, tiny_model: Path, elsewhere, upload, tmp_path: Path
):
    url, asked = elsewhere
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret of this machine")
    for i, ref in enumerate([f"{url}/x", secret.as_uri()]):
        link = {"type": "link", "metadata": {"dltype": "link", "linkInfo": {"type": "url", "ref": ref}}}
        item = upload(f"config{i}.json", {"shebang": "dataloop", **link})
        entity = model_entity(configured(tiny_model), name=f"linked{i}")
        entity.model_artifacts = [artifact(type="item", itemId=item.id)]
        with pytest.raises(LoadError, match="is a link to another host or a file"):
            ModelAdapter(model_entity=entity)
    assert asked == []
    assert not list(Path(os.environ["DATALOOP_PATH"]).glob("models/*/config*"))


def test_an_artifact_that_is_an_archive_is_not_unpacked(
    model_entity, tiny_model: Path, dataset, tmp_path: Path
):
    out = tmp_path / "out"
    member = tarfile.TarInfo("folder")
    member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
    with tarfile.open(tmp_path / "weights.tar", "w") as archive:
        archive.addfile(member)
        for name in ("folder/out", "../out", str(out)):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    item = dataset.items.upload(str(tmp_path / "weights.tar"), remote_path="/artifacts/models/tiny")
    entity = model_entity(configured(tiny_model))
    entity.model_artifacts = [artifact(type="item", itemId=item.id)]
    ModelAdapter(model_entity=entity)
    folder = Path(os.environ["DATALOOP_PATH"]) / "models" / "tiny"
    assert [path.name for path in folder.rglob("*")] == ["weights.tar"]
    assert not out.exists()


def test_an_artifact_of_another_host_is_refused():
    link = artifact(type="link", url="http://169.254.169.254/x", filename="../../evil")
    with pytest.raises(LoadError, match="link to another host"):
        artifacts.check([link], {}.__getitem__)


def test_a_model_with_such_an_artifact_is_not_loaded(model_entity, tiny_model: Path, elsewhere):
    url, asked = elsewhere
    entity = model_entity(configured(tiny_model))
    entity.model_artifacts = [artifact(type="link", url=f"{url}/x", filename="../../evil")]
    with pytest.raises(LoadError, match="link to another host"):
        ModelAdapter(model_entity=entity)
    assert asked == []
