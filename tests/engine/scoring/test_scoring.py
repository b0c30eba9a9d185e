"""Scoring equals one forward pass per pair, and lm-evaluation-harness; a prompt is read once for all."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from engine.errors import PromptError
from engine.loading import Loaded
from engine.scoring import batching, next_logits, tree_attention
from tests import tiny
from tests.helpers.scoring_models import (
    ALL,
    PACKED,
    TARGETS,
    assert_close,
    logprobs_alone,
    made,
    prompter_of,
    scores,
    work,
)
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module", params=ALL)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return made(request.param)


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return made("llama")


made_once = cache(made)


class Seen:
    """How many tokens a model reads, and for how many positions it computes logits, while this is entered."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.passes: list[int] = []
        self.logits = 0

    def __enter__(self) -> "Seen":
        def read(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
            self.passes.append(args[0].numel())

        def head(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
            self.logits += output.numel() // output.shape[-1]

        self.hooks = [
            self.model.get_input_embeddings().register_forward_hook(read),
            self.model.get_output_embeddings().register_forward_hook(head),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()


# What is computed.


def test_each_candidate_scores_what_a_forward_pass_of_its_own_gives(loaded: Loaded):
    prompts, candidates = work()
    for prompt, texts, result in zip(prompts, candidates, scores(loaded, prompts, candidates), strict=True):
        assert len(result.candidates) == len(texts)
        for text, candidate in zip(texts, result.candidates, strict=True):
            ids = loaded.tokenizer(text)["input_ids"]
            expected = logprobs_alone(loaded.model, loaded.tokenizer(prompt)["input_ids"], ids)
            assert candidate.token_ids == tuple(ids)
            assert candidate.logprobs == pytest.approx(expected, abs=1e-3)
            assert candidate.total == pytest.approx(sum(expected), abs=1e-3 * len(expected))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=3),
    candidates=st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=8),
    block=st.integers(1, 20),
)
def test_candidates_and_prompts_of_any_common_prefixes_score_as_each_alone(
    name: str, prompts: list[str], candidates: list[str], block: int
):
    loaded = made_once(name)
    scores(loaded, ["warm"], [["up"]])
    with pytest.MonkeyPatch.context() as patch, Seen(loaded.model) as seen:
        patch.setattr(tree_attention, "_BLOCK", block)
        results = scores(loaded, prompts, [candidates] * len(prompts))
    assert len(seen.passes) == 1
    for prompt, result in zip(prompts, results, strict=True):
        for text, candidate in zip(candidates, result.candidates, strict=True):
            ids = [loaded.tokenizer(part)["input_ids"] for part in (prompt, text)]
            assert candidate.logprobs == pytest.approx(logprobs_alone(loaded.model, *ids), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "bloom", "t5", "bart"])
