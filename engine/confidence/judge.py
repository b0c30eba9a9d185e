"""A judge: a second model is asked whether an answer is good (LLM-as-a-judge, Zheng et al. 2023).

The score is the probability of "Yes" where the judge says "Yes" or "No": not the word that it would write,
but how sure it is of it, as in G-Eval (Liu et al. 2023).
"""

from engine.contract import Engine
from engine.options import GenerationOptions
from engine.types import Message, Request

RUBRIC = "Is the answer correct, and does it answer the last question?"
CANDIDATES = ("Yes", "No")
_TEXT = "A conversation:\n\n{said}\n\nThe answer:\n\n{answer}\n\n{rubric} Reply with Yes or No."


def question(engine: Engine, request: Request, answer: str) -> Request:
    """What a judge is asked of an answer: one message, with all that was said before it.

    Args:
        engine: that has answered.

    Raises:
        AdapterError: a plain prompt that cannot be read.
    """
    options = request.options
    if request.prompt is None:
        messages = request.messages
        if options.system_prompt and not any(message.role == "system" for message in messages):
            messages = (Message("system", (options.system_prompt,)), *messages)
        said = "\n\n".join(f"{message.role.capitalize()}: {message.text}" for message in messages)
    else:
        said = engine.prompt_text(request)
    text = _TEXT.format(said=said, answer=answer, rubric=options.judge_rubric or RUBRIC)
    return Request((Message("user", (text,)),), GenerationOptions(overflow="error"))
