"""What an annotation says of how its answer came about: small, and without secrets."""

import json
from pathlib import Path

import pytest

from adapters.hugging import HuggingAdapter
from adapters.items.annotations import MAX_REASONING
from adapters.items.provenance import MAX_VALUE, Source
from adapters.prediction.failures import Failure
from engine.configuration import split
from engine.types import Answer, Request, Usage
from tests.fakes import FakeEngine

ITEM = {"prompts": {"1": {"a": {"value": "One"}, "b": {"value": "Two"}}}}


class Cutting(FakeEngine):
    """Each answer is cut off after three tokens, one of which is a thought."""

    revision = "abc"

    def _answer(self, request: Request) -> Answer:
        text = self.reply(request)
        return Answer(text, (), None, 0.25, "length", Usage(7, 3, 0, 1), reasoning="Hm" * MAX_REASONING)


def adapter(engine: FakeEngine, **configuration: object) -> HuggingAdapter:
    made = HuggingAdapter({"model_name": "owner/name", **configuration})
    made._engine = engine
    return made


def of(configuration: dict) -> Source:
    chosen = split(configuration)
    return Source.of(chosen, chosen.generation, None)


def user(answer: dict) -> dict:
    return answer["metadata"]["user"]


def test_an_annotation_says_how_its_answer_came_about():
    [[first, _]] = adapter(Cutting(lambda _: "Yes"), max_new_tokens=3).predict([ITEM])
    assert user(first)["provenance"] == {
        "finish_reason": "length",
        "cut_off": True,
        "prompt_tokens": 7,
        "answer_tokens": 2,
        "reasoning_tokens": 1,
        "model": "owner/name",
        "revision": "abc",
        "options": {"max_new_tokens": 3},
        "confidence": {"method": "min_token", "value": 0.25},
    }


def test_what_is_unknown_is_left_out():
    [[first, _]] = adapter(FakeEngine(lambda _: "Yes")).predict([ITEM])
    assert user(first)["provenance"] == {
        "finish_reason": "stop",
        "model": "owner/name",
        "confidence": {"method": "min_token", "value": None},
    }


def test_a_folder_goes_by_its_name_alone(tmp_path):
    assert of({"model_name": str(tmp_path)}).model == tmp_path.name


def test_a_servers_model_is_named_and_its_address_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    source = of(
        {
            "backend": "endpoint",
            "model_name": "there",
            "base_url": "https://user:password@example.com/v1",
            "extra_body": {"key": "password"},
            "system_prompt": "say hf_private",
        }
    )
    assert source.model == "there"
    assert source.options == {"backend": "endpoint", "system_prompt": "say <secret>"}


def test_the_options_are_bounded():
    source = of(
        {"model_name": "m", "system_prompt": "x" * 10_000, "labels": [f"label {i}" for i in range(999)]}
    )
    assert "10000 characters" in source.options["system_prompt"]
    assert (
        source.options["system_prompt"] != of({"model_name": "m", "system_prompt": "x" * 9_999 + "y"}).options
    )
    assert len(json.dumps(dict(source.options))) < 3 * MAX_VALUE


def test_the_thought_is_kept_only_where_it_is_asked_for():
    engine = Cutting(lambda _: "Yes")
    [[without, _]] = adapter(engine).predict([ITEM])
    [[kept, _]] = adapter(engine, keep_reasoning=True).predict([ITEM])
    assert "reasoning" not in user(without)
    assert user(kept)["reasoning"] == ("Hm" * MAX_REASONING)[:MAX_REASONING]
    assert kept["coordinates"] == "Yes"


def test_a_cut_answer_may_be_listed_instead_and_ends_its_conversation():
    failures: list[Failure] = []
    engine = Cutting(lambda _: "Yes")
    assert adapter(engine, on_length="list").predict([ITEM], failures=failures) == [[]]
    assert "the answer is cut off after 3 tokens: raise max_new_tokens" in failures[0].reason
    assert "skipped" in failures[1].reason
    assert len(engine.requests) == 1


class Ranking(FakeEngine):
    """Answers with three, of which the first is cut off."""

    def _answer(self, request: Request) -> Answer:
        texts = [("cut", 0.9, "length"), ("good", 0.5, "stop"), ("bad", 0.1, "stop")]
        first, *others = (
            Answer(text, (), None, confidence, finish, Usage(1, 1)) for text, confidence, finish in texts
        )
        object.__setattr__(first, "others", tuple(others))
        return first


@pytest.mark.parametrize(
    ("options", "texts"), [({}, ["cut", "good", "bad"]), ({"on_length": "list"}, ["good", "bad"])]
)
def test_answers_to_one_turn_are_stored_by_their_ranks(options: dict, texts: list[str]):
    [found] = adapter(Ranking(str), n=3, temperature=1, **options).predict([ITEM])
    assert [one["coordinates"] for one in found] == texts * 2
    ranks = [(user(one)["provenance"]["rank"], user(one)["provenance"]["of"]) for one in found]
    assert ranks == [(rank, len(texts)) for rank in range(1, len(texts) + 1)] * 2


def test_the_commit_of_the_weights_is_the_revision(tiny_model: Path, in_hub_cache):
    in_hub_cache("tiny/provenance", tiny_model)
    loaded = HuggingAdapter({"model_name": "tiny/provenance", "max_new_tokens": 1}).load()
    [[answer, _]] = loaded.predict([ITEM])
    provenance = user(answer)["provenance"]
    assert (provenance["model"], provenance["revision"]) == ("tiny/provenance", "0" * 40)
    assert provenance["seconds"] >= 0
    assert "revision" not in user(loaded.load(tiny_model).predict([ITEM])[0][0])["provenance"]
