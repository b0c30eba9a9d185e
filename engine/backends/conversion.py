"""A request → the row that a model reads; what was generated for a row → its answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from engine import confidence
from engine.errors import PromptError
from engine.generation.sampling import Decoding, Generated, Row
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

    def row(self, request: Request) -> Row:
        """A request as the model reads it.

        Raises:
            PromptError, ConfigurationError: it cannot be asked.
        """
        options = request.options
        if request.prompt is None:
            prompt = self._prompter.encode(request.messages, options)
            options = options.model_copy(update={"stop": self._prompter.stop_strings(options)})
        else:
            prompt = self.plain(request.prompt)
        row = Row(
            prompt=prompt,
            max_new_tokens=self._prompter.max_answer_tokens(len(prompt), options),
            options=options,
            trim=request.prompt is None,
        )
        last = self._ends(row)
        if not options.stop and not last:
            return row
        before = self.before(row)
        return replace(row, ending=lambda: Ending(self._tokenizer, options.stop, last, before))

    def before(self, row: Row) -> list[int]:
        """Tokens that an answer's text goes on from: an encoder-decoder's goes on from none."""
        return [] if self._prompter.seq2seq else context(self._tokenizer, row.prompt)

    def _ends(self, row: Row) -> frozenset[int]:
        """Tokens that end this answer besides `eos`: those of the chat template."""
        return self._prompter.end_tokens(row.options) - self._eos if row.trim else frozenset()

    def plain(self, prompt: str | Sequence[int]) -> list[int]:
        """A plain prompt as the model reads it; an empty one is the token that begins a text.

        Raises:
            PromptError: it is longer than the window, has ids beyond the vocabulary, or is empty and no token
                begins a text.
        """
        ids = self._prompter.tokenize_plain(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._prompter.require_begin_token()]
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

    def answer(self, decoding: Decoding) -> Answer:
        """What was generated for a row, as text."""
        row, generated = decoding.row, decoding.generated
        if generated.error:
            return Answer.failed(generated.error)
        spoken, before = generated.token_ids, self.before(row)
        if generated.stopped and spoken[-1] in self._ends(row):
            spoken = spoken[:-1]  # It may have a text, unlike a special token.
        text = whole(before_stop(following(self._tokenizer, before, spoken), row.options.stop))
        return Answer(
            text=text.strip() if row.trim else text,
            token_ids=tuple(generated.token_ids),
            logprobs=tuple(generated.logprobs),
            confidence=confidence.measure(row.options.confidence, generated.evidence),
            finish_reason="stop" if generated.stopped else "length",
            usage=Usage(len(row.prompt), len(generated.token_ids)),
            top_logprobs=tuple(generated.top_logprobs),
            tokens=self._as_text(generated, before, len(text)) if row.options.logprobs else None,
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
