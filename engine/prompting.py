"""Messages → token ids: chat template, system prompt, and what to drop when a conversation is too long."""

import bisect
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import ConfigurationError, PromptError
from engine.escaping import Escaping
from engine.options import GenerationOptions
from engine.templates import TEMPLATES, Template, find, no_template
from engine.text import encodable
from engine.types import Image, Message

logger = logging.getLogger(__name__)

# An encoder-decoder model without a template was trained on the bare question.
_BARE = Template(
    "{% if messages|length == 1 %}{{ messages[0].content }}{% else %}"
    + TEMPLATES["plain"].text
    + "{% endif %}"
)

Chat = list[dict[str, str]]


class Prompter:
    """Writes conversations for one tokenizer, within one window."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, window: int | None
    ) -> None:
        self.tokenizer = tokenizer
        self.window = window
        self.seq2seq = bool(config.is_encoder_decoder)
        self.fallback = _fallback(config)
        self.escaping = Escaping(tokenizer)

    def encode(self, messages: Sequence[Message], options: GenerationOptions) -> list[int]:
        """The token ids the model reads, oldest turns dropped where they do not fit.

        Room is kept for `max_new_tokens`, up to half of the window. The system prompt and the open question
        (what follows the last answer) are never dropped.

        Raises:
            PromptError: nothing to read, a template that refuses the conversation, or one too long.
            ConfigurationError: a `chat_template` that is no valid template.
        """
        return self._fitted(messages, options)[1]

    def text(self, messages: Sequence[Message], options: GenerationOptions) -> str:
        """The text whose token ids `encode` gives, and `read`: it may hold marks of `engine.escaping`.

        Raises:
            PromptError, ConfigurationError: as `encode`.
        """
        return self._fitted(messages, options)[0]

    def read(self, text: str, options: GenerationOptions) -> list[int]:
        """The token ids of a text that begins as one written with these options does."""
        _, ours = self._template(options.chat_template)
        # A template of the tokenizer or user writes its special tokens; ours leave that to the tokenizer. An
        # encoder's text always ends as the tokenizer ends it.
        ids = self.escaping.read(text, add_special_tokens=ours or self.seq2seq)
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _fitted(self, messages: Sequence[Message], options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        chat = readable(messages, lambda text: self.escaping.mark(text, template.text))
        if options.system_prompt and all(message["role"] != "system" for message in chat):
            chat.insert(0, {"role": "system", "content": options.system_prompt})
        chat = merged(chat)
        text, ids = self._written(chat, options)
        if self.window is None:
            return text, ids
        starts = _turn_starts(chat)
        roomy = self.window - (0 if self.seq2seq else min(options.max_new_tokens, self.window // 2))
        if len(ids) > roomy and options.overflow == "drop_oldest":
            fits = lambda k: len(self._written(_since(chat, starts[k]), options)[1]) <= roomy  # noqa: E731
            oldest = bisect.bisect_left(range(len(starts) - 1), True, key=fits)
            text, ids = self._written(_since(chat, starts[oldest]), options)
            starts = starts[oldest:]
        if len(ids) > self.window - (0 if self.seq2seq else 1):
            what, hint = (
                ("this turn alone", "")
                if len(starts) == 1
                else ("the conversation", ', or set overflow to "drop_oldest"')
            )
            raise PromptError(
                f"{what} is {len(ids)} tokens long and the model's window is {self.window} tokens: "
                f"shorten it{hint}"
            )
        return text, ids

    def stops(self, options: GenerationOptions) -> tuple[str, ...]:
        """Texts that end an answer: the options' and those of the template."""
        template, _ = self._template(options.chat_template)
        return (*options.stop, *template.stops)

    def answer_limit(self, prompt_tokens: int, options: GenerationOptions) -> int:
        """How many tokens may be generated: `max_new_tokens`, less what would run past the window."""
        if self.window is None:
            return options.max_new_tokens
        return min(options.max_new_tokens, self.window - (0 if self.seq2seq else prompt_tokens))

    def _written(self, chat: Chat, options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        try:
            text = self._write(chat, template.text)
        except TemplateSyntaxError as error:
            raise no_template(str(error)) from None
        except Exception as error:  # A template is its author's code.
            logger.debug("the chat template failed", exc_info=True)
            raise PromptError(
                f"the model's chat template refuses this conversation: {_words(error, template.text)}"
            ) from None
        text = encodable(text)
        ids = self.read(text, options)
        if not ids:
            raise PromptError("the model's chat template writes nothing for this conversation: change it")
        return text, ids

    def _template(self, given: str | None) -> tuple[Template, bool]:
        """The template to write with, and whether it is one of ours."""
        if given:
            return find(given), given in TEMPLATES
        if not self.tokenizer.chat_template:
            return self.fallback, True
        try:
            return Template(self.tokenizer.get_chat_template()), False
        except ValueError:  # Several, and none of them the default.
            names = ", ".join(self.tokenizer.chat_template)
            raise ConfigurationError(
                f"the tokenizer has several chat templates ({names}): give the text of one as chat_template"
            ) from None

    def _write(self, chat: Chat, template: str) -> str:
        """The conversation as text; where a template refuses or skips system messages, the user says them."""
        system = [message["content"].strip() for message in chat if message["role"] == "system"]
        try:
            text = self._render(chat, template)
            if all(part in text for part in system):
                return text
        except TemplateError:
            if not system:
                raise
        return self._render(_without_system(chat), template)

    def _render(self, chat: Chat, template: str) -> str:
        text = self.tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return cast(str, text)


def _words(error: Exception, template: str) -> str:
    """What a template says of its own; other words may quote the conversation, which belongs in no log."""
    words = str(error)
    return words if words and words in template else f"{type(error).__name__}, see the log at DEBUG"


def _fallback(config: PretrainedConfig) -> Template:
    if config.is_encoder_decoder:
        return _BARE
    # What tells DialoGPT from GPT-2 in their configurations.
    tasks = getattr(config, "task_specific_params", None) or {}
    chats = config.model_type == "gpt2" and "conversational" in tasks
    return TEMPLATES["dialogpt" if chats else "plain"]


def readable(messages: Sequence[Message], mark: Callable[[str], str]) -> Chat:
    """Messages as a chat template takes them; images are left out.

    Args:
        mark: what is made of a text that is not the operator's.

    Raises:
        PromptError: nothing is asked.
    """
    if any(isinstance(part, Image) for message in messages for part in message.parts):
        logger.warning("this model reads text only: images are left out")
    if not messages or messages[-1].role == "system" or not messages[-1].text.strip():
        raise PromptError("the turn asks nothing in words, and this model reads text only: add a question")
    return [{"role": str(message.role), "content": mark(message.text)} for message in messages]


def merged(chat: Chat) -> Chat:
    """Neighbours of one role as one message: many templates insist that roles alternate."""
    joined: Chat = []
    for message in chat:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _turn_starts(chat: Chat) -> list[int]:
    """Where each turn begins: at what is said first, and where the user speaks after an answer."""
    said = [i for i, message in enumerate(chat) if message["role"] != "system"]
    return said[:1] + [
        i for before, i in pairwise(said) if (chat[before]["role"], chat[i]["role"]) == ("assistant", "user")
    ]


def _since(chat: Chat, start: int) -> Chat:
    """The conversation from index `start` on, with all its system messages."""
    return merged([message for i, message in enumerate(chat) if i >= start or message["role"] == "system"])


def _without_system(chat: Chat) -> Chat:
    """System messages as the user's words: the first opens the first turn."""
    roles = {"system": "user"}
    return merged([{**message, "role": roles.get(message["role"], message["role"])} for message in chat])
