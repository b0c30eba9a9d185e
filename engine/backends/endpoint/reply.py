"""What a server says, whole or in pieces → an answer."""

import codecs
import math
from typing import Any

from engine import confidence
from engine.backends.endpoint.wire import Server
from engine.confidence import FIRST_TOP, Evidence
from engine.errors import GenerationError
from engine.options import GenerationOptions
from engine.text import before_stop, held_back
from engine.types import Answer, Token, Usage

Likeliest = tuple[tuple[str, float], ...]

# What ends an answer that is none.
_FAULTS = {
    "abort": "gave up",
    "content_filter": "withheld the answer: its content filter took offence",
    "error": "failed",
}


class Reply:
    """One answer as it comes: OpenAI's chat completions and completions, TGI's own, and chunks of each.

    Attributes:
        text: what has been said so far.
        finish: the server's word for why it ended; None while it goes on.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.text = ""
        self.finish: str | None = None
        self._tokens: list[Token] = []
        self._ids: list[int] = []
        self._top_ids: list[tuple[tuple[int, float], ...]] = []
        self._usage: tuple[int, int] | None = None
        self._silent = False  # Some of the text came without log-probabilities.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, body: Any) -> None:
        """Takes an answer, or the next chunk of one.

        Raises:
            GenerationError: it is no answer.
        """
        body = _plain(body)
        if "choices" in body and body["choices"] is not None:
            self._openai(body)
        elif "token" in body or "generated_text" in body:
            self._tgi(body)
        elif body.get("error"):
            raise self.server.broke_off(body)
        else:
            raise GenerationError(f"{self.server.name} answered with no completion: check base_url and api")
        if self.finish in _FAULTS:
            raise GenerationError(f"{self.server.name} {_FAULTS[self.finish]}: its log may say why")

    def answer(self, options: GenerationOptions, trim: bool) -> Answer:
        """The answer, once it is whole.

        Args:
            trim: whether white space around it is left out.
        """
        text = before_stop(self.text, options.stop)
        logprobs = tuple(token.logprob for token in self._tokens)
        known = bool(logprobs) and not self._silent and not any(map(math.isnan, logprobs))
        prompt, completion = self._usage or (0, len(logprobs))
        cut = len(text) < len(self.text)
        top = options.top_logprobs
        return Answer(
            text=text.strip() if trim else text,
            token_ids=tuple(self._ids),
            logprobs=logprobs if known else None,
            confidence=self._confidence(options) if known else None,
            finish_reason="length" if self.finish == "length" and not cut else "stop",
            usage=Usage(prompt, completion),
            top_logprobs=tuple(likeliest[:top] for likeliest in self._top_ids) if top else (),
            tokens=tuple(Token(token.text, token.logprob, token.top[:top]) for token in self._tokens)
            if known and options.logprobs
            else None,
        )

    def _confidence(self, options: GenerationOptions) -> float | None:
        wanted = FIRST_TOP.get(options.confidence, 0)
        first = [logprob for _, logprob in self._tokens[0].top[:wanted]]
        if wanted and not first:
            return None
        return confidence.measure(options.confidence, Evidence([t.logprob for t in self._tokens], first))

    def _openai(self, body: dict[str, Any]) -> None:
        if usage := body.get("usage"):
            self._usage = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        for choice in body["choices"][:1]:
            said = choice.get("message") or choice.get("delta") or choice
            text = (said.get("text") if said is choice else said.get("content")) or ""
            noted = _entries(choice.get("logprobs") or {})
            self._silent |= bool(text) and not noted
            for token, logprob, top in noted:
                self._note(token, logprob, top)
            self.text += text
            self.finish = choice.get("finish_reason") or self.finish

    def _tgi(self, body: dict[str, Any]) -> None:
        details = body.get("details") or {}
        streamed = body.get("token")
        tokens = [streamed] if streamed else details.get("tokens") or []
        tops = [body.get("top_tokens")] if streamed else details.get("top_tokens") or []
        for i, token in enumerate(tokens):
            top = sorted((tops[i] if i < len(tops) else None) or [], key=lambda one: -one["logprob"])
            text = "" if token.get("special") else token["text"]
            self._note(text, token["logprob"], tuple((one["text"], float(one["logprob"])) for one in top))
            self._ids.append(token["id"])
            self._top_ids.append(tuple((one["id"], float(one["logprob"])) for one in top))
            self.text += text if streamed else ""
        whole = body.get("generated_text")
        if whole is not None:
            self._silent |= bool(whole) and not self._tokens
            self.text = self.text if streamed else whole
            self.finish = details.get("finish_reason") or "stop"
            self._usage = 0, details.get("generated_tokens") or len(self._tokens)

    def _note(self, token: Any, logprob: Any, top: Likeliest) -> None:
        text = self._decoder.decode(bytes(token)) if isinstance(token, list) else str(token)
        self._tokens.append(Token(text, math.nan if logprob is None else float(logprob), top))


class Growth:
    """What a growing text has more that is certain: nothing that a stop string may still cut off."""

    def __init__(self, stops: tuple[str, ...], trim: bool) -> None:
        self._stops = stops
        self._trim = trim
        self._given = 0

    def more(self, text: str) -> str:
        """The next piece, of the whole text so far."""
        text = before_stop(text, self._stops)
        certain = text[: len(text) - held_back(text, self._stops)]
        return self.rest(certain.strip() if self._trim else certain)

    def rest(self, text: str) -> str:
        """What was not given of a text yet."""
        piece = text[self._given :]
        self._given += len(piece)
        return piece


def _plain(value: Any) -> Any:
    """The hub library's types as dicts, with what it does not know."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    fields = vars(value) if hasattr(value, "__dataclass_fields__") else None
    return value if fields is None else {key: _plain(one) for key, one in fields.items()}


def _entries(logprobs: dict[str, Any]) -> list[tuple[Any, Any, Likeliest]]:
    """Each token's text (or its bytes, where they are told), log-probability and likeliest tokens."""
    if logprobs.get("content"):
        return [
            (
                entry.get("bytes") or entry["token"],
                entry.get("logprob"),
                _likeliest(entry.get("top_logprobs")),
            )
            for entry in logprobs["content"]
        ]
    tokens, chosen = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = [
        [{"token": text, "logprob": logprob} for text, logprob in (top or {}).items()]
        for top in logprobs.get("top_logprobs") or [{}] * len(tokens)
    ]
    return [
        (token, logprob, _likeliest(top)) for token, logprob, top in zip(tokens, chosen, tops, strict=True)
    ]


def _likeliest(top: list[dict[str, Any]] | None) -> Likeliest:
    pairs = ((str(one["token"]), float(one["logprob"])) for one in top or [])
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
