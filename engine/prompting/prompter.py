"""Turns conversations into token ids: system prompt, chat template, and dropping the oldest turns."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from itertools import accumulate, pairwise

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.options import GenerationOptions
from engine.prompting.escaping import ControlTokenEscaper
from engine.prompting.fill import FillTokens, fill_tokens
from engine.prompting.renderer import Chat, ChatRenderer, merge_same_role
from engine.prompting.templates import TEMPLATES, Template, find_template
from engine.prompting.tokenization import special_tokens_around, with_prefix_once
from engine.reasoning import without_reasoning
from engine.text import encodable
from engine.types import Image, Message

logger = logging.getLogger(__name__)

# Messages whose lengths in tokens are cached.
_CACHED_LENGTHS = 4096
# Renderers that are cached, one for each template and system prompt.
_CACHED_RENDERERS = 64
# An encoder-decoder model without a chat template was trained on the bare question.
_BARE_QUESTION = Template(
    "{% if messages|length == 1 %}{{ messages[0].content }}{% else %}"
    + TEMPLATES["plain"].text
    + "{% endif %}"
)


class Prompter:
    """Prepares prompts for one tokenizer and context length.

    Attributes:
        context_length: the most tokens of a sequence; None if unbounded.
        seq2seq: whether the model is an encoder-decoder.
        needs_room: whether an answer follows in the same sequence, and needs room beside the prompt.
        fallback: the template for a tokenizer without one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        context_length: int | None,
        answered: bool = True,
    ) -> None:
        """Prepares nothing yet.

        Args:
            answered: whether conversations get an answer; if not, they are read as they are, to their end.
        """
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.seq2seq = bool(config.is_encoder_decoder)
        self.needs_room = answered and not self.seq2seq
        self.fallback = _fallback(config)
        self.escaper = ControlTokenEscaper(tokenizer)
        self._renderer = lru_cache(_CACHED_RENDERERS)(
            partial(ChatRenderer, tokenizer, self.escaper, opens_answer=answered)
        )
        self._before, _ = special_tokens_around(tokenizer)
        self._length = lru_cache(_CACHED_LENGTHS)(lambda text: len(self._tokenize(text)))

    def encode(self, messages: Sequence[Message], options: GenerationOptions) -> list[int]:
        """The token ids of a conversation, without the oldest turns if it is too long.

        Room is kept for `max_new_tokens`, up to half of the context length. The system prompt and the open
        question (everything after the last answer) are never dropped.

        Raises:
            PromptError: the conversation is empty or too long, or the template refuses it.
            ConfigurationError: `chat_template` is no valid template.
        """
        return self._fit_window(messages, options)[1]

    def render(self, messages: Sequence[Message], options: GenerationOptions) -> str:
        """The text that `encode` tokenizes, with marks of `engine.prompting.escaping`.

        Raises:
            PromptError: the conversation is empty or too long, or the template refuses it.
            ConfigurationError: `chat_template` is no valid template.
        """
        return self._fit_window(messages, options)[0]

    def tokenize(self, text: str, options: GenerationOptions, ending: str = "") -> list[int]:
        """The token ids of a conversation rendered with these options, and of what follows it."""
        return self._add_special_tokens(self._tokenize(text, ending), options)

    def tokenize_plain(self, text: str, ending: str = "") -> list[int]:
        """The token ids of a plain text, and of what follows it."""
        return self._add_special_tokens(self._tokenize(text, ending))

    @cached_property
    def fill(self) -> FillTokens | None:
        """The tokenizer's tokens for filling in the middle, or None."""
        return None if self.seq2seq else fill_tokens(self.tokenizer)

    def tokenize_gap(self, before: str, after: str) -> list[int]:
        """The token ids of a prompt whose answer fills the gap between two texts.

        Raises:
            Unsupported: the tokenizer has no tokens for that.
        """
        if self.fill is None:
            raise Unsupported(
                "suffix: this model has no tokens to fill a gap (as code models have, <|fim_middle|> say): "
                "leave it out, or take a model that was trained to"
            )
        return with_prefix_once(
            self.fill.prompt(self.tokenizer, encodable(before), encodable(after)), self._before
        )

    def _add_special_tokens(self, ids: list[int], options: GenerationOptions | None = None) -> list[int]:
        """Adds the tokenizer's special tokens, never twice; a decoder's prompt gets none at its end."""
        # Templates of tokenizers and users write special tokens; built-in ones leave them to the tokenizer.
        if self.seq2seq or options is None or self._template(options.chat_template)[1]:
            before, after = special_tokens_around(self.tokenizer) if self.seq2seq else (self._before, [])
            ids = with_prefix_once(ids, before)
            ids = ids if not after or ids[-len(after) :] == after else ids + after
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    @property
    def begin_token(self) -> int | None:
        """The bos token, or else the eos token; None if the tokenizer has neither."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return eos if bos is None else bos

    def require_begin_token(self) -> int:
        """The bos token, or else the eos token.

        Raises:
            PromptError: the tokenizer has neither.
        """
        if self.begin_token is None:
            raise PromptError("the prompt is empty and the tokenizer has no BOS token: give it a text")
        return self.begin_token

    def _tokenize(self, text: str, ending: str = "") -> list[int]:
        return self.escaper.tokenize(encodable(text), encodable(ending))

    def _fit_window(self, messages: Sequence[Message], options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        chat = to_chat(messages, lambda text: self.escaper.mark(text, template.text))
        chat = merge_same_role(with_system_prompt(chat, options.system_prompt))
        if self.context_length is None:
            return self._render(chat, options)
        starts = _turn_starts(chat)
        if options.overflow == "drop_oldest":
            roomy = self.context_length - (
                min(options.max_new_tokens, self.context_length // 2) if self.needs_room else 0
            )
            starts, text, ids = self._drop_oldest(chat, starts, roomy, options)
        else:
            text, ids = self._render(chat, options)
        if len(ids) > self.context_length - self.needs_room:
            what, hint = (
                ("this turn alone", "")
                if len(starts) == 1
                else ("the conversation", ', or set overflow to "drop_oldest"')
            )
            raise PromptError(
                f"{what} is {len(ids)} tokens long and the model's context length is "
                f"{self.context_length} tokens: shorten it{hint}"
            )
        return text, ids

    def _drop_oldest(
        self, chat: Chat, starts: list[int], room: int, options: GenerationOptions
    ) -> tuple[list[int], str, list[int]]:
        """Keeps as many of the last turns as fit into `room` tokens, at least one.

        Searches from an estimate on, so that not every dropped turn costs a rendering.

        Args:
            starts: index of the first message of each turn.

        Returns:
            The starts of the turns that are kept, their text, and its token ids.
        """
        sizes = [self._length(message["content"]) for message in chat]
        suffix_lengths = list(accumulate(reversed(sizes)))[::-1]  # Of each message and all after it.
        last = len(starts) - 1

        def estimate(more: float) -> int:
            """The first turn that fits if the template adds this many tokens to each message."""
            lengths = (suffix_lengths[start] + more * (len(chat) - start) for start in starts)
            return next((turn for turn, length in enumerate(lengths) if length <= room), last)

        # Turns up to `too_long` do not fit; those from `fitting` on do, or are the last one.
        guess, too_long, fitting, step = estimate(0), -1, last, 1
        rendered: dict[int, tuple[str, list[int]]] = {}
        while fitting - too_long > 1:
            turn = min(max(guess, too_long + 1), fitting - 1)
            text, ids = rendered[turn] = self._render(_from_message(chat, starts[turn]), options)
            fits = len(ids) <= room
            too_long, fitting = (too_long, turn) if fits else (turn, fitting)
            if len(rendered) == 1:
                guess = estimate((len(ids) - suffix_lengths[starts[turn]]) / (len(chat) - starts[turn]))
            else:
                guess = turn - step if fits else turn + step
                step *= 2
        if fitting not in rendered:
            rendered[fitting] = self._render(_from_message(chat, starts[fitting]), options)
        text, ids = rendered[fitting]
        return starts[fitting:], text, ids

    def stop_strings(self, options: GenerationOptions) -> tuple[str, ...]:
        """The strings that end an answer: those of the options and of the template."""
        template, _ = self._template(options.chat_template)
        return (*options.stop, *template.stops)

    def end_tokens(self, options: GenerationOptions) -> frozenset[int]:
        """Further tokens that end an answer: the one with which the template ends the assistant's turn."""
        template, _ = self._template(options.chat_template)
        end = self._renderer(template.text).end_token
        return frozenset() if end is None else frozenset([end])

    def max_answer_tokens(self, prompt_tokens: int, options: GenerationOptions) -> int:
        """The most tokens to generate: `max_new_tokens`, or what the prompt leaves of the context length."""
        if self.context_length is None:
            return options.max_new_tokens
        return min(options.max_new_tokens, self.context_length - (prompt_tokens if self.needs_room else 0))

    def _render(self, chat: Chat, options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        operators = {"role": "system", "content": options.system_prompt} in chat
        trusted = options.system_prompt if operators else None
        renderer = self._renderer(template.text, trusted, options.chat_template_kwargs)
        text = renderer.render(chat)
        ids = self._tokenize(text)
        renderer.check_control_tokens(ids, chat)
        return text, self._add_special_tokens(ids, options)

    def _template(self, given: str | None) -> tuple[Template, bool]:
        """The template to render with, and whether it is a built-in one."""
        if given:
            return find_template(given), given in TEMPLATES
        if not self.tokenizer.chat_template:
            return self.fallback, True
        try:
            return Template(self.tokenizer.get_chat_template()), False
        except ValueError:  # There are several, and none is the default.
            names = ", ".join(self.tokenizer.chat_template)
            raise ConfigurationError(
                f"the tokenizer has several chat templates ({names}): give the text of one as chat_template"
            ) from None


def _fallback(config: PretrainedConfig) -> Template:
    if config.is_encoder_decoder:
        return _BARE_QUESTION
    # In its configuration only this distinguishes DialoGPT from GPT-2.
    tasks = getattr(config, "task_specific_params", None) or {}
    chats = config.model_type == "gpt2" and "conversational" in tasks
    return TEMPLATES["dialogpt" if chats else "plain"]


def to_chat(messages: Sequence[Message], mark: Callable[[str], str]) -> Chat:
    """Converts messages to the form of chat templates, without images and the reasoning of earlier answers.

    Args:
        mark: applied to the text of each message.

    Raises:
        PromptError: the last message has no text.
    """
    if any(isinstance(part, Image) for message in messages for part in message.parts):
        logger.warning("this model reads text only: images are left out")
    if not messages or messages[-1].role == "system" or not messages[-1].text.strip():
        raise PromptError("the last message has no text, and this model reads text only: add a question")
    return [
        {
            "role": str(message.role),
            "content": mark(without_reasoning(message.text) if message.role == "assistant" else message.text),
        }
        for message in messages
    ]


def with_system_prompt(chat: Chat, system_prompt: str | None) -> Chat:
    """The messages after the system prompt, if there is one and they have no system message themselves."""
    if not system_prompt or any(message["role"] == "system" for message in chat):
        return chat
    return [{"role": "system", "content": system_prompt}, *chat]


def _turn_starts(chat: Chat) -> list[int]:
    """The index of the first message of each turn: the first one, and each user message after an answer."""
    said = [i for i, message in enumerate(chat) if message["role"] != "system"]
    return said[:1] + [
        i for before, i in pairwise(said) if (chat[before]["role"], chat[i]["role"]) == ("assistant", "user")
    ]


def _from_message(chat: Chat, start: int) -> Chat:
    """The messages from index `start` on, and all system messages."""
    kept = [message for i, message in enumerate(chat) if i >= start or message["role"] == "system"]
    return merge_same_role(kept)
