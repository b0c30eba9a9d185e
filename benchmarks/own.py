"""How this repository's engines answer the conversations of the other contenders."""

from unittest.mock import patch

from benchmarks.workload import Answers, Conversation
from engine.contract import Engine
from engine.generation import continuous
from engine.options import GenerationOptions
from engine.types import Answer, Message, Request


def ours(engine: Engine, conversations: list[Conversation]) -> Answers:
    """The engine: a conversation's next turn is asked as soon as it has the answer before it."""
    answers: Answers = [[] for _ in conversations]
    histories = [(conversation[0].message,) for conversation in conversations]

    def request(i: int) -> Request:
        length = conversations[i][len(answers[i])].length
        return Request(histories[i], GenerationOptions(max_new_tokens=length))

    def follow(i: int, answer: Answer) -> Request | None:
        assert answer.error is None, answer.error
        assert answer.logprobs is not None
        answers[i].append(list(answer.token_ids))
        if len(answers[i]) == len(conversations[i]):
            return None
        histories[i] += (Message("assistant", (answer.text,)), conversations[i][len(answers[i])].message)
        return request(i)

    # Random weights repeat themselves: drafts would be accepted as no text's are.
    with patch.object(continuous, "MOST_DRAFTING", 0):
        engine.generate([request(i) for i in range(len(conversations))], follow)
    return answers
