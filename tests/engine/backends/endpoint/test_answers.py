"""Servers' odd answers: what is an answer, what is none and why, and which numbers are the answer's own."""

import json
import math

import pytest

from engine.backends.endpoint import EndpointEngine
from engine.reasoning import ReasoningSplitter
from engine.types import Answer, Usage
from tests.helpers.endpoint_engines import (
    Engines,
    engine,
    engines,
    environment,
    failure,
    plain,
    server,
    waits,
)
from tests.helpers.servers.misbehaving import Server, answering, sending, streaming
from tests.helpers.talk import ask

__all__ = ["engine", "engines", "environment", "server", "waits"]

CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def noted(*tokens: str, logprob: object = -0.5) -> dict:
    return {"content": [{"token": token, "logprob": logprob, "top_logprobs": []} for token in tokens]}


def asked(
    engine: EndpointEngine, server: Server, message: dict, finish: str | None = "stop", **more
) -> Answer:
    """The answer that a message is, by both ways; as a stream each of its fields is a piece."""
    usage = {"usage": more.pop("usage", None)}
    choice = {"message": message, "finish_reason": finish} | more
    server.will(answering({"choices": [choice]} | usage))
    [whole] = engine.generate([ask("hi", logprobs=True)])
    deltas = [{"choices": [{"delta": {key: value}}]} for key, value in message.items()]
    deltas[-1]["choices"][0] |= more
    ended = {"choices": [{"delta": {}, "finish_reason": finish}]} | usage
    server.will(streaming(*deltas, ended))
    chunks = list(engine.stream([ask("hi", logprobs=True)]))
    streamed = chunks[-1].answer
    assert "".join(chunk.text for chunk in chunks) == streamed.text
    assert (streamed.text, streamed.reasoning, str(streamed.error)) == (
        whole.text,
        whole.reasoning,
        str(whole.error),
    )
    assert (streamed.logprobs, streamed.confidence) == (whole.logprobs, whole.confidence)
    return whole


NONE = {
    "reasoning alone": (
        {"content": None, "reasoning_content": "Hm"},
        "length",
        "only reasoning: raise max_new",
    ),
    "by its other name": ({"content": None, "reasoning": "Hm"}, "length", "only reasoning"),
    "reasoning that ended": ({"content": "", "reasoning_content": "Hm"}, "stop", "only reasoning"),
    "a thought": ({"content": "<think>Hm</think>\n"}, "stop", "only reasoning"),
    "half a thought": ({"content": "<think>Hm"}, "length", "only reasoning"),
    "thinking parts": ({"content": [{"type": "thinking", "thinking": "Hm"}]}, "stop", "only reasoning"),
    "a tool's call": ({"content": None, "tool_calls": CALL}, "tool_calls", "a tool call"),
    "an old call": ({"content": None, "function_call": {"name": "f"}}, "function_call", "a tool call"),
    "a call after reasoning": ({"reasoning": "Hm", "tool_calls": CALL}, "tool_calls", "a tool call"),
    "a refusal": ({"content": None, "refusal": "private"}, "stop", "is a refusal"),
    "null, cut": ({"content": None}, "length", "ends before its first character: raise max_new_tokens"),
    "null": ({"content": None}, "stop", "is empty"),
    "nothing": ({"role": "assistant"}, "stop", "is empty"),
    "blanks": ({"content": " \n"}, "stop", "is empty"),
    "no part": ({"content": []}, "stop", "is empty"),
}


@pytest.mark.parametrize(("message", "finish", "reason"), NONE.values(), ids=NONE)
def test_what_says_nothing_is_no_answer(
    engine: EndpointEngine, server: Server, waits: list[float], message: dict, finish: str, reason: str
):
    answer = asked(engine, server, message, finish)
    assert answer == Answer.failed(answer.error)
    assert reason in str(answer.error)
    assert server.url in str(answer.error)
    assert "private" not in str(answer.error)
    assert waits == []


def test_what_a_server_has_only_counted_is_reasoning_too(engine: EndpointEngine, server: Server):
    usage = {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 9}}
    answer = asked(engine, server, {"content": ""}, "length", usage=usage)
    assert "only reasoning" in str(answer.error)


APART = {
    "reasoning_content": {"reasoning_content": "Hm", "content": "Yes"},
    "reasoning": {"reasoning": "Hm", "content": "Yes"},
    "both": {"reasoning": "Hm", "content": "Yes"} | {"reasoning_content": None},
    "tags": {"content": "<think>Hm</think>Yes"},
    "tags and lines": {"content": "\n<think>\nHm\n</think>\n\nYes"},
    "parts": {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
            {"type": "text", "text": "Ye"},
            {"type": "image_url", "image_url": {"url": "https://example.com"}},
            "s",
        ]
    },
}


