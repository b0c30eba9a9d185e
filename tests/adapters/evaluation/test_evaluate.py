"""Items whose right answers are known → a report, a calibration, thresholds, and answers that use them."""

import csv
import html.parser
import json
import logging
import re
from pathlib import Path

import pytest

import models
from adapters.evaluation.answering import Judged
from adapters.evaluation.files import write
from adapters.evaluation.report import Report, Subject, assess
from adapters.evaluation.truth import Truth
from engine.confidence.calibration import FILE, Calibration
from engine.errors import ConfigurationError
from tests.adapters.evaluation.conftest import made, sums, truth_of

METHODS = ["min_token", "first_token", "margin"]


@pytest.fixture
def evaluated(adding, tmp_path: Path) -> Path:
    """The folder of an evaluation of 600 sums."""
    items = sums(600)
    models.evaluate(items, truth_of(items), adding, out=tmp_path, measure="number", methods=METHODS)
    return tmp_path


class Loads(html.parser.HTMLParser):
    """Notes what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_has_figures_pictures_and_answers_to_read(evaluated: Path):
    figures = json.loads((evaluated / "report.json").read_text())
    assert figures["n"] == 600
    assert figures["methods"]["min_token"]["auroc"]["value"] > 0.7
    low, high = (figures["methods"]["first_token"]["auroc"][end] for end in ("low", "high"))
    assert low < 0.5 < high, "a number that says nothing"
    calibration = figures["calibration"]
    assert calibration["after"]["ece"] < calibration["before"]["ece"]
    assert calibration["after"]["brier"] < calibration["before"]["brier"]
    mistakes = figures["confident_mistakes"]
    assert mistakes[0]["confidence"] == max(one["confidence"] for one in mistakes)
    assert mistakes[0]["question"].startswith("How much is")
    assert "600 of 600 answers have no confidence by margin" in figures["notes"][0]
    assert (evaluated / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert (evaluated / "risk_coverage.png").read_bytes().startswith(b"\x89PNG")
    with (evaluated / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 600
    assert sum(int(row["right"]) for row in rows) == figures["right"]


def test_the_answers_say_which_are_refusals_where_that_is_asked_for(tmp_path: Path):
    items = sums(40)
    model = made(refusals="it is 2.")
    models.evaluate(items, truth_of(items), model, out=tmp_path, measure="number", methods=METHODS)
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["answer"] for row in rows if row["refusal"] == "1"} == {"It is 2."}
    assert {row["refusal"] for row in rows} == {"0", "1"}


def test_the_page_is_one_file_that_loads_nothing(evaluated: Path):
    page = Loads()
    page.feed((evaluated / "report.html").read_text())
    assert len(page.loaded) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)


def test_what_a_model_answers_is_no_html(adding, tmp_path):
    items = [{"filename": "a", "prompts": {"1": {"1": {"value": "<script>1+1</script>"}}}}]
    truth = Truth()
    truth.add("a", "1", "<b>2</b>")
    models.evaluate(items, truth, adding, out=tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_a_calibration_is_used_where_it_lies_beside_the_weights(evaluated: Path, monkeypatch):
    adapter = made(max_error=0.1)
    adapter.calibration = Calibration.read(evaluated / FILE)
    items = sums(600, start=1000)
    answers = [answer for found in adapter.predict(items) for answer in found]
    users = [answer["metadata"]["user"] for answer in answers]
    said = [int(answer["coordinates"].removeprefix("It is ").rstrip(".")) for answer in answers]
    keys = [answer["metadata"]["system"]["promptId"] for answer in answers]
    right = [sum(map(int, key.split("+"))) == number for key, number in zip(keys, said, strict=True)]
    sure = [user["model"]["confidence"] for user in users]
    assert sum(sure) / 600 == pytest.approx(sum(right) / 600, abs=0.05)
    raw = [user["confidences"]["min_token"] for user in users]
    assert sum(raw) / 600 > sum(right) / 600 + 0.05, "the raw one is too high"
    accepted = [ok for user, ok in zip(users, right, strict=True) if user["accept"]]
    assert len(accepted) > 100
    assert accepted.count(False) / len(accepted) <= 0.1


def test_it_is_read_from_the_artifacts_or_the_folder_of_the_weights(
    evaluated: Path, tiny_model: Path, tmp_path
):
    (tmp_path / "artifacts").mkdir()
    calibration = (evaluated / FILE).read_text()
    (tmp_path / "artifacts" / FILE).write_text(calibration)
    adapter = models.find("auto_causal_lm")({"model_name": str(tiny_model), "max_new_tokens": 2})
    assert adapter.load().calibration is None
    assert adapter.load(tmp_path / "artifacts").calibration == Calibration.read(evaluated / FILE)


def test_for_other_options_a_warning_says_so_and_the_raw_number_stays(evaluated: Path, caplog):
    adapter = made(system_prompt="Be bold.")
    adapter.calibration = Calibration.read(evaluated / FILE)
    with caplog.at_level(logging.WARNING):
        [[answer, *_]] = adapter.predict(sums(10))
        adapter.predict(sums(10))
    assert "confidences" not in answer["metadata"]["user"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "system_prompt: 'Be bold.', not None" in warning
    assert "evaluate again" in warning
    [[asked, *_]] = adapter.predict(sums(10), confidence="calibrated")
    assert asked["metadata"]["user"]["confidences"], "whoever asks for it gets it"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"confidence": "calibrated"},
            "option 'confidence' needs calibration.json, which `python -m adapters evaluate` writes: copy it "
            "to the model's artifacts, or beside its weights in a folder",
        ),
        ({"max_error": 0.05}, "option 'max_error' needs calibration.json"),
    ],
)
def test_what_needs_a_calibration_says_how_to_get_one(adding, options: dict, reason: str):
    with pytest.raises(ConfigurationError, match=reason):
        adding.predict(sums(10), **options)


def test_the_folder_of_local_weights_is_named_for_the_calibration(tiny_model: Path):
    adapter = models.load("auto_causal_lm", {"model_name": str(tiny_model), "max_error": 0.05})
    with pytest.raises(ConfigurationError, match=f"copy it to {re.escape(str(tiny_model))}"):
        adapter.predict(sums(10))


def test_an_error_rate_that_was_not_fitted_is_named(evaluated: Path, adding):
    adding.calibration = Calibration.read(evaluated / FILE)
    with pytest.raises(ConfigurationError, match=r"no threshold for 0.2, but for 0.01, 0.05, 0.1"):
        adding.predict(sums(10), max_error=0.2)


def test_an_answer_without_a_confidence_is_not_accepted(evaluated: Path):
    from adapters.calibrated import calibrated

    answer = {"metadata": {"user": {"model": {"name": "m", "confidence": None}}}}
    found = calibrated(answer, Calibration.read(evaluated / FILE), 0.05)["metadata"]["user"]
    assert found == {"model": {"name": "m", "confidence": None}, "accept": False}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"points": []}', '{"points": [[0.5, 2]], "thresholds": []}']
)
def test_a_file_that_is_no_calibration_says_what_to_do(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=r"is not a calibration .*: remove it, or evaluate again"):
        Calibration.read(tmp_path / FILE)


def test_people_answer_in_the_items_annotations(adding):
    (item,) = sums(10)
    person = {"type": "text", "coordinates": "0", "metadata": {"system": {"promptId": "0+0"}}}
    model = {
        **person,
        "coordinates": "1",
        "metadata": {"system": {"promptId": "0+1"}, "user": {"model": {"name": "other"}}},
    }
    item["annotations"] = [person, model]
    report = models.evaluate([item], model=adding, measure="number")
    assert [one.prompt for one in report.judged] == ["0+0"], "what a model has signed is no truth"


def test_no_truth_for_any_item(adding):
    with pytest.raises(
        ConfigurationError, match="the right answer to none of 10 prompts is known: have people annotate"
    ):
        models.evaluate(sums(10), model=adding)


def test_one_folder_needs_no_list(adding, tmp_path):
    items = sums(10)
    (tmp_path / "sums.json").write_text(json.dumps(items[0]))
    truth = Truth()
    truth.add("sums", "0+0", "It is 0")
    for given in (str(tmp_path), tmp_path, {**items[0], "filename": "sums.json"}):
        assert models.evaluate(given, truth, adding).figures["n"] == 1


def test_truth_for_half(adding):
    items = sums(100)
    report = models.evaluate(items, truth_of(items, 0.5), adding)
    assert report.figures["n"] == 50
    assert "left out, because no right answer is known: 50 of 100 answers" in report.figures["notes"]


def test_one_class_only(adding, tmp_path):
    items = sums(100)
    report = models.evaluate(items, truth_of(items), adding, measure=lambda answer, truth: 1, out=tmp_path)
    assert (
        "no calibration: all 100 answers are right: add items that the model gets wrong"
        in (report.figures["notes"])
    )
    assert report.figures["methods"]["min_token"]["auroc"]["value"] is None
    assert not (tmp_path / FILE).exists()


def assessed(pairs: list[tuple[float, bool]]) -> Report:
    """The report on answers of these confidences that are right or wrong."""
    judged = [
        Judged("a", str(i), "", "", ("",), float(right), right, {"min_token": sure}, {})
        for i, (sure, right) in enumerate(pairs)
    ]
    return assess(judged, Subject("m", {}, "exact_match", 0.5, "min_token"), ["min_token"], [0.05])


def test_a_calibration_that_improves_nothing_is_not_written(tmp_path):
    as_sure_as_right = [(tenths / 10, i < tenths) for i in range(10) for tenths in (2, 5, 8) for _ in "ab"]
    report = assessed(as_sure_as_right)
    [note] = report.figures["notes"]
    assert re.fullmatch(
        r"no calibration: (platt|isotonic|histogram) is no improvement on answers that it was not fitted to "
        r"\(ECE 0.\d{3}, raw 0.\d{3}; Brier 0.\d{3}, raw 0.\d{3}\): label more than these 60",
        note,
    )
    assert report.figures["calibration"] is None
    write(report, tmp_path)
    assert note in (tmp_path / "report.html").read_text()
    assert not (tmp_path / FILE).exists()


def test_thresholds_are_written_where_no_calibration_improves(tmp_path):
    report = assessed([(0.0, False)] * 40 + [(1.0, True)] * 400)
    [note] = report.figures["notes"]
    assert note.endswith("; calibration.json has the thresholds, and leaves confidences as they are")
    write(report, tmp_path)
    found = Calibration.read(tmp_path / FILE)
    assert [found.apply(raw) for raw in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]
    assert found.accepts(1.0, 0.05)
    assert not found.accepts(0.3, 0.05)


def test_ten_answers(adding, tmp_path):
    items = sums(10)
    report = models.evaluate(items, truth_of(items), adding, out=tmp_path)
    assert (
        "no calibration: 10 answers are too few for a calibration: label at least 20 more"
        in (report.figures["notes"])
    )
    assert "label" in report.figures["thresholds"][1]["sentence"]


def test_a_confidence_that_is_no_number_is_left_out(adding, monkeypatch):
    items = sums(100)
    monkeypatch.setattr(random_less := type(adding.engine), "_answer", nan_first(random_less._answer))
    report = models.evaluate(items, truth_of(items), adding)
    assert any("1 of 100 answers have no confidence by min_token" in one for one in report.figures["notes"])
    assert report.figures["methods"]["min_token"]["n"] == 99


def nan_first(answer):
    from dataclasses import replace

    seen = []

    def answered(self, request):
        seen.append(request)
        given = answer(self, request)
        nan = {"min_token": float("nan")}
        return replace(given, confidence=nan["min_token"], confidences=nan) if len(seen) == 1 else given

    return answered


def test_an_item_without_an_answer_is_named(adding):
    items = [*sums(10), {"filename": "broken.json", "prompts": 3}]
    report = models.evaluate(items, truth_of(items[:1]), adding)
    assert any(note.startswith("left out: broken.json: ") for note in report.figures["notes"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "item,prompt\na,b\n", "row 2: it has no answer"),
        ("t.jsonl", "x", "row 1: it is not a JSON object"),
        ("t.jsonl", '{"item": "a", "answer": "b"}', "row 1: it has no prompt"),
    ],
)
def test_a_file_of_truths_that_cannot_be_read_names_its_row(tmp_path, name: str, text: str, reason: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        Truth.read(tmp_path / name)


def test_an_item_goes_by_its_path_its_name_or_its_stem(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"item": "a", "prompt": 1, "answer": ["x", "y"]}\n')
    from adapters.evaluation.truth import names_of

    assert Truth.read(tmp_path / "t.jsonl").of(names_of("/in/a.json"), "1") == ("x", "y")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_errors": [0.05, 1.5]}, "max_error 1.5 is not an error rate"),
        ({"right_from": 0}, "right_from is 0"),
        ({"methods": ["vibes"]}, "no such method"),
    ],
)
def test_invalid_options_are_refused(adding, options: dict, reason: str):
    with pytest.raises(ConfigurationError, match=reason):
        models.evaluate(sums(10), truth_of(sums(10)), adding, **options)
