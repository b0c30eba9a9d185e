"""What a loaded model does from Python: score, rank, encode, and answer by any of its names."""

import numpy as np
import pytest

import models
from adapters.hugging import HuggingAdapter
from engine.errors import ConfigurationError, PromptError

JAPAN = [{"role": "user", "content": "What is the capital of Japan?"}]
CITIES = ["The capital of Japan is Oslo.", "The capital of Japan is Tokyo.", "The capital of Japan is Rome."]


@pytest.fixture(scope="module")
def model():
    return models.load("tiny_talk", {"model_deploys": ["Talk-Small"], "max_new_tokens": 24})


def test_a_text_is_gone_on_with_and_a_conversation_is_answered(model):
    plain, chat = model.generate(["The capital of Japan", JAPAN])
    assert plain.text.startswith(" is")
    assert chat.text == "The capital of Japan is Tokyo."


def test_one_prompt_that_fails_costs_no_other_its_answer(model):
    bad, good = model.generate(["word " * 3000, JAPAN])
    assert isinstance(bad.error, PromptError)
    assert good.text == "The capital of Japan is Tokyo."


def test_several_answers_are_for_prompt_items_and_for_the_calls_that_return_them(model):
    with pytest.raises(ConfigurationError, match="n: each prompt has one answer here; call chat"):
        model.generate([JAPAN], n=2, temperature=1)
    ranking = HuggingAdapter({"model_name": "m", "n": 4, "temperature": 1})
    assert ranking.call_options({})[0].n == 1


def test_candidates_are_ranked_by_their_probability(model):
    ranked = model.rank(JAPAN, CITIES)
    assert ranked[0][0] == CITIES[1]
    assert [probability for _, probability in ranked] == sorted((p for _, p in ranked), reverse=True)
    assert sum(probability for _, probability in ranked) == pytest.approx(1)


def test_scores_are_the_engines(model):
    prompt, candidates = "The capital of Japan is", [" Tokyo", " Oslo"]
    assert [model.score(prompt, candidates)] == model.engine.score([prompt], [candidates])
    one, other = model.score([prompt, "A"], candidates)
    assert one.candidates[0].total == pytest.approx(
        model.score(prompt, candidates).candidates[0].total, abs=1e-4
    )
    assert other != one


def test_without_candidates_the_whole_vocabulary_is_scored(model):
    logits = model.score(["The capital", "of"])
    assert logits.shape == (2, model.engine.loaded.model.config.vocab_size)
    assert logits.dtype == np.float32


def test_texts_become_vectors(model):
    vectors = model.encode(["Good morning!", "Hello"], normalize=True)
    assert (vectors.shape, vectors.dtype) == ((2, 128), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hidden_states_are_reduced_or_left(model, reduction: str):
    [states] = model.hidden_states(["Good morning!"], layer=1, reduction=None)
    reduced = getattr(states, reduction)(axis=0)
    assert model.hidden_states(["Good morning!"], layer=1, reduction=reduction)[0] == pytest.approx(
        reduced, abs=1e-4
    )


@pytest.mark.parametrize("name", ["tiny_talk", "TINY_TALK", "talk-small", "Talk-Small"])
def test_a_public_name_is_found_whatever_its_capitals(model, name: str):
    assert model.chat(JAPAN, model=name).model == name


def test_a_name_that_is_not_the_models_is_refused_with_those_that_are(model):
    with pytest.raises(ConfigurationError, match=r"not called 'gpt-4'.*tiny_talk, Talk-Small"):
        model.chat(JAPAN, model="gpt-4")


def test_a_model_is_loaded_by_any_of_its_public_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models.find("gpt2"), "model_deploys", ("GPT-Small", "gpt2-124m"))
    assert models.resolve_name("gpt-SMALL") == models.resolve_name("GPT2-124M") == "gpt2"
    with pytest.raises(ConfigurationError, match="there is no model 'gpt-large'"):
        models.resolve_name("gpt-large")


def test_an_option_of_a_call_is_for_that_call_alone(model):
    assert model.generate([JAPAN], max_tokens=2)[0].finish_reason == "length"
    assert model.generate([JAPAN])[0].finish_reason == "stop"


def test_a_model_that_is_not_loaded_says_so():
    with pytest.raises(ConfigurationError, match="call load"):
        HuggingAdapter({"model_name": "a/b"}).chat(JAPAN)