@pytest.mark.parametrize("message", APART.values(), ids=APART)
def test_what_is_thought_is_apart_from_what_is_said(engine: EndpointEngine, server: Server, message: dict):
    answer = asked(engine, server, message)
    assert (answer.text, answer.reasoning, answer.error) == ("Yes", "Hm", None)


@pytest.mark.parametrize(
    "text", ["Yes", "a <think> b", "<thin", "<b>", "<", "Write `</think>` there", "<think"]
)
def test_what_is_no_thought_stays(engine: EndpointEngine, server: Server, text: str):
    answer = asked(engine, server, {"content": text})
    assert (answer.text, answer.reasoning) == (text, None)


@pytest.mark.parametrize("text", ["Hm</think>Yes", "Hm\n</think>\n\nYes", "</think>Yes"])
def test_a_thought_that_the_template_has_begun_is_apart_in_the_end(
    engine: EndpointEngine, server: Server, text: str
):
    thought = "Hm" if "Hm" in text else None
    pieces = [{"choices": [{"delta": {"content": letter}}]} for letter in text]
    ended = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    server.will(streaming(*pieces, ended))
    first = list(engine.stream([ask("hi")]))
    assert "".join(chunk.text for chunk in first) == text  # Nobody knew before it was given.
    assert (first[-1].answer.text, first[-1].answer.reasoning) == ("Yes", thought)
    server.will(answering({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
    [whole] = engine.generate([ask("hi")])
    assert (whole.text, whole.reasoning) == ("Yes", thought)
    server.will(streaming(*pieces, ended))
    chunks = list(engine.stream([ask("hi")]))
    assert "".join(chunk.text for chunk in chunks) == "Yes"
    assert (chunks[-1].answer.text, chunks[-1].answer.reasoning) == ("Yes", thought)
    # Known from now on: what is cut off before its end is no answer, what has none and ends is one.
    server.will(streaming({"choices": [{"delta": {"content": "Hm"}, "finish_reason": "length"}]}))
    assert "only reasoning" in str(list(engine.stream([ask("hi")]))[-1].answer.error)
    server.will(streaming({"choices": [{"delta": {"content": "No"}, "finish_reason": "stop"}]}))
    assert [(one.text, one.answer.text) for one in engine.stream([ask("hi")])] == [("No", "No")]
    other = ask("hi", chat_template_kwargs={"enable_thinking": False})
    server.will(streaming({"choices": [{"delta": {"content": "No,"}, "finish_reason": "length"}]}))
    assert list(engine.stream([other]))[-1].answer.text == "No,"


def test_a_thought_that_the_template_has_begun_alone_is_no_answer(engine: EndpointEngine, server: Server):
    server.will(answering({"choices": [{"message": {"content": "Hm</think>\n"}, "finish_reason": "stop"}]}))
    assert "only reasoning" in failure(engine, ask("hi"))


@pytest.mark.parametrize(
    "text", [" <think>a<b</thin></think> c</think>d", "<think>ab", "<thi", " x", "<think></think>"]
)
def test_a_thought_ends_alike_however_it_is_cut(text: str):
    def parted(pieces: list[str]) -> tuple[str, str | None]:
        thoughts = ReasoningSplitter()
        said = "".join(map(thoughts.part, pieces))
        return said + thoughts.rest(), thoughts.text

    assert {parted([text[:i], text[i:j], text[j:]]) for j in range(len(text) + 1) for i in range(j + 1)} == {
        parted(list(text))
    }


def test_a_plain_prompts_text_is_what_it_is(engine: EndpointEngine, server: Server):
    server.will(answering({"choices": [{"text": "<think>a</think>b", "finish_reason": "stop"}]}))
    server.will(answering({"choices": [{"text": "", "finish_reason": "stop"}]}))
    assert engine.generate([plain("hi")])[0].text == "<think>a</think>b"
    [nothing] = engine.generate([plain("hi")])
    assert (nothing.text, nothing.error) == ("", None)


def test_an_answer_beside_a_refusal_or_a_call_is_one(engine: EndpointEngine, server: Server):
    answer = asked(engine, server, {"content": "Yes", "tool_calls": CALL, "refusal": ""}, "tool_calls")
    assert (answer.text, answer.finish_reason) == ("Yes", "stop")


THINKING = [
    ({"content": "<think>Hm</think>Yes, sir"}, ["<think>", "Hm", "</think>", "Yes", ", sir"]),
    ({"reasoning_content": "Hm", "content": "Yes, sir"}, ["<think>", "Hm", "</think>", "\n", "Yes", ", sir"]),
    ({"reasoning_content": "Yes, sir", "content": "Yes, sir"}, ["Yes, sir", "Yes", ", sir", "<|end|>"]),
    ({"reasoning_content": "Hm", "content": "Yes, sir"}, ["Yes", ", sir"]),
    ({"reasoning_content": "Hm", "content": "Yes, sir"}, ["Hm", " Yes", ", sir"]),
    # The server gives the thoughts nowhere, but their numbers.
    ({"content": "Yes, sir"}, ["Hm", "</think>", "\n\n", "Yes", ", sir", "<|end|>"]),
    ({"content": "Yes, sir"}, ["Hm", "Yes", ", sir"]),
]


@pytest.mark.parametrize(("message", "tokens"), THINKING)
def test_the_confidence_is_that_of_the_answer_alone(
    engine: EndpointEngine, server: Server, message: dict, tokens: list[str]
):
    entries = [
        {"token": token, "logprob": -0.5 if token.strip(" ") in ("Yes", ", sir", "<|end|>") else -3.0}
        for token in tokens
    ]
    answer = asked(engine, server, message, logprobs={"content": entries})
    assert answer.confidence == pytest.approx(math.exp(-0.5))
    assert set(answer.logprobs) == {-0.5}
    assert "".join(token.text for token in answer.tokens).removesuffix("<|end|>").strip() == "Yes, sir"


@pytest.mark.parametrize(
    "tokens", [["Hm", "Ye"], ["HmYes", ", sir"], ["token_id:1", "token_id:2"], ["Yes, sir"] + ["x"] * 5]
)
def test_where_the_answers_tokens_are_not_to_be_told_apart_it_is_unknown(
    engine: EndpointEngine, server: Server, tokens: list[str]
):
    message = {"reasoning_content": "Hm", "content": "Yes, sir"}
    answer = asked(engine, server, message, logprobs=noted(*tokens))
    assert (answer.text, answer.confidence, answer.logprobs, answer.tokens) == ("Yes, sir", None, None, None)


@pytest.mark.parametrize("logprob", [-9999.0, -9999, -math.inf, math.nan, None])
def test_a_number_that_stands_for_none_makes_no_confidence(engine: EndpointEngine, server: Server, logprob):
    answer = asked(engine, server, {"content": "Yes"}, logprobs=noted("Yes", logprob=logprob))
    assert (answer.text, answer.confidence, answer.logprobs) == ("Yes", None, None)


def test_among_the_likeliest_such_a_number_is_the_least(engine: EndpointEngine, server: Server):
    tops = [-0.5, -math.inf, -9999.0, -1.0, None, math.nan]
    entry = {"token": "a", "logprob": -0.5}
    entry["top_logprobs"] = [{"token": "a", "logprob": top} for top in tops]
    choice = {"message": {"content": "a"}, "logprobs": {"content": [entry]}, "finish_reason": "stop"}
    server.will(answering({"choices": [choice]}))
    [answer] = engine.generate([ask("hi", logprobs=True, top_logprobs=5)])
    assert [top for _, top in answer.tokens[0].top] == [-0.5, -1.0, -9999.0, -9999.0]


def test_fewer_of_the_likeliest_than_were_asked_for_make_no_mass(engine: EndpointEngine, server: Server):
    for count, confidence in ((4, None), (5, 1.0), (6, 1.0)):
        entry = {"token": "a", "logprob": math.log(0.2)}
        entry["top_logprobs"] = [{"token": "a", "logprob": math.log(0.2)}] * count  # All of one text.
        choice = {"message": {"content": "a"}, "logprobs": {"content": [entry]}, "finish_reason": "stop"}
        server.will(answering({"choices": [choice]}))
        [answer] = engine.generate([ask("hi", confidence="top_k_mass")])
        assert answer.confidence == (confidence and pytest.approx(confidence))


def test_short_lists_of_numbers_cost_no_answer(engine: EndpointEngine, server: Server):
    for short in (
        {"tokens": ["a", "b"], "token_logprobs": [-1.0]},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0, None], "top_logprobs": [{"a": -1.0}]},
        {"tokens": None, "token_logprobs": [-1.0, -1.0]},
        {"content": None, "tokens": [], "token_logprobs": []},
    ):
        server.will(answering({"choices": [{"text": "ab", "logprobs": short, "finish_reason": "stop"}]}))
        [answer] = engine.generate([plain("hi", logprobs=True, top_logprobs=1)])
        assert (answer.text, answer.confidence, answer.tokens) == ("ab", None, None)
    long = {"tokens": ["a", "b"], "token_logprobs": [-1.0] * 3, "top_logprobs": [{"a": -1.0}] * 5}
    server.will(answering({"choices": [{"text": "ab", "logprobs": long, "finish_reason": "stop"}]}))
    assert engine.generate([plain("hi")])[0].logprobs == (-1.0, -1.0)


@pytest.mark.parametrize("usage", [None, {}, [], "many", {"prompt_tokens": None, "completion_tokens": None}])
def test_usage_may_be_missing(engine: EndpointEngine, server: Server, usage):
    assert asked(engine, server, {"content": "Yes"}, usage=usage, logprobs={"content": None}).text == "Yes"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "model_length"])
