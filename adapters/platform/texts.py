"""Reads the text of an item that is to be embedded."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from adapters.items.item import Snapshot
from adapters.items.prompt_items import earlier_answers, read
from adapters.items.stored import get_path
from adapters.items.traces import is_trace, question
from adapters.platform import remote
from adapters.platform.storing import answers_of
from adapters.prediction.failures import Failure
from engine.errors import PromptError


@dataclass(frozen=True, slots=True)
class Text:
    """The text of an item: a document, or the question of a prompt item.

    Attributes:
        item: the item's id.
        kind: which prefix the embedding model puts before it.
        hypothetical: whether it is a model's answer to a prompt item, instead of its question (HyDE).
    """

    item: str
    text: str
    kind: Literal["document", "query"]
    hypothetical: bool = False


def download(item: Any, hyde_model: str | None = None) -> Text | Failure:
    """Downloads an item of the platform and reads its text. An error is returned and does not raise.

    Args:
        hyde_model: the model whose answer is the text of a prompt item whose metadata asks for that.
    """
    try:
        # Not by the SDK, which follows link items.
        text = read_text(item.id, remote.text_content(item.id, Snapshot.of_entity(item).size))
        if text.kind == "query" and get_path(item.metadata, "prompt", "is_hyde") is True:
            return _hypothetical(item, hyde_model)
        return text
    except PromptError as error:
        return Failure(item.id, None, str(error))
    except Exception as error:
        return Failure(item.id, None, f"it could not be read ({remote.describe_error(error)})")


def _hypothetical(item: Any, model_name: str | None) -> Text:
    """The newest answer of a model to a prompt item, to be embedded as a document (HyDE, Gao et al. 2022).

    Raises:
        PromptError: no model is named, or it has not answered the item.
        RemoteError: its answers could not be listed.
    """
    if not model_name:
        raise PromptError(
            "its metadata has prompt.is_hyde, and no model is named whose answer is to be embedded: set "
            "hyde_model_name in the configuration"
        )
    annotations = answers_of(item.dataset_id, [item.id], model_name).get(item.id, [])
    answers = earlier_answers(annotations, model_name)
    if not answers:
        raise PromptError(
            f"its metadata has prompt.is_hyde, and model {model_name!r} has not answered it: let that model "
            "answer it first"
        )
    return Text(item.id, list(answers.values())[-1], "document", hypothetical=True)


def read_text(item: str, content: bytes) -> Text:
    """The text of an item; for a prompt item the last question of each conversation, joined by newlines.

    Args:
        item: the item's id.

    Raises:
        PromptError: the content is not UTF-8, has no text, or is a prompt item with a prompt that cannot be
            read.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError("its content is not UTF-8 text: embed text items and prompt items") from None
    prompts = _json(text)
    if isinstance(prompts, dict) and is_trace(prompts):
        return Text(item, _not_empty(question(prompts, item)), "query")
    if not isinstance(prompts, dict) or "prompts" not in prompts:
        return Text(item, _not_empty(text), "document")
    dialogues, errors = read(prompts, item, {})
    if errors:
        raise PromptError("; ".join(f"prompt {key!r}: {error}" for key, error in errors.items()))
    asked = "\n".join(dialogue.turns[-1].messages[-1].text for dialogue in dialogues)
    return Text(item, _not_empty(asked), "query")


def _json(text: str) -> Any:
    """A text as JSON; None if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
    except (
        ValueError,
        RecursionError,
    ) as error:  # Perhaps a prompt item: no document.
        raise PromptError(f"its JSON cannot be read ({type(error).__name__}): {error}") from None


def _not_empty(text: str) -> str:
    if not text.strip():
        raise PromptError("it has no text")
    return text
