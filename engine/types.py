"""The types that flow: Dialogue → Request → token ids → Answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pydantic import ConfigDict

from engine.confidence.evidence import Evidence
from engine.errors import AdapterError, ConfigurationError
from engine.options import GenerationOptions

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
# The names of roles in OpenAI's API and in traces.
OPENAI_ROLES: dict[str, Role] = {role: role for role in ROLES} | {"developer": "system"}
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a message, by its URL; it is not fetched yet."""

    url: str


Part = str | Image


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation: texts and images, in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages to be answered together; `key` is the prompt key of the answer.

    Usually one user message; other messages (a system message, say) may come before it.
    """

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation: its messages so far, and its open turns, in order.

    `key` names it to the user: the prompt key of a questions dialogue, the first open key of a
    messages dialogue.
    """

    key: str
    history: tuple[Message, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation whose last message is to be answered, with options.

    Attributes:
        prompt: a text or token ids to continue as they are, instead of messages.
        suffix: a text that follows the answer to a prompt that is a text: the answer fills the gap between.
        cancelled: callback that tells whether nobody waits for the answer any more; asked at each step. The
            request then ends with an error and leaves the batch. None: it always runs to its end.
    """

    messages: tuple[Message, ...]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    prompt: str | tuple[int, ...] | None = None
    suffix: str | None = None
    cancelled: Callable[[], bool] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            ConfigurationError: they are something else.
        """
        if not isinstance(self.options, GenerationOptions):
            raise ConfigurationError(
                f"the options of a request are a {type(self.options).__name__}: give GenerationOptions(...)"
            )

    @property
    def asked(self) -> tuple[Any, ...]:
        """All but the options that tells whether another request is equal."""
        return tuple(getattr(self, one.name) for one in fields(self) if one.compare and one.name != "options")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; turns that were dropped are not in `prompt_tokens`.

    Attributes:
        cached_tokens: those of `prompt_tokens` whose keys and values were in the KV cache already.
        reasoning_tokens: those of `completion_tokens` that are reasoning; 0 where a server does not tell.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    reasoning_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text, with its log-probability.

    Attributes:
        text: what it adds to the text; "" for a special token and for an incomplete character.
        logprob: natural logarithm of the probability that the model gave to it.
        top: the likeliest tokens at its position, (text, log-probability), the likeliest first.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        text: the answer, without reasoning and special tokens, and cut before a stop string.
        token_ids: the tokens of the answer, the end-of-sequence token included; those of its reasoning are
            in `usage` only.
        logprobs: natural logarithms of the probabilities that the model itself gave to `token_ids`
            (before temperature and filters), one each; None if unknown.
        confidence: in [0, 1] by the method of `GenerationOptions.confidence`; None if unknown.
        finish_reason: "stop" (an end token or a stop string), "length", or "error".
        usage: token counts.
        error: why there is no answer, if `finish_reason` is "error"; else None.
        top_logprobs: for each of `token_ids` the likeliest tokens at its position, (token id,
            log-probability), the likeliest first; as many as `GenerationOptions.top_logprobs`.
        tokens: the tokens as text, if `GenerationOptions.logprobs` is set and they are known; else None.
        reasoning: what the model has thought before the answer; None if there is none.
        confidences: by each of `GenerationOptions.confidence_methods`, in [0, 1]; None if unknown.
        labels: the probability of each of `GenerationOptions.labels`; `text` is the most likely one. Empty
            if there were no labels to choose from.
        evidence: what the confidences were computed from; None if nothing was recorded. Comparisons of
            answers ignore it.
        seconds: from when the engine took the request to its whole answer, waiting for room included; None if
            it was not measured. Comparisons ignore it.
        others: the other answers to the same request, the surest first, where `GenerationOptions.n` is above
            1; this one is the surest of all.
    """

    # For the cache on disk: an error is no pydantic type, and a log-probability may be -inf.
    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, ser_json_inf_nan="constants")

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    confidence: float | None
    finish_reason: FinishReason
    usage: Usage
    error: AdapterError | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    tokens: tuple[Token, ...] | None = None
    reasoning: str | None = None
    confidences: Mapping[str, float | None] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    seconds: float | None = field(default=None, compare=False)
    others: tuple["Answer", ...] = ()

    @classmethod
    def failed(cls, error: AdapterError) -> "Answer":
        """The answer of a request that failed."""
        return cls("", (), None, None, "error", Usage(0, 0), error)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer while it is generated.

    Attributes:
        index: the index of its request; a request that `follow` returned has the index of the one before it.
        text: the delta: the text that is new.
        answer: the whole answer, in its last chunk; else None.
    """

    index: int
    text: str
    answer: Answer | None = None
