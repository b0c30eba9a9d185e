"""The types that flow: Dialogue → Request → token ids → Answer."""

from dataclasses import dataclass
from typing import Literal, get_args

from engine.errors import AdapterError
from engine.options import GenerationOptions

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
# The names of roles in OpenAI's API and in traces.
OPENAI_ROLES: dict[str, Role] = {role: role for role in ROLES} | {"developer": "system"}
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a message, by the address it was given with: not fetched yet."""

    url: str


Part = str | Image


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; its parts are text (str) and images, in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, a line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages that wait for one answer; `key` is the prompt key the answer belongs to.

    Usually one user message; more when messages that ask nothing (a system message, say) come first.
    """

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation: what was said, and the turns that are still to be answered, in order.

    `key` names it to the user: the prompt key of a questions dialogue, the first open key of a
    messages dialogue.
    """

    key: str
    history: tuple[Message, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation whose last message is to be answered, and how.

    Attributes:
        prompt: a text or token ids to go on with, as they are, instead of messages.
    """

    messages: tuple[Message, ...]
    options: GenerationOptions
    prompt: str | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `prompt_tokens` is what the model read after any turns were dropped."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token as text, for people and for other programs.

    Attributes:
        text: what it adds to the text; "" for a special token and for the first bytes of a character.
        logprob: natural logarithm of the probability that the model gave to it.
        top: the likeliest tokens at its place, (text, log-probability), the likeliest first.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What every engine returns for a request.

    Attributes:
        text: the answer, without special tokens and cut before a stop string.
        token_ids: the generated tokens, the end-of-sequence token included.
        logprobs: natural logarithms of the probabilities that the model itself gave to `token_ids`
            (before temperature and filters), one each; None where the engine cannot know them.
        confidence: in [0, 1] by the method of `GenerationOptions.confidence`; None where unknown.
        finish_reason: "stop" (the model ended it, or a stop string), "length", or "error".
        usage: token counts.
        error: why there is no answer, with `finish_reason` "error"; else None.
        top_logprobs: for each of `token_ids` the likeliest tokens there, (token id, log-probability), the
            likeliest first; as many as the options ask for. Empty where they ask for none.
        tokens: the tokens as text, where the options ask for `logprobs` and the engine knows them.
        reasoning: what a server's model has thought before it answered; no part of `text`, nor are its tokens
            of the other fields but `usage`. None where there is none.
    """

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

    @classmethod
    def failed(cls, error: AdapterError) -> "Answer":
        """The answer of a request that has none."""
        return cls("", (), None, None, "error", Usage(0, 0), error)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer while it grows.

    Attributes:
        index: the request it belongs to, by its place among those asked first.
        text: what the answer's text has grown by.
        answer: the whole answer, with its last piece; else None.
    """

    index: int
    text: str
    answer: Answer | None = None
