"""Parses what a server answers, whole or in chunks, into an `Answer`."""

import codecs
import math
from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import Any

from engine.backends.endpoint.wire import Server
from engine.confidence import TOP_K, Evidence, measured
from engine.errors import GenerationError
from engine.options import GenerationOptions
from engine.reasoning import ONLY_REASONING, Marks, ReasoningSplitter, first_answer_token, split_unopened
from engine.text import before_stop
from engine.types import Answer, Token, Usage

Likeliest = tuple[tuple[str, float], ...]

# Servers write this for minus infinity, and for tokens whose log-probability they did not keep.
_LEAST = -9999.0
_CUT = ("length", "max_tokens", "model_length")
# Finish reasons of failed answers.
_FAULTS = {
    "abort": "gave up",
    "content_filter": "withheld the answer: it was blocked by its content filter",
    "error": "failed",
}


class Reply:
    """Accumulates one answer: of OpenAI's chat and completion routes, or of TGI's; whole or in chunks.

    Attributes:
        text: the text so far, without reasoning.
        streamed: the text that was given as deltas. It has the reasoning, too, if the chat template wrote the
            opening mark and this was not known: the end of the answer shows that.
        unopened: the marks of a reasoning whose opening mark the answer lacks; None if there is none.
        finish: the server's finish reason; None until it ends.
    """

    def __init__(
        self, server: Server, chat: bool, opened: Marks | None = None, assumed: bool = False
    ) -> None:
        """Begins empty.

        Args:
            chat: whether it answers a conversation: its text is trimmed, must not be empty, and may follow
                reasoning.
            opened: the marks of the reasoning that the prompt itself has begun, where that is known.
            assumed: whether that is known from earlier answers only: an answer that ends without the closing
                mark, and is not cut off, then is no reasoning.
        """
        self.server = server
        self.text = self.streamed = ""
        self.finish: str | None = None
        self.unopened: Marks | None = None
        self._chat = chat
        self._assumed = assumed and opened is not None
        self._splitter = ReasoningSplitter(opened)
        self._half = ""  # Of a surrogate pair whose other half is in the next chunk.
        self._reasoning = ""  # What the server sends in fields of its own.
        self._reasoned = self._refused = self._called = False
        self._tokens: list[Token] = []
        self._ids: list[int] = []
        self._top_ids: list[tuple[tuple[int, float], ...]] = []
        self._usage: Usage | None = None
        self._silent = False  # Some of the text came without log-probabilities.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, body: Any) -> str:
        """Takes an answer, or the next chunk of one; returns the text that is new.

        Raises:
            GenerationError: an error, or no completion.
        """
        body, known = _plain(body), len(self.text)
        if body.get("error") or body.get("object") == "error" or body.get("type") == "error":
            raise self.server.broke_off(body)
        if "choices" in body and (body["choices"] is not None or body.get("usage")):
            self._openai(body)
        elif "token" in body or "generated_text" in body:
            self._tgi(body)
        else:
            raise GenerationError(f"{self.server.name} answered with no completion: check base_url and api")
        if self.finish in _FAULTS:
            raise GenerationError(f"{self.server.name} {_FAULTS[self.finish]}: see its log")
        return self.text[known:]

    def end(self) -> None:
        """Ends the answer.

        Raises:
            GenerationError: it has no text.
        """
        self.text += self._splitter.rest() + _paired(self._half)
        if self._assumed and not self._splitter.ended and self.finish not in _CUT:
            self.text, self._splitter.text = self._splitter.text or "", None
        self.streamed = self.text
        if self._chat and self._splitter.text is None:
            self.unopened, thought, self.text = split_unopened(self.text)
            self._reasoning += thought
        self._reasoned |= self.unopened is not None or self._splitter.text is not None
        if self._chat and not self.text.strip() and self._lacking:
            raise GenerationError(f"the answer of {self.server.name} {self._lacking}")
        if self.finish is None and not self.text:
            raise GenerationError(f"{self.server.name} answered nothing: check base_url and api")
        if self._chat and not self.text.strip():
            raise GenerationError(
                f"the answer of {self.server.name} is empty: try again, or rephrase the question"
            )

    def answer(self, options: GenerationOptions) -> Answer:
        """The answer, after `end`."""
        text = before_stop(self.text, options.stop)
        first = 0
        if self._chat:
            spelled = [token.text for token in self._tokens]
            first = first_answer_token(self.text.strip(), spelled, self._reasoned)
        tokens = self._tokens[first:]
        logprobs = tuple(token.logprob for token in tokens)
        known = bool(logprobs) and not self._silent and not any(map(math.isnan, logprobs))
        cut = len(text) < len(self.text)
        top = options.top_logprobs
        reasoning = _paired(self._reasoning + (self._splitter.text or "")).strip()
        return Answer(
            text=text.strip() if self._chat else text,
            token_ids=tuple(self._ids[first:]),
            logprobs=logprobs if known else None,
            finish_reason="length" if self.finish in _CUT and not cut else "stop",
            usage=self._usage or Usage(0, len(self._tokens)),
            top_logprobs=tuple(likeliest[:top] for likeliest in self._top_ids[first:]) if top else (),
            tokens=tuple(Token(token.text, token.logprob, token.top[:top]) for token in tokens)
            if known and options.logprobs
            else None,
            reasoning=reasoning or None,
            **measured(
                options.confidence, options.confidence_methods, _evidence(tokens) if known else Evidence()
            ),
        )

    @property
    def _lacking(self) -> str | None:
        """What the server sent instead of a text, and what to do; None if it sent nothing else."""
        if self._refused:
            return "is a refusal: rephrase the question, or use another model"
        if self._called:
            return "is a tool call, and tools are not supported: set the server up without tools"
        if self._reasoned:
            return ONLY_REASONING
        if self.finish in _CUT:
            return "ends before its first character: raise max_new_tokens"
        return None

    def _openai(self, body: dict[str, Any]) -> None:
        if isinstance(usage := body.get("usage"), dict):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
            self._usage = Usage(
                usage.get("prompt_tokens") or 0,
                usage.get("completion_tokens") or 0,
                cached or 0,
                thought or 0,
            )
            self._reasoned |= bool(thought)
        # One choice was requested; of several, the one of index 0 counts.
        choices = [one for one in body["choices"] or [] if not one.get("index")]
        for choice in choices[:1]:
            said = choice.get("message") or choice.get("delta") or choice
            text, thought = _texts(said.get("text") if said is choice else said.get("content"))
            for key in ("reasoning_content", "reasoning"):  # Servers send one of them, or the same in both.
                if isinstance(said.get(key), str) and not thought:
                    thought = said[key]
            self._reasoning += thought
            self._reasoned |= bool(thought)
            self._refused |= bool(said.get("refusal"))
            self._called |= bool(said.get("tool_calls") or said.get("function_call"))
            noted = _entries(choice.get("logprobs") or {})
            self._silent |= bool(text) and not noted
            for token, logprob, top in noted:
                self._note(token, logprob, top)
            self._ids += choice.get("token_ids") or ()  # vLLM's, where it is asked for them.
            self._say(text)
            self.finish = choice.get("finish_reason") or self.finish

    def _say(self, text: str) -> None:
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        text = _paired(text)
        self.text += self._splitter.part(text) if self._chat else text

    def _tgi(self, body: dict[str, Any]) -> None:
        details = body.get("details") or {}
        streamed = body.get("token")
        tokens = [streamed] if streamed else details.get("tokens") or []
        tops = [body.get("top_tokens")] if streamed else details.get("top_tokens") or []
        for i, token in enumerate(tokens):
            top = (tops[i] if i < len(tops) else None) or []
            text = "" if token.get("special") else token["text"]
            self._note(text, token["logprob"], _likeliest(top, "text"))
            self._ids.append(token["id"])
            self._top_ids.append(_likeliest(top, "id"))
            if streamed:
                self._say(text)
        whole = body.get("generated_text")
        if whole is not None:
            self._silent |= bool(whole) and not self._tokens
            if not streamed:
                self._say(whole)
            self.finish = details.get("finish_reason") or "stop"
            self._usage = Usage(0, details.get("generated_tokens") or len(self._tokens))

    def _note(self, token: Any, logprob: Any, top: Likeliest) -> None:
        text = self._decoder.decode(bytes(token)) if isinstance(token, list) else str(token)
        value = _number(logprob)
        unknown = value is None or value <= _LEAST
        self._tokens.append(Token(text, math.nan if unknown else float(value or 0), top))


