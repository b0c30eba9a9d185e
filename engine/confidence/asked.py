"""P(True): the model is asked whether its own answer is right (Kadavath et al. 2022).

The wording is lm-polygraph's. Its `PTrue` takes the probability of "True" among all tokens; here it is the
probability of "True" where the model says "True" or "False", so that other words do not lower it.
"""

from engine.contract import Engine
from engine.types import Message, Request

_TEXT = (
    "Question: {question}\n Possible answer:{answer}\n "
    "Is the possible answer:\n (A) True\n (B) False\n The possible answer is:"
)
# What is scored: after a conversation, and after a plain text.
CANDIDATES = (("True", "False"), (" True", " False"))


def question(engine: Engine, request: Request, answer: str) -> Request | str:
    """The question whether an answer is right; of a conversation, after the messages before its question."""
    if request.prompt is None:
        *before, last = request.messages
        text = _TEXT.format(question=last.text, answer=answer)
        return Request((*before, Message("user", (text,))), request.options)
    return _TEXT.format(question=engine.prompt_text(request), answer=answer)