def test_a_server_has_several_words_for_an_answer_that_is_cut(
    engine: EndpointEngine, server: Server, finish: str
):
    assert asked(engine, server, {"content": "Yes"}, finish).finish_reason == "length"


def test_tgi_thinks_too(engines: Engines, server: Server):
    tokens = [
        {"id": i, "text": text, "logprob": -0.5 if i > 2 else -3.0, "special": text == "</s>"}
        for i, text in enumerate(["<think>", "Hm", "</think>", "Yes", "</s>"])
    ]
    details = {"finish_reason": "eos_token", "generated_tokens": 5, "tokens": tokens, "prefill": []}
    server.will(answering({"generated_text": "<think>Hm</think>Yes", "details": details}))
    pieces = [{"token": token, "generated_text": None, "details": None} for token in tokens]
    pieces[-1] |= {"generated_text": "<think>Hm</think>Yes", "details": details}
    server.will(streaming(*json.loads(json.dumps(pieces))))
    engine, request = engines(api="tgi"), ask("hi", chat_template="plain", logprobs=True)
    [whole] = engine.generate([request])
    *chunks, last = engine.stream([request])
    for answer in (whole, last.answer):
        assert (answer.text, answer.reasoning, answer.token_ids) == ("Yes", "Hm", (3, 4))
        assert answer.confidence == pytest.approx(math.exp(-0.5))
    assert "".join(chunk.text for chunk in chunks) == "Yes"
    assert "only reasoning" in failure_of_tgi(engine, server, request)


