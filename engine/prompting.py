"""Messages → token ids: chat template, system prompt, and what to drop when a conversation is too long."""

import bisect
import functools
import logging
from collections.abc import Sequence
from typing import cast

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.types import Image, Message

logger = logging.getLogger(__name__)

# For tokenizers without a chat template, and by name for the option `chat_template`.
TEMPLATES = {
    # DialoGPT was trained on turns that each end with the end-of-text token.
    "dialogpt": "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}",
    "plain": "{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role.capitalize() }}: {% endif %}{{ message.content }}\n"
    "{% endfor %}Assistant:",
}
# An encoder-decoder model without a template was trained on the bare question.
_BARE = (
    "{% if messages|length == 1 %}{{ messages[0].content }}{% else %}" + TEMPLATES["plain"] + "{% endif %}"
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
        self._takes_system = functools.cache(self._probe_system)

    def encode(self, messages: Sequence[Message], options: GenerationOptions) -> list[int]:
        """The token ids the model reads, oldest turns dropped where they do not fit.

        Room is kept for `max_new_tokens`, up to half of the window. The system prompt and the open question
        (what follows the last answer) are never dropped.

        Raises:
            PromptError: nothing to read, a template that refuses the conversation, or one too long.
            ConfigurationError: a `chat_template` that is no valid template.
        """
        chat = _merged(_readable(messages, options.system_prompt))
        ids = self._ids(chat, options)
        if self.window is None:
            return ids
        starts = _turn_starts(chat)
        roomy = self.window - (0 if self.seq2seq else min(options.max_new_tokens, self.window // 2))
        if len(ids) > roomy and options.overflow == "drop_oldest":
            fits = lambda k: len(self._ids(_since(chat, starts[k]), options)) <= roomy  # noqa: E731
            oldest = bisect.bisect_left(range(len(starts) - 1), True, key=fits)
            ids = self._ids(_since(chat, starts[oldest]), options)
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
        return ids

    def answer_limit(self, prompt_tokens: int, options: GenerationOptions) -> int:
        """How many tokens may be generated: `max_new_tokens`, less what would run past the window."""
        if self.window is None:
            return options.max_new_tokens
        return min(options.max_new_tokens, self.window - (0 if self.seq2seq else prompt_tokens))

    def _ids(self, chat: Chat, options: GenerationOptions) -> list[int]:
        named = TEMPLATES.get(options.chat_template or "")
        template = named or options.chat_template or self.tokenizer.chat_template or self.fallback
        # A template of the tokenizer or user writes its special tokens; ours leave that to the tokenizer.
        ours = named is not None or template is self.fallback
        if chat[0]["role"] == "system" and len(chat) > 1 and not self._takes_system(template):
            chat = _system_in_first_turn(chat)
        try:
            text = self._render(chat, template)
        except TemplateSyntaxError as error:
            raise ConfigurationError(
                f"option 'chat_template' is no valid Jinja template ({error}), "
                f"nor one of {', '.join(TEMPLATES)}"
            ) from None
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses this conversation: {error}") from None
        ids = self.tokenizer(text, add_special_tokens=ours, verbose=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _render(self, chat: Chat, template: str) -> str:
        text = self.tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return cast(str, text)

    def _probe_system(self, template: str) -> bool:
        probe: Chat = [{"role": "system", "content": "<probe>"}, {"role": "user", "content": "?"}]
        try:
            return "<probe>" in self._render(probe, template)
        except TemplateSyntaxError:
            return True  # Reported where the conversation itself is rendered.
        except TemplateError:
            return False


def _fallback(config: PretrainedConfig) -> str:
    if config.is_encoder_decoder:
        return _BARE
    # What tells DialoGPT from GPT-2 in their configurations.
    tasks = getattr(config, "task_specific_params", None) or {}
    chats = config.model_type == "gpt2" and "conversational" in tasks
    return TEMPLATES["dialogpt" if chats else "plain"]


def _readable(messages: Sequence[Message], system_prompt: str | None) -> Chat:
    if any(isinstance(part, Image) for message in messages for part in message.parts):
        logger.warning("this model reads text only: images are left out")
    if not messages or messages[-1].role == "system" or not messages[-1].text.strip():
        raise PromptError("the turn asks nothing in words, and this model reads text only: add a question")
    chat = [{"role": str(message.role), "content": message.text} for message in messages]
    if system_prompt and all(message["role"] != "system" for message in chat):
        chat.insert(0, {"role": "system", "content": system_prompt})
    return chat


def _merged(chat: Chat) -> Chat:
    """Neighbours of one role as one message: many templates insist that roles alternate."""
    merged: Chat = []
    for message in chat:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _turn_starts(chat: Chat) -> list[int]:
    """Where each turn begins: at what is said first, and at every later user message."""
    said = [i for i, message in enumerate(chat) if message["role"] != "system"]
    return said[:1] + [i for i in said[1:] if chat[i]["role"] == "user"]


def _since(chat: Chat, start: int) -> Chat:
    """The conversation from index `start` on, with all its system messages."""
    return _merged([message for i, message in enumerate(chat) if i >= start or message["role"] == "system"])


def _system_in_first_turn(chat: Chat) -> Chat:
    system, *rest = chat
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), 0)
    rest[first] = {**rest[first], "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return rest
