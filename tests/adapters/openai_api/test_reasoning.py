"""What a model has thought comes beside its answer, as the official servers give it."""

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters.openai_api.responses import ChatStream, Head, chat_completion, streamed
from adapters.openai_api.responses_api import response
from engine.types import Answer, Chunk, Usage

HEAD = Head("m", 1, include_usage=True)
THOUGHT = Answer("Yes", (), None, None, "stop", Usage(3, 9, 0, 7), reasoning="Hm")
PLAIN = Answer("Yes", (), None, None, "stop", Usage(3, 2))


def test_a_chat_has_it_in_a_field_of_its_own_and_counts_its_tokens():
    completion = ChatCompletion.model_validate(chat_completion(HEAD, [THOUGHT]))
    message = completion.choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes", "Hm")
    assert completion.usage.completion_tokens_details.reasoning_tokens == 7
    assert response(HEAD, {}, THOUGHT)["usage"]["output_tokens_details"] == {"reasoning_tokens": 7}


def test_a_stream_has_it_in_the_last_chunk():
    chunks = [Chunk(0, "Yes"), Chunk(0, "", THOUGHT)]
    events = [ChatCompletionChunk.model_validate(one) for one in streamed(ChatStream(HEAD), chunks)]
    deltas = [event.choices[0].delta for event in events if event.choices]
    assert "".join(delta.content for delta in deltas) == "Yes"
    assert deltas[-1].reasoning_content == "Hm"


def test_without_a_thought_there_is_no_such_field():
    assert "reasoning_content" not in chat_completion(HEAD, [PLAIN])["choices"][0]["message"]