def test_scores_are_those_of_lm_evaluation_harness(name: str):
    loaded = made(name)
    pairs = [
        ("Hello there, what is ", "one"),
        ("Hello there, what is ", "two or three"),
        ("a", "b"),
        ("", "abc"),
        ("ends in lines \n\n", " and so on"),
        ("<s>begins by itself", "x"),
        ("<s>", "x"),
        ("", "<s>x"),
        ("too long for the window " * 30, "one"),
        ("too long for the window " * 30, "more than one"),
    ]
    pairs = pairs[: None if loaded.context_length else -2]
    harness = HFLM(
        loaded.model, tokenizer=tiny.byte_tokenizer(), batch_size=4, max_length=loaded.context_length or 512
    )
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    expected = [total for total, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    results = scores(loaded, [prompt for prompt, _ in pairs], [[candidate] for _, candidate in pairs])
    assert [result.candidates[0].total for result in results] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("end", ["[assistant]", "<a>\n", " "])
def test_a_conversation_scores_as_the_text_of_its_template(end: str):
    template = tiny.CHAT_TEMPLATE.replace("[assistant]", end)
    loaded = Loaded(tiny.random_model("llama"), tiny.byte_tokenizer(template), 512)
    harness = HFLM(loaded.model, tokenizer=tiny.byte_tokenizer(template), batch_size=4, max_length=512)
    chat = [{"role": "user", "content": "Yes or no?"}]
    text = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    requests = [Instance("loglikelihood", {}, (text, candidate), 0) for candidate in ("yes", "no")]
    expected = [total for total, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    [result] = scores(loaded, [ask("Yes or no?")], [["yes", "no"]])
    assert [candidate.total for candidate in result.candidates] == pytest.approx(expected, abs=1e-3)


def test_a_conversation_and_its_text_score_alike_in_one_batch(loaded: Loaded):
    text = "<s>[user]Yes?</s>[assistant]"
    chat, plain = scores(loaded, [ask("Yes?"), text], [["yes", "no"], ["yes", "no"]])
    assert_close([chat], [plain])


def test_probabilities_are_a_softmax_over_the_candidates_of_one_prompt(llama: Loaded):
    first, second = scores(llama, ["Is it?", "a"], [["yes", "no", "yes"], ["b"]])
    totals = np.array([candidate.total for candidate in first.candidates])
    expected = np.exp(totals) / np.exp(totals).sum()
    assert [candidate.probability for candidate in first.candidates] == pytest.approx(list(expected))
    yes, _, again = first.candidates
    assert again.token_ids == yes.token_ids
    assert again.logprobs == pytest.approx(yes.logprobs, rel=1e-5)
    assert second.candidates[0].probability == 1


def test_a_batch_scores_as_its_prompts_one_by_one_in_their_order(loaded: Loaded):
    prompts, candidates = work(seed=4)
    together = scores(loaded, prompts, candidates)
    for prompt, texts, result in zip(prompts, candidates, together, strict=True):
        assert_close(scores(loaded, [prompt], [texts]), [result])


def test_long_and_short_rows_of_a_longrope_model_agree_with_each_alone():
    loaded = made("longrope")
    prompts = ["short", "of about twenty tokens", "of more tokens than the first window has"]
    candidates = [["a", "bcd"], ["x", "y and much more", "z"], ["a", "bcd"]]
    for prompt, texts, result in zip(prompts, candidates, scores(loaded, prompts, candidates), strict=True):
        for text, candidate in zip(texts, result.candidates, strict=True):
            ids = [loaded.tokenizer(part)["input_ids"] for part in (prompt, text)]
            assert candidate.logprobs == pytest.approx(logprobs_alone(loaded.model, *ids), abs=1e-4)


# What is shared.


@pytest.mark.parametrize("name", PACKED)
def test_a_prompt_is_read_once_for_all_its_candidates(name: str):
    loaded = made(name)
    prompt, candidates = "p" * 40, ["abcd", "bcda", "cdab", "d"]
    scores(loaded, ["warm"], [["up"]])
    with Seen(loaded.model) as seen:
        scores(loaded, [prompt, prompt[::-1].swapcase()], [candidates, candidates])
    assert seen.passes == [2 * (40 + 3 * 3)]
    assert seen.logits == 2 * (1 + 3 * 3)


@pytest.mark.parametrize("name", PACKED)
def test_what_candidates_have_in_common_is_read_once(name: str):
    loaded = made(name)
    scores(loaded, ["warm"], [["up"]])
    with Seen(loaded.model) as seen:
        scores(loaded, ["p" * 40], [["abcd", "abde", "abcd", "ab", "a", "abce"]])
    assert seen.passes == [40 + len("abcd")]  # a, ab, abc, abd: what follows the last token is not wanted.
    assert seen.logits == 1 + len("abcd")


def test_what_prompts_have_in_common_is_read_once(llama: Loaded):
    prompts = ["p" * 40 + "first", "p" * 40 + "second", "p" * 40 + "first"]
    candidates = [["ab", "cd"], ["ab"], ["ab", "ef"]]
    expected = [
        scores(llama, [prompt], [texts])[0] for prompt, texts in zip(prompts, candidates, strict=True)
    ]
    with Seen(llama.model) as seen:
        results = scores(llama, prompts, candidates)
    assert seen.passes == [40 + len("first" + "ace") + len("second" + "a")]
    assert_close(results, expected)


def test_a_prompt_longer_than_a_pass_is_read_once_for_its_candidates(
    llama: Loaded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batching, "TOKENS", 16)
    with Seen(llama.model) as seen:
        scores(llama, ["p" * 40], [["abcd", "bcda", "cdab", "d"]])
    assert seen.passes == [40 + 3 * 3]


@pytest.mark.parametrize("name", TARGETS)
def test_the_encoder_reads_a_prompt_once(name: str):
    loaded, read = made(name), []
    scores(loaded, ["warm"], [["up"]])
    hook = loaded.model.get_encoder().register_forward_pre_hook(
        lambda _, args, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    with hook:
        scores(loaded, ["p" * 40, "q"], [["abcd", "b", "cd"], ["e", "f"]])
    assert read == [(2, 40)]


def test_passes_keep_to_the_budget_and_split_no_prompt_that_fits(
    llama: Loaded, monkeypatch: pytest.MonkeyPatch
):
    prompts, candidates = work(seed=5)
    expected = scores(llama, prompts, candidates)
    monkeypatch.setattr(batching, "TOKENS", 120)
    with Seen(llama.model) as seen:
        results = scores(llama, prompts, candidates)
    once = sum(
        len(llama.tokenizer(prompt)["input_ids"])
        + sum(len(llama.tokenizer(text)["input_ids"]) - 1 for text in texts)
        for prompt, texts in zip(prompts, candidates, strict=True)
    )
    assert len(seen.passes) > 3
    assert max(seen.passes) <= 120
    assert sum(seen.passes) <= once
    assert_close(results, expected)


def test_candidates_too_many_for_a_pass_go_through_several(llama: Loaded, monkeypatch: pytest.MonkeyPatch):
    candidates = [f"{i} is the number" for i in range(30)]
    expected = scores(llama, ["Which?"], [candidates])
    monkeypatch.setattr(batching, "TOKENS", 64)
    monkeypatch.setattr(batching, "LOGITS_BYTES", 30 * 4 * tiny.VOCABULARY)
    with Seen(llama.model) as seen:
        results = scores(llama, ["Which?"], [candidates])
    assert len(seen.passes) > 4
    assert max(seen.passes) <= 64
    assert_close(results, expected)


def test_a_long_prompt_is_attended_to_block_by_block(monkeypatch: pytest.MonkeyPatch):
    loaded = made("mistral")
    prompts, candidates = work(seed=6)
    expected = scores(loaded, prompts, candidates)
    monkeypatch.setattr(tree_attention, "_BLOCK", 7)
    monkeypatch.setattr(tree_attention, "_CACHED_KEYS", 20)
    assert_close(scores(loaded, prompts, candidates), expected)


# The next token.


def test_next_logits_are_those_of_a_plain_forward(loaded: Loaded):
    prompts = [*work()[0], "trailing space "]
    found = next_logits(loaded, prompter_of(loaded), prompts)
    assert found.dtype == np.float32
    for prompt, logits in zip(prompts, found, strict=True):
        ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            if loaded.model.config.is_encoder_decoder:
                start = torch.tensor([[loaded.model.config.decoder_start_token_id]])
                expected = loaded.model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
            else:
                expected = loaded.model(ids).logits[0, -1]
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_next_logits_of_a_conversation_follow_the_prompt_that_is_answered(llama: Loaded):
    request = ask("Yes or no?")
    ids = prompter_of(llama).encode(request.messages, request.options)
    [logits] = next_logits(llama, prompter_of(llama), [request])
    with torch.inference_mode():
        np.testing.assert_allclose(logits, llama.model(torch.tensor([ids])).logits[0, -1], atol=1e-4)


def test_next_logits_read_an_empty_prompt_as_the_token_that_begins_a_text(llama: Loaded):
    [empty, begun] = next_logits(llama, prompter_of(llama), ["", "<s>"])
    np.testing.assert_allclose(empty, begun, atol=1e-5)
    assert next_logits(llama, prompter_of(llama), []).shape == (0, tiny.VOCABULARY)


def test_next_logits_name_the_prompt_that_cannot_be_read(llama: Loaded):
    with pytest.raises(PromptError, match="prompt 1: the last message has no text"):
        next_logits(llama, prompter_of(llama), ["fine", ask("")])
