"""What confidence methods read is recorded of the answer's own forward passes, for those who ask for it."""

import math

import pytest
import torch

from engine.backends.local import LocalEngine
from engine.confidence import METHODS, ONE_PASS, all_methods
from engine.generation.sampling import Sampler, sample
from engine.options import GenerationOptions
from tests import tiny
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric
EVERY = {"confidence_methods": tuple(ONE_PASS)}


@pytest.mark.parametrize("architecture", ["llama", "bloom", "t5"])  # In flight, padded, encoder-decoder.
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.0, "seed": 3}, {"repetition_penalty": 1.5}], ids=str
)
def test_entropies_and_margins_are_those_of_the_models_own_distribution(architecture: str, options: dict):
    engine = tiny.engine(architecture)
    asked = [ask("Hello", max_new_tokens=9, **EVERY, **options), ask("A longer question", max_new_tokens=5)]
    answer, bare = engine.generate(asked)
    request = asked[0]
    prompt = engine.prompter.encode(request.messages, request.options)
    with torch.no_grad():
        if engine.prompter.seq2seq:
            decoder = [engine.loaded.model.config.decoder_start_token_id, *answer.token_ids[:-1]]
            out = engine.loaded.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([decoder])
            )
            logits = out.logits[0]
        else:
            ids = torch.tensor([[*prompt, *answer.token_ids[:-1]]])
            logits = engine.loaded.model(ids).logits[0, len(prompt) - 1 :]
    probabilities = logits.double().softmax(-1)
    top = probabilities.topk(2).values
    assert answer.evidence.entropies == pytest.approx(
        torch.special.entr(probabilities).sum(-1).tolist(), abs=1e-4
    )
    assert answer.evidence.margins == pytest.approx((top[:, 0] - top[:, 1]).tolist(), abs=1e-4)
    assert not bare.evidence.entropies
    assert not bare.evidence.margins
    assert bare.confidences == {}


def test_every_method_of_one_pass_comes_with_one_answer():
    [answer] = tiny.engine().generate([ask("Hello", max_new_tokens=9, **EVERY)])
    assert answer.confidences == all_methods(answer.evidence)
    assert set(answer.confidences) == set(ONE_PASS)
    assert all(0 < confidence < 1 for confidence in answer.confidences.values())
    assert answer.confidence == answer.confidences["min_token"]


def test_what_is_recorded_changes_no_answer():
    engine = tiny.engine()
    plain, recorded = (
        engine.generate([ask("Hello", max_new_tokens=9, temperature=1.5, seed=2, **options)])[0]
        for options in ({}, EVERY)
    )
    assert (plain.token_ids, plain.logprobs) == (recorded.token_ids, recorded.logprobs)


def test_impossible_tokens_have_no_part_in_the_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    sampler = Sampler(GenerationOptions(confidence="max_entropy", confidence_methods=("margin",)), 1.0)
    sampler.restart([])
    [token] = sample([sampler], logits.clone())
    assert token.entropy == pytest.approx(math.log(2))
    assert token.margin == pytest.approx(0)


def test_an_answer_that_is_cut_or_empty_is_measured_by_its_tokens():
    engine = tiny.engine()
    [whole] = engine.generate([ask("Hello", max_new_tokens=9, **EVERY)])
    [cut] = engine.generate([ask("Hello", max_new_tokens=2, **EVERY)])
    assert cut.finish_reason == "length"
    assert cut.confidences["first_token"] == pytest.approx(whole.confidences["first_token"], abs=1e-5)
    assert cut.confidences["sequence"] == pytest.approx(math.exp(sum(whole.logprobs[:2])), abs=1e-5)
    empty = LocalEngine(tiny.loaded(tiny.spelling_model(""))).generate([ask("Go on", **EVERY)])[0]
    assert empty.text == ""
    assert empty.confidences["sequence"] == pytest.approx(math.exp(empty.logprobs[0]))


def test_a_failed_answer_has_no_confidence():
    [failed] = tiny.engine().generate([ask("x" * 600, overflow="error", **EVERY)])
    assert failed.error is not None
    assert (failed.confidence, failed.confidences, failed.evidence) == (None, {}, None)


def test_every_method_has_a_source():
    for _, function in METHODS.values():
        assert function is float or len(function.__doc__) > 40
