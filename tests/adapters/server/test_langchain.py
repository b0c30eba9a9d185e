"""LangChain's client of OpenAI talks to the server: messages in, messages with their facts out."""

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.helpers.servers.ours import Ours

QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."


@pytest.fixture
def chat(talk: Ours) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{talk.url}/v1", api_key="any", model="tiny_talk", temperature=0, max_retries=0, timeout=30
    )


def test_an_answer_has_its_facts(chat: ChatOpenAI):
    message = chat.bind(logprobs=True).invoke(
        [("system", "You are a helpful assistant."), ("human", QUESTION)]
    )
    assert message.content == PARIS
    assert message.response_metadata["finish_reason"] == "stop"
    tokens = [token["token"] for token in message.response_metadata["logprobs"]["content"]]
    assert "".join(tokens) == PARIS
    assert message.usage_metadata["output_tokens"] == len(tokens) + 1  # The end token.


def test_a_stream_is_the_answer_in_pieces(chat: ChatOpenAI):
    pieces = [piece.content for piece in chat.stream(QUESTION)]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == PARIS


def test_a_batch_is_answered_in_order(chat: ChatOpenAI):
    places = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome"}
    messages = chat.batch([f"What is the capital of {place}?" for place in places])
    assert [message.content for message in messages] == [
        f"The capital of {place} is {city}." for place, city in places.items()
    ]


def test_its_embeddings_are_the_servers(talk: Ours):
    # Texts as they are: else LangChain fetches a tokenizer of OpenAI's to cut them.
    client = OpenAIEmbeddings(
        base_url=f"{talk.url}/v1", api_key="any", model="tiny_talk", check_embedding_ctx_length=False
    )
    one, other = client.embed_documents(["one", "other"])
    assert len(one) == len(other) > 0
    assert client.embed_query("one") == pytest.approx(one, abs=1e-5)
