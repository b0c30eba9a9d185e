"""A model is evaluated on the platform: people's answers on prompt items, the real SDK."""

import json
from pathlib import Path
from typing import Any

import pytest

import creation
from adapters.evaluation.answering import Judge
from adapters.evaluation.measures import MEASURES
from adapters.platform.evaluation import judged
from engine.confidence.calibration import Calibration
from engine.errors import ConfigurationError
from tests.adapters.evaluation.conftest import made, sums

QUERY = {"filter": {"$and": [{"type": "file"}]}}


def annotate(dl: Any, item: Any, answers: dict[str, str]) -> None:
    """A person answers prompts of an item."""
    people = dl.AnnotationCollection()
    for key, text in answers.items():
        people.add(dl.FreeText(text=text, label="q"), prompt_id=key)
    item.annotations.upload(annotations=people)


def uploaded(dl: Any, upload: Any, items: list[dict[str, Any]], answer: str) -> list[Any]:
    """Items with sums, and a person's answer to each."""
    found = []
    for i, content in enumerate(items):
        item = upload(f"{i}.json", {**content, "metadata": {"dltype": "prompt"}, "shebang": "dataloop"})
        right = {
            key: answer.format(sum=eval(key), sums=key.replace("+", " + ")) for key in content["prompts"]
        }
        annotate(dl, item, right)
        found.append(item)
    return found


def test_answers_meet_people_by_the_prompts_key(answering, upload, dl, dataset):
    adapter = answering(lambda request: request.messages[-1].text)
    item = upload("a.json", {"prompts": {key: {"1": {"value": key}} for key in ("one", "two", "three")}})
    adapter.predict_items([item])
    annotate(dl, item, {"two": "2", "one": "ONE."})
    found = judged(dataset.id, QUERY, "tiny", Judge(MEASURES["exact_match"], 1, "min_token"))
    assert [
        (one.prompt, one.answer, one.right) for one in sorted(found.judged, key=lambda one: one.prompt)
    ] == [
        ("one", "one", True),
        ("two", "two", False),
    ]
    assert found.without_truth == 1, "nobody has answered the third"


def test_a_dataset_that_nobody_has_answered_says_what_to_do(answering, upload, dataset):
    adapter = answering(lambda request: "yes")
    adapter.predict_items([upload("a.json", {"prompts": {"1": {"1": {"value": "Is it?"}}}})])
    with pytest.raises(
        ConfigurationError, match="the right answer to none of 1 prompts is known: have people annotate"
    ):
        adapter.evaluate(adapter.model_entity, dataset)


def test_the_figures_become_metrics_and_the_report_artifacts(answering, upload, dl, dataset, tmp_path):
    adapter = answering(lambda request: "")
    adapter.adapter = made(measure="number")
    uploaded(dl, upload, sums(200), "{sum}")
    adapter.predict_dataset(dataset, confidence_methods=["first_token"])
    model = adapter.evaluate(adapter.model_entity, dataset)
    model.artifacts.download(local_path=str(tmp_path / "artifacts"))
    report = json.loads((tmp_path / "artifacts" / "report.json").read_text())
    assert report["n"] == 200
    assert "<html" in (tmp_path / "artifacts" / "report.html").read_text()
    samples = {(one.figure, one.legend): one.y for one in model.metrics.list().all()}
    assert samples["accuracy", "number"] == report["accuracy"]
    for method in ("min_token", "first_token"):
        assert samples["auroc", method] == report["methods"][method]["auroc"]["value"]
    assert {"reliability", "risk-coverage", "ece", "accepted"} <= {figure for figure, _ in samples}
    calibration = Calibration.read(tmp_path / "artifacts" / "calibration.json")
    assert calibration == adapter.adapter.calibration, "it is in use at once"
    assert calibration.model == "hugging"


@pytest.mark.slow
def test_the_whole_way_evaluate_calibrate_and_predict_with_accept(
    dl, project, dataset, upload, tmp_path: Path
):
    creation.package_creation(project, models=["tiny_talk"])
    model = project.models.get(model_name="tiny-talk")
    model.configuration["max_error"] = 0.1
    model.update()
    asked = sums(200, start=600)
    items = uploaded(dl, upload, asked, "{sums} = {sum}")
    execution = model.evaluate(dataset_id=dataset.id, filters=dl.Filters()).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    model = project.models.get(model_name="tiny-talk")
    assert "auroc" in {sample.figure for sample in model.metrics.list().all()}
    model.artifacts.download(local_path=str(tmp_path / "artifacts"))
    calibration = Calibration.read(tmp_path / "artifacts" / "calibration.json")
    assert calibration.n == 200
    model.deploy()
    model = project.models.get(model_name="tiny-talk")
    execution = model.predict(item_ids=[item.id for item in items[:5]]).wait()
    assert execution.latest_status["status"] == "success", execution.latest_status
    users = [
        annotation.metadata["user"]
        for item in items[:5]
        for annotation in item.annotations.list()
        if "user" in annotation.metadata
    ]
    assert len(users) == 50
    for user in users:
        raw = user["confidences"]["min_token"]
        assert user["model"]["confidence"] == pytest.approx(calibration.apply(raw))
        assert user["accept"] is calibration.accepts(raw, 0.1)
