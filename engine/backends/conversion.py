"""Requests → token ids; generated tokens → answers."""

from collections.abc import Sequence
from dataclasses import replace

from engine.backends.answer_text import AnswerText
from engine.confidence import measured
from engine.errors import ConfigurationError, GenerationError, PromptError
from engine.generation.sequence import Generated, SequenceState, TokenizedRequest
from engine.loading import Loaded
from engine.model_properties import vocabulary_size
from engine.prompting.prompter import Prompter
from engine.reasoning import ONLY_REASONING, Marks, ReasoningSplitter, begins, forms_of, opened_by
from engine.text import (
    Deltas,
    StoppingCriteria,
    before_stop,
    decode_after,
    decoding_context,
    token_texts,
    without_incomplete_end,
)
from engine.types import Answer, Request, Token, Usage

# Tokens at a prompt's end and an answer's beginning that an opening mark is in.
_MARKED = 64


class Conversion:
    """Encodes requests and decodes answers for one model."""

    def __init__(self, loaded: Loaded, prompter: Prompter, eos: frozenset[int]) -> None:
        self._tokenizer = loaded.tokenizer
        self._vocabulary = vocabulary_size(loaded.model)
        self._prompter = prompter
        self._eos = eos
        self._forms = forms_of(getattr(loaded.tokenizer, "response_template", None))

    def encode(self, request: Request) -> TokenizedRequest:
        """A request as token ids.

        Raises:
            PromptError: a prompt that cannot be read or is too long.
            ConfigurationError: an option that does not fit the model.
        """
        options = request.options
        if options.response_format is not None:
            raise ConfigurationError(
                "response_format: answers on this machine are free text, no grammar binds them; leave it "
                "out, or set backend to endpoint and ask a server that has it"
            )
        if request.prompt is None:
            prompt = self._prompter.encode(request.messages, options)
            options = options.model_copy(update={"stop": self._prompter.stop_strings(options)})
        else:
            prompt = self.encode_plain(request)
        tokenized = TokenizedRequest(
            prompt=prompt,
            max_new_tokens=self._prompter.max_answer_tokens(len(prompt), options),
            options=options,
            is_chat=request.prompt is None,
        )
        tokenized = replace(tokenized, end_tokens=self._end_tokens(tokenized))
        if not options.stop:
            return tokenized
        before, opened = self._before(tokenized), self._opened(tokenized)

        def stopping() -> StoppingCriteria:
            splitter = ReasoningSplitter(opened, self._forms)
            part = splitter.part if tokenized.is_chat else None
            return StoppingCriteria(self._tokenizer, options.stop, before, part)

        return replace(tokenized, stopping=stopping)

    def _before(self, tokenized: TokenizedRequest) -> list[int]:
        """The tokens that an answer's text continues; none for an encoder-decoder."""
        return [] if self._prompter.seq2seq else decoding_context(self._tokenizer, tokenized.prompt)

    def _opened(self, tokenized: TokenizedRequest) -> Marks | None:
        """The marks of the reasoning that the chat template has begun at the prompt's end."""
        if not tokenized.is_chat or self._prompter.seq2seq:
            return None
        return opened_by(str(self._tokenizer.decode(list(tokenized.prompt[-_MARKED:]))), self._forms)

    def _end_tokens(self, tokenized: TokenizedRequest) -> frozenset[int]:
        """Tokens that end an answer besides `eos`: the options', those of the template's turn or of the gap.

        Raises:
            ConfigurationError: an option names a token that is not in the vocabulary.
        """
        options = tokenized.options
        for name, tokens in (("eos_token_id", options.eos_token_id), ("logit_bias", options.logit_bias)):
            if not all(0 <= token < self._vocabulary for token in tokens or ()):
                raise ConfigurationError(
                    f"option {name!r} has token ids outside the vocabulary: use 0 to {self._vocabulary - 1}"
                )
        fill, ends = self._prompter.fill, frozenset(options.eos_token_id)
        if tokenized.is_chat:
            ends |= self._prompter.end_tokens(options)
        elif fill and tokenized.prompt[-1] == fill.middle:
            ends |= fill.ends
        return ends - self._eos

    def encode_plain(self, request: Request) -> list[int]:
        """The token ids of a request's plain prompt; of an empty one, the bos token.

        Raises:
            Unsupported: a suffix, and the tokenizer has no tokens to fill a gap.
            PromptError: it is longer than the model's context, has ids outside the vocabulary, or is empty
                and the tokenizer has no bos token.
        """
        prompt = "" if request.prompt is None else request.prompt
        if request.suffix is not None:
            if not isinstance(prompt, str):
                raise PromptError("suffix needs the prompt as text: give no token ids with it")
            ids = self._prompter.tokenize_gap(prompt, request.suffix)
        else:
            ids = self._prompter.tokenize_plain(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._prompter.require_begin_token()]
        if not all(0 <= token < self._vocabulary for token in ids):
            raise PromptError(
                f"the prompt has token ids outside the vocabulary: use 0 to {self._vocabulary - 1}"
            )
        limit = self._prompter.context_length
        if limit is not None and len(ids) >= limit + self._prompter.seq2seq:
            raise PromptError(
                f"the prompt is {len(ids)} tokens long and the model's context length is {limit} tokens: "
                "shorten it"
            )
        return ids

    def streaming(self, tokenized: TokenizedRequest) -> tuple[AnswerText, Deltas]:
        """What makes text of a sequence's tokens while it grows, and deltas of the text."""
        return self._answer_text(tokenized), Deltas(tokenized.options.stop, tokenized.is_chat)

    def _answer_text(self, tokenized: TokenizedRequest) -> AnswerText:
        splitter = ReasoningSplitter(self._opened(tokenized), self._forms) if tokenized.is_chat else None
        return AnswerText(self._tokenizer, self._before(tokenized), splitter)

    def _reasons(self, tokenized: TokenizedRequest, tokens: Sequence[int], before: Sequence[int]) -> bool:
        """Whether an answer begins with reasoning."""
        if not tokenized.is_chat:
            return False
        begun = decode_after(self._tokenizer, before, tokens[:_MARKED], special=True)
        if not begun.strip():
            begun = decode_after(self._tokenizer, before, tokens, special=True)
        return begins(begun, self._forms) is not None or self._opened(tokenized) is not None

    def decode(self, sequence: SequenceState) -> Answer:
        """The answer of a sequence that has ended."""
        tokenized, generated = sequence.request, sequence.generated
        options = tokenized.options
        if generated.error:
            return Answer.failed(generated.error)
        spoken, before = generated.token_ids, self._before(tokenized)
        if generated.stopped and spoken[-1] in tokenized.end_tokens:
            spoken = spoken[:-1]  # It may have a text, unlike a special token.
        first, reasoning, head = 0, None, ""
        if self._reasons(tokenized, spoken, before):
            parted = self._answer_text(tokenized)
            text = "".join(map(parted.add, spoken))
            first, before, head, reasoning = parted.first, parted.before, parted.head, parted.reasoning
            if not text.strip():
                return Answer.failed(GenerationError(f"the answer {ONLY_REASONING}"))
        else:
            text = decode_after(self._tokenizer, before, spoken)
        text = before_stop(without_incomplete_end(text), tokenized.options.stop)
        evidence = generated.evidence(first)
        length = len(generated.token_ids)
        return Answer(
            text=text.strip() if tokenized.is_chat else text,
            token_ids=tuple(generated.token_ids[first:]),
            logprobs=tuple(evidence.logprobs),
            finish_reason="stop" if generated.stopped else "length",
            usage=Usage(len(tokenized.prompt), length, sequence.cached_tokens, first),
            top_logprobs=tuple(generated.top_logprobs[first:]),
            tokens=self._as_text(generated, first, before, head, len(text)) if options.logprobs else None,
            reasoning=reasoning,
            **measured(options.confidence, options.confidence_methods, evidence),
        )

    def _as_text(
        self, generated: Generated, first: int, before: list[int], head: str, length: int
    ) -> tuple[Token, ...]:
        """The tokens of an answer as text, up to `length` characters: without stop string and end token.

        Args:
            first: the index of the first one; `head` is its text where that is not all that it decodes to.
        """
        tokens: list[Token] = []
        ids, logprobs = generated.token_ids[first:], generated.logprobs[first:]
        tops = generated.top_logprobs[first:] or [()] * len(ids)
        texts = token_texts(self._tokenizer, ids, before)
        texts[:1] = [head] if head else texts[:1]
        for place, (text, logprob, top) in enumerate(zip(texts, logprobs, tops, strict=True)):
            if length > 0:
                known = decoding_context(self._tokenizer, [*before, *ids[:place]]) if top else []
                others = tuple((decode_after(self._tokenizer, known, [token]), value) for token, value in top)
                tokens.append(Token(text[:length], logprob, others))
            length -= len(text)
        return tuple(tokens)
