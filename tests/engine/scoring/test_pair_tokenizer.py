"""Where a prompt ends and a candidate begins, and what happens where either cannot be scored."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast

from engine.errors import GenerationError, PromptError
from engine.loading import Loaded
from engine.options import GenerationOptions
from engine.prompting.prompter import Prompter
from engine.scoring import next_logits
from engine.scoring.pair_tokenizer import PairTokenizer
from engine.types import Request
from tests import tiny
from tests.helpers.scoring_models import logprobs_alone, made, prompter_of, scores
from tests.helpers.talk import ask, said

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return made("llama")


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens run over spaces and word ends."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=tiny.SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(["ab a ba b  abba\nab ba", "aab\n\nb ab"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def harness(llama: Loaded, merging: PreTrainedTokenizerFast) -> HFLM:
    return HFLM(llama.model, tokenizer=merging)


@settings(max_examples=200, deadline=None)
@given(prompt=st.text("ab \n", min_size=1, max_size=12), candidate=st.text("ab \n", min_size=1, max_size=6))
def test_the_boundary_is_where_lm_evaluation_harness_draws_it(
    merging: PreTrainedTokenizerFast, harness: HFLM, prompt: str, candidate: str
):
    pairs = PairTokenizer(Prompter(merging, harness.model.config, 512))
    context, continuation = harness._encode_pair(prompt, candidate)
    if context and not continuation:
        with pytest.raises(PromptError, match="candidate 0 adds no token"):
            pairs.split(prompt, [candidate])
        return
    [pair] = pairs.split(prompt, [candidate])
    assert pair.continuation == continuation
    assert pair.context == (context or [merging.bos_token_id])


def test_a_tokenizer_that_merges_over_the_boundary_is_told_the_whole(merging: PreTrainedTokenizerFast):
    pairs = PairTokenizer(Prompter(merging, transformers.LlamaConfig(), 512))
    [pair] = pairs.split("ab ", ["b"])
    assert pair.context == merging.convert_tokens_to_ids(["ab"])
    assert pair.continuation == merging.convert_tokens_to_ids([" b"])


def test_special_tokens_are_the_tokenizers_and_never_doubled(llama: Loaded):
    byte = tiny.byte_tokenizer(add_bos_token=True)
    pairs = PairTokenizer(Prompter(byte, llama.model.config, 512))
    for prompt in ("ab", "<s>ab", ask("ab")):
        [pair] = pairs.split(prompt, ["c"])
        assert pair.context.count(tiny.BOS) == 1
        assert pair.context[0] == tiny.BOS
        assert pair.continuation == byte("c", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "candidates", "reason"),
    [
        ("fine", ["a", ""], "prompt 1: candidate 1 is empty"),
        ("fine", [], "prompt 1: it has no list of candidates"),
        ("fine", "yes", "prompt 1: it has no list of candidates"),
        (
            "fine",
            ["a", "b" * 600],
            "prompt 1: candidate 1 is 600 tokens long and the model's context length is 512",
        ),
        (Request((), prompt=(7, 10**6)), ["a"], "prompt 1: .* token ids outside the vocabulary"),
        (Request((), prompt=(-1,)), ["a"], "prompt 1: .* token ids outside the vocabulary"),
        (Request((), prompt="a", suffix="c"), ["b"], "prompt 1: suffix .* leave it out"),
        (ask(""), ["a"], "prompt 1: the last message has no text"),
        (ask("b" * 600), ["a"], "prompt 1: this turn alone is 6.. tokens long"),
        (ask("b" * 300), ["a", "b" * 300], "prompt 1: the conversation and candidate 1 are .* shorten"),
    ],
)
def test_a_bad_prompt_carries_its_error_and_costs_no_other(
    llama: Loaded, prompt: Request | str, candidates: Sequence[str], reason: str
):
    before, bad, after = scores(llama, ["one", prompt, "two"], [["a"], candidates, ["b"]])
    assert bad.candidates == ()
    assert isinstance(bad.error, PromptError)
    with pytest.raises(PromptError, match=reason):
        raise bad.error
    assert len(before.candidates) == len(after.candidates) == 1


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("text", ["The sky is ", "", "long " * 200])
def test_a_request_of_a_plain_prompt_is_scored_as_its_text(architecture: str, text: str):
    loaded = made(architecture)
    ids = tuple(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    prompts = [text, Request((), prompt=text), Request((), prompt=ids)]
    expected, *found = scores(loaded, prompts, [["blue", (9, 8)]] * 3)
    assert expected.error is None
    assert found == [expected] * 2
    plain, *others = next_logits(loaded, prompter_of(loaded), prompts)
    for logits in others:
        np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-5)


def test_each_prompt_needs_its_own_list(llama: Loaded):
    with pytest.raises(PromptError, match="2 prompts have 1 lists"):
        scores(llama, ["a", "b"], [["c"]])


def test_nothing_to_score_is_no_error(llama: Loaded):
    assert scores(llama, [], []) == []


def test_a_conversation_drops_its_oldest_turns_so_that_the_candidates_fit(llama: Loaded):
    turns = said("old " * 50, "answer " * 30, "What now?")
    [whole] = scores(llama, [Request(turns, GenerationOptions())], [["a"]])
    [dropped] = scores(llama, [Request(turns, GenerationOptions())], [["b" * 200, "a"]])
    [recent] = scores(llama, [ask("What now?")], [["a"]])
    assert dropped.candidates[1].logprobs == pytest.approx(recent.candidates[0].logprobs, abs=1e-4)
    assert whole.candidates[0].logprobs != pytest.approx(recent.candidates[0].logprobs, abs=1e-2)


@pytest.fixture(params=[torch.OutOfMemoryError, MemoryError, OSError])
def small_memory(llama: Loaded, request: pytest.FixtureRequest) -> Iterator[str]:
    """A model that fails as soon as it reads more than 80 tokens at a time; the error's name."""

    def fail(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        if args[0].numel() > 80:
            raise request.param("no memory for so many tokens")

    with llama.model.get_input_embeddings().register_forward_hook(fail):
        yield request.param.__name__


def test_a_pass_that_fails_is_halved_down_to_one_candidate(llama: Loaded, small_memory: str):
    prompts = ["p" * 60, "short", "q" * 90]
    candidates = [["a" * 12, "b" * 15], ["c"], ["d", "e"]]
    first, second, third = scores(llama, prompts, candidates)
    for text, candidate in zip(candidates[0], first.candidates, strict=True):
        ids = [llama.tokenizer(part)["input_ids"] for part in (prompts[0], text)]
        assert candidate.logprobs == pytest.approx(logprobs_alone(llama.model, *ids), abs=1e-4)
    assert second.error is None
    assert isinstance(third.error, GenerationError)
    assert str(third.error).startswith(f"prompt 2: the model failed on this prompt: {small_memory}")
