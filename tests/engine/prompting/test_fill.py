"""A gap is asked for by the model's own tokens, and the answer ends where the gap does."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from adapters.hugging import HuggingAdapter
from engine.backends.local import LocalEngine
from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.prompting.fill import fill_tokens
from engine.types import Request
from tests import tiny
from tests.helpers import tiny_tokenizers

# What a family's own code writes for the prefix "ab" and the suffix "cd".
FORMS = {
    "starcoder": "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    "santacoder": "<fim-prefix>ab<fim-suffix>cd<fim-middle>",
    "qwen-coder and codegemma": "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
    "deepseek-coder": "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>",
}
ENDS = ["<|file_sep|>", "<|file_separator|>", "▁<EOT>"]


def with_tokens(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


@pytest.mark.parametrize("form", FORMS)
def test_the_prompt_is_what_the_family_writes(form: str):
    first, _, last = FORMS[form].partition("ab")
    second, _, third = last.partition("cd")
    tokenizer = with_tokens(tiny.byte_tokenizer(), first, second, third)
    fill = fill_tokens(tokenizer)
    assert fill.prompt(tokenizer, "ab", "cd") == tokenizer(FORMS[form], add_special_tokens=False)["input_ids"]


def test_code_llamas_suffix_gets_no_space_that_it_does_not_have():
    tokenizer = with_tokens(tiny_tokenizers.made(tiny_tokenizers.metaspace), "▁<PRE>", "▁<SUF>", "▁<MID>")
    fill = fill_tokens(tokenizer)
    ids = fill.prompt(tokenizer, "the one", "the other")
    suffix = ids[ids.index(fill.suffix) + 1 : -1]
    assert not tokenizer.convert_ids_to_tokens(suffix)[0].startswith("▁")
    assert tokenizer.decode([*tokenizer("x", add_special_tokens=False)["input_ids"], *suffix]) == "xthe other"
    assert (ids[0], ids[-1]) == (fill.prefix, fill.middle)


def test_a_tokenizer_without_the_tokens_has_none():
    assert fill_tokens(tiny.byte_tokenizer()) is None
    assert fill_tokens(with_tokens(tiny.byte_tokenizer(), "<fim_prefix>", "<fim_middle>")) is None


@pytest.fixture
def coder() -> HuggingAdapter:
    """A model that fills each gap with "x", and goes on with the next file."""
    tokenizer = with_tokens(
        tiny.byte_tokenizer(), "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"
    )
    middle, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|fim_middle|>", "<|file_sep|>"))
    [x] = tokenizer("x", add_special_tokens=False)["input_ids"]
    logits = torch.zeros(len(tokenizer), len(tokenizer))
    logits[middle, x] = logits[x, end] = logits[end, x] = 10
    adapter = HuggingAdapter({"model_name": "a/coder"})
    adapter._engine = LocalEngine(tiny.loaded(tiny.scripted_model(logits), tokenizer))
    return adapter


def test_the_answer_is_the_gap_and_ends_before_the_next_file(coder: HuggingAdapter):
    found = coder.text_completion("a = ", suffix=" + 1", max_tokens=5)
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("x", "stop")
    assert found.usage.prompt_tokens == len("a = ") + len(" + 1") + 3
    pieces = coder.text_completion("a = ", suffix=" + 1", max_tokens=5, stream=True)
    assert "".join(choice.text for chunk in pieces for choice in chunk.choices) == "x"


def test_an_empty_suffix_is_one_and_without_any_the_text_is_continued(coder: HuggingAdapter):
    assert coder.text_completion("a = ", suffix="", max_tokens=5).choices[0].text == "x"
    assert coder.text_completion("ax", max_tokens=3).usage.prompt_tokens == 2


def test_token_ids_have_no_gap(coder: HuggingAdapter):
    request = Request((), GenerationOptions(), (5, 6), suffix="b")
    [answer] = coder.engine.generate([request])
    with pytest.raises(PromptError, match="suffix needs the prompt as text"):
        raise answer.error
