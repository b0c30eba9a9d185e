"""Escapes control tokens in user text, so that only the chat template can write such tokens.

1. Where an untrusted text spells a control token, a secret mark is put before it. Then the template is
   rendered.
2. A prompt with marks is tokenized by a shadow tokenizer, which knows the control tokens only by secret
   names. Control tokens without a mark get their secret names; those with a mark are tokenized as text.

The prompt is never split at a mark, so that the surrounding tokens stay the same.
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
from engine.prompting.tokenization import SectionTokenizer
from engine.text import encodable

# The author of a prompt cannot know it, and a template has no reason to change it.
_SECRET = secrets.token_hex(12)
MARK = f"<{_SECRET}>"
# Each turn of a conversation needs the marks of all earlier messages again.
_CACHED_TEXTS = 1024


class ControlTokenEscaper:
    """Marks control tokens in texts and tokenizes marked texts, for one tokenizer.

    Attributes:
        added_tokens: matches the added tokens of the tokenizer, the longest first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = {str(token): token for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        special = set(tokenizer.all_special_tokens)
        # In some vocabularies runs of spaces are added tokens, which control nothing.
        self._special = {
            name: name in special or token.special for name, token in added.items() if name.strip()
        }
        self.added_tokens = _longest_match(self._special)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, Tokenizer) else None
        normalizer = self._backend.normalizer if self._backend else None
        self._normalize = normalizer.normalize_str if normalizer else None
        self._normalized_names = {
            name for name in self._special if self._normalize and added[name].normalized
        }
        self._tokenize = SectionTokenizer(
            lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
            self._backend,
            self.added_tokens,
        )
        self.mark = lru_cache(_CACHED_TEXTS)(self._mark)
        self.controls = lru_cache(self._controls)
        self._control_ids_cached = lru_cache(self._control_ids)

    def _controls(self, template: str) -> frozenset[str]:
        """The control tokens: special tokens, added tokens in the template, and those of the usual form."""
        return frozenset(
            name
            for name, special in self._special.items()
            if special or (name in template and not name.isalnum()) or _CONTROL_FORM.fullmatch(name)
        )

    def _mark(self, text: str, template: str) -> str:
        """The text with a mark before each control token that it spells, without lone surrogates."""
        controls, text = self.controls(template), encodable(text)
        marked = self.added_tokens.sub(lambda found: MARK * (found[0] in controls) + found[0], text)
        if marked == text and self._normalize:
            # The tokenizer matches these tokens in the normalized (e.g. lower-cased) text.
            hidden = [self._normalize(name) for name in self._normalized_names if name in controls]
            if hidden and _longest_match(hidden).search(self._normalize(text)):
                return MARK + text
        return marked

    def count(self, ids: Iterable[int], template: str) -> Counter[int]:
        """How often each control token occurs; the unknown token is none."""
        known = self._control_ids_cached(template)
        return Counter(token for token in ids if token in known)

    def _control_ids(self, template: str) -> frozenset[int]:
        ids: Any = self.tokenizer.convert_tokens_to_ids(list(self.controls(template)))
        return frozenset(ids) - {self.tokenizer.unk_token_id}

    def tokenize(self, text: str, ending: str = "") -> list[int]:
        """The token ids of a text, without added special tokens; marked control tokens become plain text.

        Args:
            ending: the end of the text, without marks. Many endings of one text are tokenized faster.

        Raises:
            PromptError: there is a mark, and the tokenizer is written in Python and has no shadow.
        """
        if MARK not in text:
            return self._tokenize(text, ending)
        if self._backend is None:
            raise PromptError(
                "it spells a control token of the model, which this model's tokenizer cannot read as text: "
                "change the prompt"
            )
        shadow, names = self._shadow_tokenizer
        marked = re.compile(f"({re.escape(MARK)})?({self.added_tokens.pattern})")
        text = marked.sub(lambda found: found[2] if found[1] else names[found[2]], text + ending)
        return shadow.encode(text.replace(MARK, ""), add_special_tokens=False).ids

    @cached_property  # As slow as loading the tokenizer, and rarely needed.
    def _shadow_tokenizer(self) -> tuple[Tokenizer, dict[str, str]]:
        """The tokenizer with secret names for its added tokens, and the secret name of each."""
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


_CONTROL_FORM = re.compile(r"<[|｜].*[|｜]>|\[/?[A-Z_]+\]")


def unmark(text: str) -> str:
    """The text without marks.

    Raises:
        PromptError: the chat template has changed a mark.
    """
    if _SECRET in text.replace(MARK, "").casefold():
        raise PromptError(FORGED)
    return text.replace(MARK, "")


# The error for any text that spells a control token after rendering.
FORGED = (
    "it spells a control token of the model, once the chat template has rewritten it: change the prompt, or "
    "set chat_template to one that leaves messages as they are"
)


def _longest_match(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest of some names, as the tokenizer does.

    It is built from a prefix tree: a vocabulary can have thousands of names with common beginnings.
    """
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}
    return re.compile(_tree_pattern(tree) or r"(?!)")


def _tree_pattern(tree: dict[str, Any]) -> str:
    branches = [re.escape(letter) + _tree_pattern(rest) for letter, rest in tree.items() if letter]
    return f"(?:{'|'.join(branches)}){'?' if '' in tree else ''}" if branches else ""