def _evidence(tokens: Sequence[Token]) -> Evidence:
    """What a server says of its tokens; a field that it gives too little for is empty."""
    first = [logprob for _, logprob in tokens[0].top[:TOP_K]]
    two = [[math.exp(logprob) for _, logprob in token.top[:2]] for token in tokens]
    return Evidence(
        [token.logprob for token in tokens],
        first_top=first if len(first) == TOP_K else (),
        margins=[pair[0] - pair[1] for pair in two] if all(len(pair) == 2 for pair in two) else (),
    )


def _paired(text: str) -> str:
    """Joins halves of surrogate pairs; lone ones become replacement characters."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(value: Any) -> Any:
    """The hub library's types as dicts, with fields that it does not know."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    fields = vars(value) if hasattr(value, "__dataclass_fields__") else None
    return value if fields is None else {key: _plain(one) for key, one in fields.items()}


def _texts(content: Any) -> tuple[str, str]:
    """The answer and the reasoning in a content: a text, or a list of parts."""
    said = thought = ""
    for part in content if isinstance(content, list) else [content]:
        match part:
            case None:
                pass
            case str():
                said += part
            case {"type": "thinking" | "reasoning" as kind}:
                inner = part.get(kind) or part.get("text")
                thought += "".join(_texts(inner))
            case {"text": str(text)}:
                said += text
            case {"type": str()}:  # An image, a sound.
                pass
            case _:
                raise TypeError("a content that is neither text nor a part")
    return said, thought


def _entries(logprobs: dict[str, Any]) -> list[tuple[Any, Any, Likeliest]]:
    """Each token's text (or its bytes, if sent), log-probability and likeliest tokens."""
    if logprobs.get("content"):
        return [
            (
                entry.get("bytes") or entry["token"],
                entry.get("logprob"),
                _likeliest(entry.get("top_logprobs")),
            )
            for entry in logprobs["content"]
        ]
    # The lists may differ in length, and the last ones may be missing.
    listed = [logprobs.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs")]
    return [
        (token, logprob, _likeliest([{"token": text, "logprob": top} for text, top in (tops or {}).items()]))
        for token, logprob, tops in islice(zip_longest(*listed), len(listed[0]))
    ]


def _likeliest(top: list[dict[str, Any]] | None, name: str = "token") -> tuple[tuple[Any, float], ...]:
    known = [(one[name], _number(one["logprob"])) for one in top or []]
    pairs = [(token, max(logprob, _LEAST)) for token, logprob in known if logprob is not None]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _number(logprob: Any) -> float | None:
    return None if logprob is None or math.isnan(logprob) else float(logprob)
