"""Reads pairs for a causal language model whose logits are a score: sentence-transformers' `LogitScore`.

The score of a pair is the logit of one token after it ("yes"), less that of another one ("no") if the folder
names one. The pair is rendered by the tokenizer's chat template, as a message of the role "query" and one of
the role "document", or read as the tokenizer reads two texts: what `sentence_transformers.CrossEncoder` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.embedding.sentence_settings import transformer_config, transformer_settings, unsupported
from engine.errors import AdapterError, PromptError, Unsupported
from engine.loading.files import is_logit_score, is_transformer, read_json
from engine.options import LoadOptions
from engine.prompting.escaping import FORGED, ControlTokenEscaper, unmark
from engine.prompting.sandbox import render
from engine.text import encodable

_TASK = "text-generation"
# Words that no template writes of itself, and others of another length.
_PROBE, _OTHER_PROBE = ("queryprobe", "documentprobe"), ("1 2 3 4", "5 6 7 8")
# Arguments that transformers takes for the tokenizer instead of the template.
_TOKENIZER_ARGUMENTS = ("padding", "truncation", "max_length", "return_tensors", "restore_suffix")


@dataclass(frozen=True, slots=True)
class LogitScore:
    """How a folder's language model scores.

    Attributes:
        tokens: the token whose logit is the score, and the one whose logit is subtracted, if any.
        max_length: the most tokens of a pair; None for the tokenizer's or model's limit.
        lower_case: whether texts are lower-cased.
        arguments: further variables of the chat template; None if none is used.
        in_parts: whether the chat template expects a message as a list of parts.
    """

    tokens: tuple[int, ...]
    max_length: int | None
    lower_case: bool
    arguments: Mapping[str, Any] | None
    in_parts: bool


def read_logit_score(
    options: LoadOptions, modules: Sequence[Mapping[str, str]], vocabulary: int
) -> LogitScore | None:
    """The settings of a folder's LogitScore; None for a folder without one.

    Args:
        modules: the content of its modules.json.

    Raises:
        Unsupported: a module or setting that is not supported; the text names it.
        LoadError: a file of the folder cannot be read.
    """
    if not any(is_logit_score(module["type"]) for module in modules):
        return None
    tokens: tuple[int, ...] = ()
    config: dict[str, Any] = {}
    for module in modules:
        path = f"{module['path']}/".lstrip("/")
        if is_transformer(module["type"]):
            config = transformer_config(options, path)
        elif is_logit_score(module["type"]):
            tokens = _tokens(options, read_json(options, f"{path}config.json") or {}, vocabulary)
        else:
            raise unsupported(options, f"its module {module['type']}", "classify")
    inputs, processing = config.get("modality_config") or {}, config.get("processing_kwargs") or {}
    message = inputs.get("message")
    arguments = processing.get("chat_template") or {}
    if wrong := [*(processing.keys() - {"chat_template"}), *(arguments.keys() & {*_TOKENIZER_ARGUMENTS})]:
        raise unsupported(
            options, f"{wrong[0]} in processing_kwargs of its transformer's settings", "classify"
        )
    if message is not None:
        inputs = {"text": {key: value for key, value in message.items() if key != "format"}}
    # The default task is another one, and so refused.
    plain = {"transformer_task": None, **config, "modality_config": inputs, "processing_kwargs": None}
    max_length, lower_case = transformer_settings(options, plain, _TASK)
    in_parts = message is not None and message.get("format") != "flat"
    return LogitScore(tokens, max_length, lower_case, None if message is None else arguments, in_parts)


def _tokens(options: LoadOptions, config: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    if (name := config.get("module_input_name", "causal_logits")) != "causal_logits":
        raise unsupported(options, f"module_input_name {name!r} of its LogitScore module", "classify")
    found = {key: config.get(key) for key in ("true_token_id", "false_token_id")}
    for key, token in found.items():
        if token is None and key == "false_token_id":
            continue
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise unsupported(
                options, f"{key} {token} of its LogitScore module, outside the vocabulary,", "classify"
            )
    return tuple(token for token in found.values() if token is not None)


class PairTemplate:
    """A chat template that writes a query and a document."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        arguments: Mapping[str, Any],
        in_parts: bool,
        prompt: str,
        limit: int,
    ) -> None:
        """Tries the template.

        Args:
            arguments: further variables of the template, and the name of the template as "chat_template".
            in_parts: whether the template expects a message as a list of parts.
            prompt: the system message; "" for none.
            limit: the most tokens of a pair. A longer one loses tokens before what the template writes last.

        Raises:
            Unsupported: the template fails, or leaves out the query or the document.
        """
        arguments = dict(arguments)
        self._template: str = tokenizer.get_chat_template(arguments.pop("chat_template", None))
        self._values = {"add_generation_prompt": False, **tokenizer.special_tokens_map, **arguments}
        self._escaper = ControlTokenEscaper(tokenizer)
        self._in_parts, self._prompt, self._limit = in_parts, prompt, limit
        probe = self._render(*_PROBE)
        if missing := [word for word in _PROBE if word not in probe]:
            raise Unsupported(
                f"the chat template leaves out the {missing[0].removesuffix('probe')} of a pair: give the "
                "folder one that writes the messages of the roles query and document"
            )
        ids, other = self._tokenize(probe), self._tokenize(self._render(*_OTHER_PROBE))
        self._controls = self._escaper.count(ids, self._template)
        same = next(i for i, pair in enumerate(zip(ids[::-1], other[::-1], strict=False)) if len({*pair}) > 1)
        self._end = ids[len(ids) - same :]

    def encode(self, query: str, document: str) -> tuple[list[int], bool]:
        """The token ids of a pair, and whether it was cut.

        Raises:
            PromptError: the template cannot write this pair.
        """
        text = self._render(*(self._escaper.mark(one, self._template) for one in (query, document)))
        unmark(text)  # Raises if the template has changed a mark.
        ids = self._tokenize(text)
        if self._escaper.count(ids, self._template) - self._controls:
            raise PromptError(FORGED)
        if len(ids) <= self._limit:
            return ids, False
        return [*ids[: max(self._limit - len(self._end), 0)], *self._end][-self._limit :], True

    def _tokenize(self, text: str) -> list[int]:
        return self._escaper.tokenize(encodable(text))

    def _render(self, query: str, document: str) -> str:
        said = {"system": self._prompt} if self._prompt else {}
        said |= {"query": query, "document": document}
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if self._in_parts else text}
            for role, text in said.items()
        ]
        try:
            return render(self._template, messages, **self._values)
        except AdapterError:
            raise
        except Exception as error:  # Third-party code: any exception is possible.
            raise Unsupported(
                f"the chat template cannot write a query and a document ({type(error).__name__}): give the "
                "folder one that writes the messages of these roles"
            ) from None
