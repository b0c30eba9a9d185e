"""Makes tiny models that think before they answer: their marks are single tokens, as those of real models."""

from itertools import pairwise

import torch
from tokenizers import AddedToken

from engine.backends.local import LocalEngine
from tests import tiny

# A thought of two tokens, a blank line, and an answer; each token occurs once.
SCRIPT = ["<think>", "H", "m", "</think>", "\n", "Y", "e", "s"]
OPENING = tiny.CHAT_TEMPLATE.replace("[assistant]{%", "[assistant]<think>{%")
ASKING = tiny.CHAT_TEMPLATE.replace(
    "[assistant]{%", "[assistant]{% if enable_thinking is false %}<think></think>{% endif %}{%"
)


def thinker(
    script: list[str] = SCRIPT, special: bool = False, template: str = tiny.CHAT_TEMPLATE
) -> LocalEngine:
    """An engine whose model continues "]", the end of a prompt, with a script's tokens and the end token.

    A prompt that ends with a token of the script is continued from there. The tokens of the answer are
    likelier than those of the thought.

    Args:
        special: whether the marks are special tokens, which no text shows.
    """
    tokenizer = tiny.byte_tokenizer(template)
    marks = [token for token in script if len(token) > 1]
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    ids = [tokenizer.encode(token, add_special_tokens=False)[0] for token in ["]", *script]] + [tiny.EOS]
    logits = torch.randn(len(tokenizer), len(tokenizer), generator=torch.Generator().manual_seed(0))
    last = max((i for i, token in enumerate(script) if len(token) > 1), default=-1)
    for i, (token, following) in enumerate(pairwise(ids)):
        logits[token, following] = 6 if i <= last else 9
    return LocalEngine(tiny.loaded(tiny.scripted_model(logits), tokenizer))
