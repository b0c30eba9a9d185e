"""The server on the platform: a service of the app, which `backend: endpoint` with `app_id` asks."""

from pathlib import Path

import pytest

import creation
import models
from adapters.dataloop_server import ModelServer
from adapters.platform import manifest
from engine.errors import ConfigurationError


def test_the_manifest_has_a_service_where_one_is_asked_for():
    components = manifest.build(["tiny_talk"], server="tiny-talk")["components"]
    [service] = components["services"]
    [panel] = components["panels"]
    assert service["panelNames"] == [panel["name"]]
    assert service["initParams"]["configuration"]["module_name"] == "models.tiny_talk"
    [module] = [one for one in components["modules"] if one["name"] == service["moduleName"]]
    assert module["config"] == {"isCustomServer": True}
    assert (manifest.ROOT / module["entryPoint"]).is_file()
    # A pod that always runs is paid for: it is there only where it is asked for.
    assert not {"services", "panels"} & manifest.build()["components"].keys()


def test_a_configuration_that_names_no_model_is_refused():
    with pytest.raises(ConfigurationError, match="module_name"):
        ModelServer({})


@pytest.mark.slow
def test_an_app_is_published_installed_and_asked_by_its_id(
    gateway, project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, questions: dict
):
    creation.package_creation(project, models=["tiny_talk"], server="tiny_talk")
    [app] = project.apps.list().all()
    for name, value in gateway.environment(tmp_path / "login").items():
        monkeypatch.setenv(name, value)
    configuration = {"backend": "endpoint", "app_id": app.id, "model_name": "tiny_talk", "retries": 0}
    asked = models.load("inference_endpoint", configuration)
    [answers] = asked.predict([questions], max_new_tokens=16)
    [expected] = models.load("tiny_talk").predict([questions], max_new_tokens=16)
    assert [one["coordinates"] for one in answers] == [one["coordinates"] for one in expected]
    confidences = [
        [one["metadata"]["user"]["model"]["confidence"] for one in given] for given in (answers, expected)
    ]
    # OpenAI's form has no log-probability of the token that ends an answer.
    assert confidences[0] == pytest.approx(confidences[1], abs=0.05)
    assert app.uninstall()
