"""A text that spells a control token of the model stays text: only the chat template writes such tokens.

Texts that are not to be trusted are marked where they spell one, and the template is rendered as ever. Where
a mark is left, a twin of the tokenizer reads the prompt: it knows control tokens by secret names only, and
only those without a mark get these names. No text is cut there, so that no border changes the tokens around
it.
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from engine.errors import PromptError
from engine.prompting.tokenization import Sections
from engine.text import encodable

# Nobody who writes a prompt can know it, and no template has a reason to change it.
_SECRET = secrets.token_hex(12)
MARK = f"<{_SECRET}>"
# Messages that are remembered with their marks: each turn of a conversation asks for all of them.
_REMEMBERED = 1024


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
        self.names = _one_of(self._special)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, Tokenizer) else None
        normalizer = self._backend.normalizer if self._backend else None
        self._normalize = normalizer.normalize_str if normalizer else None
        self._normalized = {name for name in self._special if self._normalize and added[name].normalized}
        self._sections = Sections(
            lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
            self._backend,
            self.names,
        )
        self.mark = lru_cache(_REMEMBERED)(self._mark)
        self.controls = lru_cache(self._controls)
        self._known = lru_cache(self._ids)

    def _controls(self, template: str) -> frozenset[str]:
        """The control tokens: special ones, those that the template names, and what has their usual form."""
        return frozenset(
            name
            for name, special in self._special.items()
            if special or (name in template and not name.isalnum()) or _USUAL.fullmatch(name)
        )

    def _mark(self, text: str, template: str) -> str:
        """The text, as it can be encoded, with a mark before each control token that it spells."""
        controls, text = self.controls(template), encodable(text)
        marked = self.names.sub(lambda found: MARK * (found[0] in controls) + found[0], text)
        if marked == text and self._normalize:
            # Such tokens are looked for in the text as it is normalized, in small letters, say.
            hidden = [self._normalize(name) for name in self._normalized if name in controls]
            if hidden and _one_of(hidden).search(self._normalize(text)):
                return MARK + text
        return marked

    def count(self, ids: Iterable[int], template: str) -> Counter[int]:
        """How often a prompt has each control token; the token of what is unknown controls nothing."""
        known = self._known(template)
        return Counter(token for token in ids if token in known)

    def _ids(self, template: str) -> frozenset[int]:
        ids: Any = self.tokenizer.convert_tokens_to_ids(list(self.controls(template)))
        return frozenset(ids) - {self.tokenizer.unk_token_id}

    def read(self, text: str) -> list[int]:
        """The token ids of a text, none put around it; what is marked in it are the tokens of its letters.

        Raises:
            PromptError: something is marked, and the tokenizer has no twin.
        """
        if MARK not in text:
            return self._sections(text)
        if self._backend is None:
            raise PromptError(
                "it spells a control token of the model, which this model's tokenizer cannot read as text: "
                "change the prompt"
            )
        twin, names = self._twin
        marked = re.compile(f"({re.escape(MARK)})?({self.names.pattern})")
        text = marked.sub(lambda found: found[2] if found[1] else names[found[2]], text)
        return twin.encode(text.replace(MARK, ""), add_special_tokens=False).ids

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


def unmarked(text: str) -> str:
    """A text as it was given.

    Raises:
        PromptError: a mark in it has been changed.
    """
    if _SECRET in text.replace(MARK, "").casefold():
        raise PromptError(FORGED)
    return text.replace(MARK, "")


# One sentence for all ways in which a text turns out to spell a control token.
FORGED = (
    "it spells a control token of the model, once the chat template has rewritten it: change the prompt, or "
    "set chat_template to one that leaves messages as they are"
)


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
