"""A text that spells a control token of the model stays text: only the chat template writes such tokens.

Texts that are not to be trusted are marked where they spell one, and the template is rendered as ever. Where
a mark is left, a twin of the tokenizer reads the prompt: it knows control tokens by secret names only, and
only those without a mark get these names. No text is cut, so that no border changes the tokens around it.
"""

import json
import re
import secrets
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from engine.errors import PromptError
from engine.text import encodable

# Nobody who writes a prompt can know it, and no template has a reason to change it.
MARK = f"<{secrets.token_hex(12)}>"


class Escaping:
    """Marks and reads texts for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = {str(token): token for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        special = set(tokenizer.all_special_tokens)
        # Runs of spaces are tokens of their own in some vocabularies, and control nothing.
        self._special = {
            name: name in special or token.special for name, token in added.items() if name.strip()
        }
        self._any = _one_of(self._special)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, Tokenizer) else None
        normalizer = self._backend.normalizer if self._backend else None
        self._normalize = normalizer.normalize_str if normalizer else None
        self._normalized = {name for name in self._special if self._normalize and added[name].normalized}

    def mark(self, text: str, template: str) -> str:
        """The text with a mark before each control token that it spells.

        Control tokens are the special ones, those that the template names, and what has their usual form.
        """

        def controls(name: str) -> bool:
            named = name in template and not name.isalnum()
            return self._special[name] or named or bool(_USUAL.fullmatch(name))

        marked = self._any.sub(lambda found: MARK * controls(found[0]) + found[0], text)
        if marked == text and self._normalize:
            # Such tokens are looked for in the text as it is normalized, in small letters, say.
            hidden = [self._normalize(name) for name in self._normalized if controls(name)]
            if hidden and _one_of(hidden).search(self._normalize(encodable(text))):
                return MARK + text
        return marked

    def read(self, text: str, add_special_tokens: bool) -> list[int]:
        """The token ids of a text; what is marked in it are the tokens of its letters.

        Raises:
            PromptError: something is marked, and the tokenizer has no twin.
        """
        if MARK not in text:
            return self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        if self._backend is None:
            raise PromptError(
                "it spells a control token of the model, which this model's tokenizer cannot read as text: "
                "change the prompt"
            )
        twin, names = self._twin
        marked = re.compile(f"({re.escape(MARK)})?({self._any.pattern})")
        text = marked.sub(lambda found: found[2] if found[1] else names[found[2]], text)
        return twin.encode(text.replace(MARK, ""), add_special_tokens=add_special_tokens).ids

    @cached_property  # It takes as long as loading the tokenizer does, and most prompts need none.
    def _twin(self) -> tuple[Tokenizer, dict[str, str]]:
        """The tokenizer with its added tokens under secret names, and these names."""
        assert self._backend is not None
        names = {name: f"<{secrets.token_hex(12)}>" for name in self._special}
        state = json.loads(self._backend.to_str())
        state |= {"truncation": None, "padding": None}
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = state["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        return Tokenizer.from_str(json.dumps(state)), names


_USUAL = re.compile(r"<[|｜].*[|｜]>|\[/?[A-Z_]+\]")


def _one_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of these names, as the tokenizer does.

    As a tree of letters: a vocabulary can have thousands of such names, and a text as many beginnings of one.
    """
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}
    return re.compile(_pattern(tree) or r"(?!)")


def _pattern(tree: dict[str, Any]) -> str:
    ways = [re.escape(letter) + _pattern(rest) for letter, rest in tree.items() if letter]
    return f"(?:{'|'.join(ways)}){'?' if '' in tree else ''}" if ways else ""