def failure_of_tgi(engine: EndpointEngine, server: Server, request) -> str:
    details = {"finish_reason": "length", "generated_tokens": 1, "tokens": [], "prefill": []}
    server.will(answering({"generated_text": "<think>Hm", "details": details}))
    return failure(engine, request)


def test_of_several_choices_the_first_is_the_answer(engine: EndpointEngine, server: Server):
    pieces = [(1, "X"), (0, "Yes"), (1, "Y")]
    chunks = [{"choices": [{"index": i, "delta": {"content": text}}]} for i, text in pieces]
    ends = [{"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in (1, 0)]
    server.will(streaming(*chunks, *ends))
    assert list(engine.stream([ask("hi")]))[-1].answer.text == "Yes"
    choices = [{"index": i, "message": {"content": t}, "finish_reason": "stop"} for i, t in pieces[:2]]
    server.will(answering({"choices": choices}))
    assert engine.generate([ask("hi")])[0].text == "Yes"


def test_a_last_piece_may_have_no_choices_but_the_usage(engine: EndpointEngine, server: Server):
    end = {"choices": [{"delta": {"content": "Yes"}, "finish_reason": "stop"}]}
    server.will(streaming(end, {"choices": None, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}))
    answer = list(engine.stream([ask("hi")]))[-1].answer
    assert (answer.text, answer.usage) == ("Yes", Usage(3, 1))


def test_halves_of_a_character_in_two_pieces_are_one(engine: EndpointEngine, server: Server):
    texts = ["a\ud83e", "\udd9c b", "\ud83e c", "\ud83e"]
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    # Written as escapes: no UTF-8 has halves.
    server.will(sending(*[f"data: {json.dumps(one)}\n\n".encode() for one in (*chunks, end)]))
    given = list(engine.stream([ask("hi")]))
    assert given[-1].answer.text == "".join(chunk.text for chunk in given) == "a🦜 b\ufffd c\ufffd"
