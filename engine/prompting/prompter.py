"""Messages → token ids: chat template, system prompt, and what to drop when a conversation is too long."""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.prompting.escaping import Escaping
from engine.prompting.renderer import Chat, Writer, merged
from engine.prompting.templates import TEMPLATES, Template, find
from engine.prompting.tokenization import around, once
from engine.text import encodable
from engine.types import Image, Message

logger = logging.getLogger(__name__)

# Messages whose lengths are remembered.
_REMEMBERED = 4096
# An encoder-decoder model without a template was trained on the bare question.
_BARE = Template(
    "{% if messages|length == 1 %}{{ messages[0].content }}{% else %}"
    + TEMPLATES["plain"].text
    + "{% endif %}"
)


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
        self.writer = Writer(tokenizer, self.escaping)
        self._before, _ = around(tokenizer)
        self._size = lru_cache(_REMEMBERED)(lambda text: len(self._bare(text)))

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
        """The text whose token ids `encode` gives, and `read`: with marks of `engine.prompting.escaping`.

        Raises:
            PromptError, ConfigurationError: as `encode`.
        """
        return self._fitted(messages, options)[0]

    def read(self, text: str, options: GenerationOptions) -> list[int]:
        """The token ids of a text that begins as one written with these options does."""
        return self._framed(self._bare(text), options)

    def plain(self, text: str) -> list[int]:
        """The token ids of a text by itself."""
        return self._framed(self._bare(text))

    def _framed(self, ids: list[int], options: GenerationOptions | None = None) -> list[int]:
        """Token ids with what the tokenizer puts around them, once; a decoder's text has no end."""
        # A template of the tokenizer or user writes its special tokens; ours leave that to the tokenizer.
        if self.seq2seq or options is None or self._template(options.chat_template)[1]:
            before, after = around(self.tokenizer) if self.seq2seq else (self._before, [])
            ids = once(ids, before)
            ids = ids if not after or ids[-len(after) :] == after else ids + after
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    @property
    def begin(self) -> int | None:
        """The token that begins a text, or stands for an empty one; None where the tokenizer has none."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return eos if bos is None else bos

    def required_begin(self) -> int:
        """`begin`.

        Raises:
            PromptError: the tokenizer has none.
        """
        if self.begin is None:
            raise PromptError(
                "it is empty, and the tokenizer has no token that begins a text: give it a text"
            )
        return self.begin

    def _bare(self, text: str) -> list[int]:
        return self.escaping.read(encodable(text))

    def _fitted(self, messages: Sequence[Message], options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        chat = readable(messages, lambda text: self.escaping.mark(text, template.text))
        if options.system_prompt and all(message["role"] != "system" for message in chat):
            chat.insert(0, {"role": "system", "content": options.system_prompt})
        chat = merged(chat)
        if self.window is None:
            return self._written(chat, options)
        starts = _turn_starts(chat)
        if options.overflow == "drop_oldest":
            roomy = self.window - (0 if self.seq2seq else min(options.max_new_tokens, self.window // 2))
            starts, text, ids = self._recent(chat, starts, roomy, options)
        else:
            text, ids = self._written(chat, options)
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

    def _recent(
        self, chat: Chat, starts: list[int], room: int, options: GenerationOptions
    ) -> tuple[list[int], str, list[int]]:
        """The turns that fit, or the last one, and what is written of them.

        The first is looked for from a guess on, so that what is dropped is not written again for every turn.
        """
        sizes = [self._size(message["content"]) for message in chat]
        behind = list(accumulate(reversed(sizes)))[::-1]  # Of each message and all after it.
        last = len(starts) - 1

        def guessed(more: float) -> int:
            """The first turn that fits if the template writes so many tokens more for each message."""
            lengths = (behind[start] + more * (len(chat) - start) for start in starts)
            return next((turn for turn, length in enumerate(lengths) if length <= room), last)

        guess, below, fitting, step = guessed(0), -1, last, 1
        written: dict[int, tuple[str, list[int]]] = {}
        while fitting - below > 1:
            turn = min(max(guess, below + 1), fitting - 1)
            text, ids = written[turn] = self._written(_since(chat, starts[turn]), options)
            fits = len(ids) <= room
            below, fitting = (below, turn) if fits else (turn, fitting)
            if len(written) == 1:
                guess = guessed((len(ids) - behind[starts[turn]]) / (len(chat) - starts[turn]))
            else:
                guess = turn - step if fits else turn + step
                step *= 2
        text, ids = written.get(fitting) or self._written(_since(chat, starts[fitting]), options)
        return starts[fitting:], text, ids

    def stops(self, options: GenerationOptions) -> tuple[str, ...]:
        """Texts that end an answer: the options' and those of the template."""
        template, _ = self._template(options.chat_template)
        return (*options.stop, *template.stops)

    def ends(self, options: GenerationOptions) -> frozenset[int]:
        """Tokens that end an answer beside those of the model: the one that ends the template's turns."""
        template, _ = self._template(options.chat_template)
        end = self.writer.end(template.text)
        return frozenset() if end is None else frozenset([end])

    def answer_limit(self, prompt_tokens: int, options: GenerationOptions) -> int:
        """How many tokens may be generated: `max_new_tokens`, less what would run past the window."""
        if self.window is None:
            return options.max_new_tokens
        return min(options.max_new_tokens, self.window - (0 if self.seq2seq else prompt_tokens))

    def _written(self, chat: Chat, options: GenerationOptions) -> tuple[str, list[int]]:
        template, _ = self._template(options.chat_template)
        operators = {"role": "system", "content": options.system_prompt} in chat
        trusted = options.system_prompt if operators else None
        text = self.writer.write(chat, template.text, trusted)
        ids = self._bare(text)
        self.writer.check(ids, chat, template.text, trusted)
        return text, self._framed(ids, options)

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


def _turn_starts(chat: Chat) -> list[int]:
    """Where each turn begins: at what is said first, and where the user speaks after an answer."""
    said = [i for i, message in enumerate(chat) if message["role"] != "system"]
    return said[:1] + [
        i for before, i in pairwise(said) if (chat[before]["role"], chat[i]["role"]) == ("assistant", "user")
    ]


def _since(chat: Chat, start: int) -> Chat:
    """The conversation from index `start` on, with all its system messages."""
    return merged([message for i, message in enumerate(chat) if i >= start or message["role"] == "system"])
