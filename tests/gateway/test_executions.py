"""Executions run for real: the published code, in a process of its own, under the unmodified SDK."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MAIN = '''
import os
import sys
import dtlpy as dl
from helper import shout


class Adapter(dl.BaseModelAdapter):
    """Answers each item with its own text in capitals."""

    def load(self, local_path, **kwargs):
        print("loading", self.model_entity.name)
        self.suffix = self.configuration["suffix"]
        weights = os.path.join(local_path, "weights.txt")
        if os.path.exists(weights):
            self.suffix = open(weights).read()

    def prepare_item_func(self, item):
        return item.download(save_locally=False).read().decode()

    def predict(self, batch, **kwargs):
        collections = []
        for text in batch:
            if text == "crash":
                os._exit(3)
            if text == "bad":
                raise ValueError("cannot answer this")
            collection = dl.AnnotationCollection()
            collection.add(
                annotation_definition=dl.FreeText(text=shout(text) + self.suffix, label="q"),
                model_info={"name": self.model_entity.name, "confidence": 0.5},
            )
            collections.append(collection)
        return collections

    def train(self, data_path, output_path, **kwargs):
        raise NotImplementedError

    def train_model(self, model, progress, context):
        progress.update(progress=50, message="half way")
        return [type(model).__name__, context.execution_id, context.service.id]

    def where(self, text):
        import helper

        return {
            "text": text,
            "cwd": os.getcwd(),
            "code": helper.__file__,
            "path": sys.path,
            "home": os.environ["HOME"],
            "dataloop": os.environ["DATALOOP_PATH"],
            "pid": os.getpid(),
        }
'''

FUNCTIONS = [
    {
        "name": "predict_items",
        "input": [{"type": "Item[]", "name": "items"}],
        "output": [{"type": "Item[]", "name": "items"}, {"type": "Annotation[]", "name": "annotations"}],
    },
    {
        "name": "predict_dataset",
        "input": [{"type": "Dataset", "name": "dataset"}, {"type": "Json", "name": "filters"}],
    },
    {
        "name": "train_model",
        "input": [{"type": "Model", "name": "model"}],
        "output": [{"type": "Json", "name": "seen"}],
    },
    {
        "name": "where",
        "input": [{"type": "String", "name": "text"}],
        "output": [{"type": "Json", "name": "place"}],
    },
]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A codebase and its manifest, in the working directory."""
    folder = tmp_path / "code"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text(MAIN)
    (folder / "helper.py").write_text("def shout(text):\n    return text.upper()\n")
    module = {
        "name": "module",
        "entryPoint": "src/main.py",
        "className": "Adapter",
        "initInputs": [{"type": "Model", "name": "model_entity"}],
        "functions": FUNCTIONS,
    }
    manifest = {
        "name": "toy",
        "displayName": "Toy",
        "version": "1.0.0",
        "scope": "project",
        "components": {
            "modules": [module],
            "models": [{"name": "toy-model", "moduleName": "module", "configuration": {"suffix": "!"}}],
        },
    }
    (folder / "dataloop.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def app(project, code):
    return project.apps.install(dpk=project.dpks.publish())


@pytest.fixture
def model(project, app):
    """The model of the app, deployed."""
    project.models.get(model_name="toy-model").deploy()
    return project.models.get(model_name="toy-model")


@pytest.fixture
def upload(dataset, tmp_path):
    """Uploads each text as an item of that name and content."""

    def upload(*texts):
        for text in texts:
            (tmp_path / f"{text}.txt").write_text(text)
        return [dataset.items.upload(local_path=str(tmp_path / f"{text}.txt")) for text in texts]

    return upload


def answers(item):
    return [annotation.coordinates for annotation in item.annotations.list()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_predictions_of_the_published_code_end_up_on_the_items(dl, gateway, project, dataset, model, upload):
    one, two = upload("one", "two")
    assert model.status == "deployed"
    service_id = model.metadata["system"]["deploy"]["services"][0]

    execution = model.predict(item_ids=[one.id, two.id]).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert answers(one) + answers(two) == ["ONE!", "TWO!"]
    (annotation,) = one.annotations.list()
    assert annotation.metadata["user"]["model"]["model_id"] == model.id
    assert execution.output == {
        "items": [one.id, two.id],
        "annotations": [annotation.id, two.annotations.list()[0].id],
    }
    # wait() looked twice and never slept, and the process was asked once what to do.
    looks = [request.user for request in gateway.sent("GET", f"/executions/{execution.id}$")]
    assert sorted(looks) == sorted([f"{service_id}@bot.example.com", *["tester@example.com"] * 2])
    assert gateway.service_log(service_id).count("loading toy-model") == 1

    assert [listed.id for listed in project.executions.list().items] == [execution.id]
    assert [listed.id for listed in project.services.list().items] == [service_id]

    # The same process answers the next execution, which replaces the annotations of the first.
    only = dl.Filters(field="name", values="one.txt")
    execution = project.models.predict(model=model, dataset_id=dataset.id, filters=only).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert answers(one) == ["ONE!"]
    assert gateway.service_log(service_id).count("loading toy-model") == 1

    # One item that fails fails the execution, with the reason; the batches before it have landed.
    (bad,) = upload("bad")
    execution = model.predict(item_ids=[bad.id]).wait()
    assert execution.latest_status["status"] == "failed"
    assert "ValueError: cannot answer this" in execution.latest_status["message"]

    # A process that dies fails its execution, and says so. The next execution has a new one.
    (crash,) = upload("crash")
    execution = model.predict(item_ids=[crash.id]).wait()
    assert execution.latest_status["status"] == "failed"
    assert "ended with code 3" in execution.latest_status["message"]
    execution = model.predict(item_ids=[two.id]).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert gateway.service_log(service_id).count("loading toy-model") == 2


def test_a_service_knows_nothing_but_the_published_code(dl, gateway, model):
    service = dl.services.get(service_id=model.metadata["system"]["deploy"]["services"][0])
    execution = service.execute(
        function_name="where", execution_input={"text": "hi"}, project_id=model.project_id
    )
    place = dl.executions.wait(execution_id=execution.id).output["place"]
    assert place["text"] == "hi"
    assert place["code"] == f"{place['cwd']}/helper.py"
    assert place["path"][0] == place["cwd"]
    root = Path(__file__).parents[2]
    checkout = [root, root / "tests", root / "tests" / "gateway"]
    assert not set(map(str, checkout)) & set(place["path"])
    assert place["home"] != os.environ["HOME"]
    assert place["dataloop"] != os.environ["DATALOOP_PATH"]
    assert alive(place["pid"])
    gateway.stop()
    assert not alive(place["pid"])
    assert not os.path.exists(place["cwd"])


def test_what_is_not_declared_or_not_deployed_is_refused(dl, project, app, upload):
    (item,) = upload("one")
    model = project.models.get(model_name="toy-model")
    with pytest.raises(ValueError, match="Need to deploy"):
        model.predict(item_ids=[item.id])
    with pytest.raises(dl.exceptions.BadRequest, match="'evaluate_model' is not declared"):
        model.evaluate(dataset_id=item.dataset_id)


def test_training_runs_in_a_service_of_its_own(project, app):
    model = project.models.get(model_name="toy-model")
    execution = model.train().wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert execution.output == {"seen": ["Model", execution.id, execution.service_id]}
    assert "half way" in [status["message"] for status in execution.status]


def test_a_class_that_cannot_be_built_fails_the_execution(dl, gateway, project, code, upload):
    (code / "helper.py").write_text("raise RuntimeError('no helper today')\n")
    project.apps.install(dpk=project.dpks.publish())
    project.models.get(model_name="toy-model").deploy()
    (item,) = upload("one")
    execution = project.models.get(model_name="toy-model").predict(item_ids=[item.id]).wait()
    assert execution.latest_status["status"] == "failed"
    assert "no helper today" in execution.latest_status["message"]


def test_an_updated_app_runs_the_new_code_with_the_artifacts(project, app, model, code, upload, tmp_path):
    (tmp_path / "weights.txt").write_text("?")
    model.artifacts.upload(filepath=str(tmp_path / "weights.txt"))
    (code / "helper.py").write_text("def shout(text):\n    return text * 2\n")
    manifest = json.loads((code / "dataloop.json").read_text()) | {"version": "1.1.0"}
    (code / "dataloop.json").write_text(json.dumps(manifest))
    project.dpks.publish()
    app.dpk_version = "1.1.0"
    app.update()
    (item,) = upload("one")
    execution = project.models.get(model_name="toy-model").predict(item_ids=[item.id]).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    assert answers(item) == ["oneone?"]


def test_a_fault_reaches_the_requests_of_a_service(gateway, model, upload):
    items = upload("one", "two")
    gateway.fail("POST", "/annotations$", status=400, times=math.inf)
    execution = model.predict(item_ids=[item.id for item in items]).wait()
    assert execution.latest_status["status"] == "failed"
    assert "Failed to upload annotations" in execution.latest_status["message"]
    assert {r.user for r in gateway.sent("POST", "/annotations$")} == {
        f"{model.metadata['system']['deploy']['services'][0]}@bot.example.com"
    }


def test_a_changed_model_is_loaded_again(project, model, upload):
    (item,) = upload("one")
    model.predict(item_ids=[item.id]).wait()
    changed = project.models.get(model_name="toy-model")
    changed.configuration["suffix"] = "..."
    changed.update()
    model.predict(item_ids=[item.id]).wait()
    assert answers(item) == ["ONE..."]


def test_the_process_of_a_service_ends_with_its_standard_input(gateway, model, tmp_path):
    runner = Path(__file__).with_name("runner.py")
    service_id = model.metadata["system"]["deploy"]["services"][0]
    command = [sys.executable, "-P", str(runner), service_id]
    env = os.environ | gateway.environment(tmp_path / "dataloop")
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0
