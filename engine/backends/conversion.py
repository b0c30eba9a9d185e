"""Request → token ids; generated tokens → Answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from engine import confidence
from engine.errors import PromptError
from engine.generation.sequence import Generated, SequenceState, TokenizedRequest
from engine.loading import Loaded
from engine.prompting.prompter import Prompter
from engine.text import Ending, before_stop, context, following, pieces, whole
from engine.types import Answer, Request, Token, Usage


class Conversion:
    """From requests to token ids and back, for one model."""

    def __init__(self, loaded: Loaded, prompter: Prompter, eos: frozenset[int]) -> None:
        self._tokenizer = loaded.tokenizer
        self._vocabulary = len(cast(Any, loaded.model.get_input_embeddings()).weight)
        self._prompter = prompter
        self._eos = eos

    def tokenized(self, request: Request) -> TokenizedRequest:
        """A request as token ids.

        Raises:
            PromptError, ConfigurationError: it cannot be asked.
        """
        options = request.options
        if request.prompt is None:
            prompt = self._prompter.encode(request.messages, options)
            options = options.model_copy(update={"stop": self._prompter.stops(options)})
        else:
            prompt = self.plain(request.prompt)
        tokenized = TokenizedRequest(
            prompt=prompt,
            max_new_tokens=self._prompter.answer_limit(len(prompt), options),
            options=options,
            trim=request.prompt is None,
        )
        last = self._ends(tokenized)
        if not options.stop and not last:
            return tokenized
        before = self.before(tokenized)
        return replace(tokenized, stopping=lambda: Ending(self._tokenizer, options.stop, last, before))

    def before(self, tokenized: TokenizedRequest) -> list[int]:
        """Tokens that an answer's text goes on from: an encoder-decoder's goes on from none."""
        return [] if self._prompter.seq2seq else context(self._tokenizer, tokenized.prompt)

    def _ends(self, tokenized: TokenizedRequest) -> frozenset[int]:
        """Tokens that end this answer besides `eos`: those of the chat template."""
        return self._prompter.ends(tokenized.options) - self._eos if tokenized.trim else frozenset()

    def plain(self, prompt: str | Sequence[int]) -> list[int]:
        """A plain prompt as the model reads it; an empty one is the token that begins a text.

        Raises:
            PromptError: it is longer than the window, has ids beyond the vocabulary, or is empty and no token
                begins a text.
        """
        ids = self._prompter.plain(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._prompter.required_begin()]
        if not all(0 <= token < self._vocabulary for token in ids):
            raise PromptError(
                f"the prompt has token ids that this model does not: take 0 to {self._vocabulary - 1}"
            )
        window = self._prompter.window
        if window is not None and len(ids) >= window + self._prompter.seq2seq:
            raise PromptError(
                f"the prompt is {len(ids)} tokens long and the model's window is {window} tokens: shorten it"
            )
        return ids

    def answer(self, sequence: SequenceState) -> Answer:
        """What was generated for a sequence, as text."""
        tokenized, generated = sequence.request, sequence.generated
        if generated.error:
            return Answer.failed(generated.error)
        spoken, before = generated.token_ids, self.before(tokenized)
        if generated.stopped and spoken[-1] in self._ends(tokenized):
            spoken = spoken[:-1]  # It may have a text, unlike a special token.
        text = whole(before_stop(following(self._tokenizer, before, spoken), tokenized.options.stop))
        return Answer(
            text=text.strip() if tokenized.trim else text,
            token_ids=tuple(generated.token_ids),
            logprobs=tuple(generated.logprobs),
            confidence=confidence.measure(tokenized.options.confidence, generated.evidence),
            finish_reason="stop" if generated.stopped else "length",
            usage=Usage(len(tokenized.prompt), len(generated.token_ids)),
            top_logprobs=tuple(generated.top_logprobs),
            tokens=self._as_text(generated, before, len(text)) if tokenized.options.logprobs else None,
        )

    def _as_text(self, generated: Generated, before: list[int], length: int) -> tuple[Token, ...]:
        """The tokens as text, up to so many characters: without a stop string and what ends the answer."""
        tokens: list[Token] = []
        ids = generated.token_ids
        tops = generated.top_logprobs or [()] * len(ids)
        texts = pieces(self._tokenizer, ids, before)
        for place, (text, logprob, top) in enumerate(zip(texts, generated.logprobs, tops, strict=True)):
            if length > 0:
                known = context(self._tokenizer, [*before, *ids[:place]]) if top else []
                others = tuple((following(self._tokenizer, known, [token]), value) for token, value in top)
                tokens.append(Token(text[:length], logprob, others))
            length -= len(text)
        return tuple(tokens)
