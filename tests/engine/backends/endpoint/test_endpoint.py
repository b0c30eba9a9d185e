"""The endpoint engine's promises, over real HTTP: what is sent, and what becomes of the answer."""

import logging
import math
import threading

import numpy as np
import pytest

from engine.backends.endpoint import EndpointEngine
from engine.configuration import split
from engine.conversation import converse
from engine.errors import ConfigurationError, GenerationError, PromptError, Unsupported
from engine.options import EmbeddingOptions, GenerationOptions
from engine.prompting import sandbox
from engine.types import Answer, Image, Message, Request, Token, Usage
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
from tests.helpers.servers import misbehaving
from tests.helpers.servers.misbehaving import LOGPROB, Server, answering, held, refusing, streaming, together
from tests.helpers.talk import ask, dialogue, said

__all__ = ["engine", "engines", "environment", "server", "waits"]


def streamed(engine: EndpointEngine, request: Request) -> tuple[list[str], Answer]:
    """The pieces of an answer, and the answer."""
    chunks = list(engine.stream([request]))
    return [chunk.text for chunk in chunks], chunks[-1].answer


def test_answers_come_in_the_order_of_their_requests(engine: EndpointEngine):
    answers = engine.generate([ask(f"word {i}") for i in range(40)])
    assert [answer.text for answer in answers] == [f"WORD {i}" for i in range(40)]
    assert answers[0] == Answer(
        text="WORD 0",
        token_ids=(),
        logprobs=(LOGPROB, LOGPROB),
        confidence=math.exp(LOGPROB),
        finish_reason="stop",
        usage=Usage(7, 2),
    )


def test_nothing_is_asked_for_nothing(engine: EndpointEngine, server: Server):
    assert engine.generate([]) == list(engine.stream([])) == []
    assert server.asked == []


def test_so_many_are_asked_at_a_time(engines: Engines, server: Server):
    server.will(*[together(3)] * 9)
    # Each waits for two others: fewer at a time would never be answered.
    answers = engines(max_concurrent=3).generate([ask(f"a {i}") for i in range(9)])
    assert [answer.text for answer in answers] == [f"A {i}" for i in range(9)]
    assert server.peak == 3


def test_what_follows_is_asked_while_others_wait(engines: Engines, server: Server):
    server.will(held)
    told = []

    def follow(i: int, answer: Answer) -> Request | None:
        told.append((i, answer.text))
        if (i, answer.text) == (1, "TWO"):
            server.go()
        return ask("two") if answer.text == "ONE" else None

    answers = engines(max_concurrent=2).generate([ask("zero"), ask("one"), ask("three")], follow)
    assert [answer.text for answer in answers] == ["ZERO", "ONE", "THREE"]
    assert sorted(told) == [(0, "ZERO"), (1, "ONE"), (1, "TWO"), (2, "THREE")]
    assert told.index((1, "TWO")) < told.index((0, "ZERO"))


def test_several_threads_share_the_places(engines: Engines, server: Server):
    engine = engines(max_concurrent=4)
    results: dict[int, list[Answer]] = {}

    def run(n: int) -> None:
        results[n] = engine.generate([ask(f"t{n} r{i}") for i in range(10)])

    threads = [threading.Thread(target=run, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, answers in results.items():
        assert [answer.text for answer in answers] == [f"T{n} R{i}" for i in range(10)]
    assert len(results) == 4
    assert server.peak <= 4


def test_a_stream_is_there_before_the_answer_is_whole(engine: EndpointEngine, server: Server):
    server.will(held)
    stream = engine.stream([ask("one two three")])
    assert next(stream).text == "ONE"
    server.go()
    rest = list(stream)
    assert [chunk.text for chunk in rest] == [" TWO", " THREE", ""]
    assert rest[-1].answer.text == "ONE TWO THREE"
    assert rest[-1].answer.logprobs == (LOGPROB,) * 3


def test_streamed_and_whole_answers_are_the_same(engine: EndpointEngine):
    request = ask("a b  c", logprobs=True, top_logprobs=2, confidence="top_k_mass")
    [whole] = engine.generate([request])
    pieces, answer = streamed(engine, request)
    assert answer == whole
    assert "".join(pieces) == whole.text
    assert whole.usage == Usage(7, 4)


def test_a_stream_that_is_left_ends_its_request(engine: EndpointEngine, server: Server):
    server.will(held)
    stream = engine.stream([ask("one two")])
    next(stream)
    stream.close()
    assert server.left.wait(20)


def test_tokens_and_the_likeliest_are_there_where_they_are_asked_for(engine: EndpointEngine):
    top = (("HI", LOGPROB), ("?", 2 * LOGPROB))
    [with_top, without, bare] = engine.generate(
        [ask("hi", logprobs=True, top_logprobs=2), ask("hi", logprobs=True), ask("hi")]
    )
    assert with_top.tokens == (Token("HI", LOGPROB, top),)
    assert without.tokens == (Token("HI", LOGPROB),)
    assert bare.tokens is None


def test_a_confidence_of_the_first_tokens(engine: EndpointEngine):
    [answer] = engine.generate([ask("hi", confidence="top_k_mass")])
    assert answer.confidence == pytest.approx(min(1, math.exp(LOGPROB) + math.exp(2 * LOGPROB)))


def test_no_number_is_made_up(engine: EndpointEngine, server: Server):
    choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
    empty, null, none_first = (
        {"content": content}
        for content in ([], [{"token": "yes", "logprob": None}], [{"token": "yes", "logprob": -1.0}])
    )
    server.logprobs = False
    assert engine.generate([ask("hi")])[0].confidence is None
    for logprobs in (empty, null):
        server.will(answering({"choices": [choice | {"logprobs": logprobs}]}))
        [answer] = engine.generate([ask("hi")])
        assert (answer.text, answer.logprobs, answer.confidence) == ("yes", None, None)
    server.will(answering({"choices": [choice | {"logprobs": none_first}]}))
    [answer] = engine.generate([ask("hi", confidence="top_k_mass")])
    assert (answer.logprobs, answer.confidence) == ((-1.0,), None)


def test_a_character_of_several_tokens_is_one_text(engine: EndpointEngine, server: Server):
    entries = [{"token": "\\x", "bytes": [byte], "logprob": -0.5} for byte in "é".encode()]
    choice = {"message": {"content": "é"}, "logprobs": {"content": entries}, "finish_reason": "stop"}
    server.will(answering({"choices": [choice]}))
    [answer] = engine.generate([ask("hi", logprobs=True)])
    assert [token.text for token in answer.tokens] == ["", "é"]


def test_a_line_separator_within_a_text_is_no_end_of_a_line(engine: EndpointEngine, server: Server):
    server.will(streaming({"choices": [{"delta": {"content": "a\u2028b\x85c"}, "finish_reason": "stop"}]}))
    assert streamed(engine, ask("hi"))[1].text == "a\u2028b\x85c"


def test_what_comes_after_a_stop_string_is_cut_off_in_a_stream_too(engine: EndpointEngine):
    request = ask("one two three", stop=["O TH"])
    [answer] = engine.generate([request])
    assert (answer.text, answer.finish_reason) == ("ONE TW", "stop")
    pieces, cut = streamed(engine, request)
    assert cut.text == "".join(pieces) == "ONE TW"
    # What might have become a stop string is given in the end.
    pieces, whole = streamed(engine, ask("one two three", stop=["O TX", "EEE"]))
    assert whole.text == "".join(pieces) == "ONE TWO THREE"


def test_options_are_sent_by_the_servers_names(engine: EndpointEngine, server: Server):
    engine.generate(
        [
            ask("hi", max_new_tokens=9, stop=["a", "b"], seed=3, frequency_penalty=0.5, presence_penalty=1),
            ask("hi", temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2),
            ask("hi", do_sample=False, temperature=0.7, top_k=5, top_logprobs=4),
            ask("hi", do_sample=True),
            ask("hi", logit_bias={50256: -100}),
        ]
    )
    bodies = sorted((request.body for request in server.asked), key=lambda body: sorted(body))
    common = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "logprobs": True,
        "stream": False,
    }
    plain = common | {"max_tokens": 256, "top_logprobs": 0}
    expected = [
        plain
        | {"max_tokens": 9, "temperature": 0, "stop": ["a", "b"], "seed": 3}
        | {"frequency_penalty": 0.5, "presence_penalty": 1},
        plain | {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
        plain | {"temperature": 0, "top_logprobs": 4},
        plain,
        plain | {"temperature": 0, "logit_bias": {"50256": -100}},
    ]
    assert len(bodies) == 5
    for body in expected:
        assert body in bodies


@pytest.mark.parametrize(
    "option", [{"min_new_tokens": 2}, {"no_repeat_ngram_size": 2}, {"eos_token_id": 7}], ids=str
)
def test_an_option_that_no_server_has_is_refused(engines: Engines, server: Server, option: dict):
    for api, request in (("openai", ask("hi", **option)), ("tgi", plain("hi", **option))):
        assert f"have no {next(iter(option))}: leave it out, or load the model here" in failure(
            engines(api=api), request
        )
    assert server.asked == []


def test_a_system_prompt_goes_before_conversations_that_have_none(engine: EndpointEngine, server: Server):
    own = Request(said("hi", system="mine"), GenerationOptions(system_prompt="given"))
    engine.generate([ask("hi", system_prompt="given")])
    engine.generate([own])
    firsts = [request.body["messages"][0] for request in server.asked]
    assert firsts == [{"role": "system", "content": "given"}, {"role": "system", "content": "mine"}]


CAT, DOG = "https://example.com/cat.png", "data:image/png;base64,AAAA"


def test_images_are_passed_on_in_their_places(engine: EndpointEngine, server: Server):
    said = (
        Message("user", ("look", Image(CAT), "and \ud800")),
        Message("user", (Image(DOG),)),
        Message("assistant", ("a cat",)),
        Message("user", ("sure?",)),
    )
    images = (
        Request(said[:2], GenerationOptions(system_prompt="Be brief.")),
        Request(said, GenerationOptions()),
    )
    answers = engine.generate(images)
    assert [answer.text for answer in answers] == ["LOOK\nIMAGE_URL\nAND ?\nIMAGE_URL", "SURE?"]
    alone, whole = sorted((asked.body["messages"] for asked in server.asked), key=len)
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": CAT}},
        {"type": "text", "text": "and ?"},
        {"type": "image_url", "image_url": {"url": DOG}},
    ]
    assert alone == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert whole[1:] == [{"role": "assistant", "content": "a cat"}, {"role": "user", "content": "sure?"}]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/cat.png",
        "file:///etc/passwd",
        "cat.png",
        "data:text/html,x",
        "https://10.0.0.1/cat.png",
        "https://[::1]/cat.png",
        "https://0x7f.1/cat.png",
        "https://localhost/cat.png",
        "https://metadata.google.internal/cat.png",
        "https://me:secret@example.com/cat.png",
        "https://[/cat.png",
    ],
)
def test_an_image_that_is_no_link_by_https_and_no_bytes_is_not_sent(
    engine: EndpointEngine, server: Server, url: str
):
    request = Request((Message("user", ("look", Image(url))),), GenerationOptions())
    assert "an image is neither a link by https" in failure(engine, request)
    assert server.asked == []


def test_a_chat_template_has_no_place_for_images(engine: EndpointEngine):
    request = Request((Message("user", ("look", Image(CAT))),), GenerationOptions(chat_template="plain"))
    assert "this one has images: leave it out" in failure(engine, request)


def test_the_form_of_an_answer_and_a_suffix_are_passed_on(engine: EndpointEngine, server: Server):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    engine.generate([ask("hi", response_format=form), ask("hi", response_format={"type": "text"})])
    engine.generate([Request((), GenerationOptions(response_format=form), "def f(", suffix=" return 1")])
    bodies = [asked.body for asked in server.asked]
    assert sorted("response_format" in body for body in bodies) == [False, True, True]
    assert all(body.get("response_format", form) == form for body in bodies)
    assert (bodies[-1]["prompt"], bodies[-1]["suffix"]) == ("def f(", " return 1")


def test_tgis_own_routes_have_neither(engines: Engines):
    tgi = engines(api="tgi")
    assert "no response_format" in failure(tgi, plain("a", response_format={"type": "json_object"}))
    assert "no suffix" in failure(tgi, Request((), GenerationOptions(), "a", suffix="b"))


def test_what_asks_nothing_is_not_sent(engine: EndpointEngine, server: Server):
    [empty, good] = engine.generate([Request((), GenerationOptions()), ask("hi \ud800")])
    assert isinstance(empty.error, PromptError)
    assert good.text == "HI ?"
    assert len(server.asked) == 1


@pytest.mark.parametrize("api", ["auto", "openai"])
def test_a_plain_prompt_goes_to_completions(engines: Engines, server: Server, api: str):
    engine = engines(api=api)
    [answer, ids] = engine.generate([plain(" a b", logprobs=True), plain((3, 4))])
    assert (answer.text, answer.finish_reason, answer.usage) == (" A B", "length", Usage(3, 9))
    assert answer.tokens == (Token("", LOGPROB), Token(" A", LOGPROB), Token(" B", LOGPROB))
    assert answer.confidence == pytest.approx(math.exp(LOGPROB))
    assert ids.text == "7"
    pieces, streamed_answer = streamed(engine, plain(" a b", top_logprobs=1, logprobs=True))
    assert pieces == [" A", " B", ""]
    assert streamed_answer.tokens[1] == Token(" A", LOGPROB, ((" A", LOGPROB),))
    assert {request.path for request in server.asked} == {"/v1/completions"}


@pytest.mark.parametrize("api", ["auto", "tgi"])
def test_a_plain_prompt_goes_to_tgis_own_routes(engines: Engines, server: Server, api: str):
    del server.routes["/v1/completions"]
    engine = engines(api=api)
    request = plain("a b", logprobs=True, top_logprobs=1, temperature=0.5, top_p=1.0, top_k=4, stop="B")
    [answer] = engine.generate([request])
    assert answer == Answer(
        text="A ",
        token_ids=(0, 1, 99),
        logprobs=(LOGPROB,) * 3,
        confidence=pytest.approx(math.exp(LOGPROB)),
        finish_reason="stop",
        usage=Usage(0, 3),
        top_logprobs=tuple(((i, LOGPROB),) for i in (0, 1, 99)),
        tokens=tuple(
            Token(text, LOGPROB, ((top, LOGPROB),)) for text, top in [("A", "A"), (" B", " B"), ("", "</s>")]
        ),
    )
    sent = server.asked[-1].body["parameters"]
    assert sent["do_sample"] is True
    assert (sent["temperature"], sent["top_k"], sent["stop"]) == (0.5, 4, ["B"])
    assert not {"top_p", "presence_penalty", "min_p"} & sent.keys()
    pieces, whole = streamed(engine, plain("a b"))
    assert (pieces, whole.text, whole.finish_reason) == (["A", " B", ""], "A B", "length")
    assert [request.path for request in server.asked][-2:] == ["/generate", "/generate_stream"]


def test_what_tgi_has_not_is_said(engines: Engines):
    engine = engines(api="tgi")
    [min_p, ids] = engine.generate([plain("a", min_p=0.1), plain((1, 2))])
    assert isinstance(min_p.error, ConfigurationError)
    assert "min_p" in str(min_p.error)
    assert isinstance(ids.error, Unsupported)


def test_a_chat_template_writes_the_conversation_here(engine: EndpointEngine, server: Server):
    [answer] = engine.generate([ask("hi", "yes", "so?", chat_template="plain", system_prompt="Be brief")])
    assert answer.text == "BE BRIEF\nUSER: HI\nASSISTANT: YES\nUSER: SO?\nASSISTANT:"
    assert server.asked[-1].path == "/v1/completions"
    assert server.asked[-1].body["stop"] == ["\nUser:"]
    assert "end token" in failure(engine, ask("hi", chat_template="dialogpt"))
    assert "chat_template" in failure(engine, ask("hi", chat_template="{% if %}"))


def test_a_chat_template_without_an_end_is_stopped(engine: EndpointEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox, "TIME_LIMIT", 0.05)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert "set chat_template to another" in failure(engine, ask("hi", chat_template=endless))
    assert "ZeroDivisionError" in failure(engine, ask("private", chat_template="{{ 1 // 0 }}"))


@pytest.mark.parametrize("api", ["auto", "tgi"])
def test_texts_become_vectors(engines: Engines, server: Server, api: str):
    if api == "tgi":
        del server.routes["/v1/embeddings"]
    texts = ["x" * i for i in range(100)]
    engine = engines(api=api)
    vectors = engine.embed(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [misbehaving.vector(text) for text in texts])
    options = EmbeddingOptions(normalize=True, query_prefix="q: ")
    [row] = engine.embed(["abc"], options, kind="query")
    expected = np.array(misbehaving.vector("q: abc"))
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=1e-6)
    assert engine.embed([]).shape == (0, 0)


def test_what_a_server_cannot_embed_is_said(engine: EndpointEngine, server: Server):
    with pytest.raises(ConfigurationError, match="pooling"):
        engine.embed(["a"], EmbeddingOptions(pooling="cls"))
    with pytest.raises(ConfigurationError, match="'passage'"):
        engine.embed(["a"], kind="passage")
    with pytest.raises(PromptError, match="list of texts"):
        engine.embed("a")
    server.will(answering({"data": []}))
    with pytest.raises(GenerationError, match="embedding model"):
        engine.embed(["a"])
    server.will(refusing(400, "no"))
    with pytest.raises(GenerationError, match="status 400"):
        engine.embed(["a"])


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("score", (["a"], [["b"]])),
        ("next_logits", (["a"],)),
        ("token_ids", (["a"],)),
        ("hidden_states", (["a"],)),
        ("prompt_tokens", (plain("a"),)),
        ("save", ("folder",)),
    ],
)
def test_what_needs_the_model_itself_is_named(engine: EndpointEngine, what: str, arguments: tuple):
    with pytest.raises(Unsupported, match=f"^{what}.* needs .* set backend to local"):
        getattr(engine, what)(*arguments)


def test_token_ids_are_not_embedded_by_a_server(engine: EndpointEngine):
    with pytest.raises(Unsupported, match="no token ids: give the texts"):
        engine.embed([[1, 2]])


def test_a_plain_prompt_has_its_text_where_it_is_a_text(engine: EndpointEngine):
    assert engine.prompt_text(plain("a")) == "a"
    with pytest.raises(Unsupported, match=r"token ids needs .* set backend to local"):
        engine.prompt_text(plain((1, 2)))


@pytest.mark.parametrize(
    ("said", "field"), [("logprobs not supported", "logprobs"), ("stream_options?", "stream_options")]
)
def test_an_extra_that_is_refused_is_left_out_from_then_on(
    engine: EndpointEngine, server: Server, caplog: pytest.LogCaptureFixture, said: str, field: str
):
    server.will(refusing(422, {"detail": [{"loc": ["body", said], "msg": "Extra"}]}))
    _, first = streamed(engine, ask("hi"))
    _, second = streamed(engine, ask("hi"))
    assert (first.text, second.text) == ("HI", "HI")
    assert [field in request.body for request in server.asked] == [True, False, False]
    assert (first.confidence is None) == (field == "logprobs")
    assert ("confidence is unknown" in caplog.text) == (field == "logprobs")


def test_logs_have_no_prompt_and_no_token(
    engine: EndpointEngine, server: Server, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO):
        server.will(refusing(422, {"detail": [{"loc": ["x"], "msg": "wrong", "input": "a private matter"}]}))
        [answer] = engine.generate([ask("a private matter")])
        engine.generate([ask("another private matter")])
    assert "status 422, x" in str(answer.error)
    assert "private" not in str(answer.error)
    assert "private" not in caplog.text
    assert "hf_secret" not in caplog.text


def test_requests_may_come_one_by_one_while_others_are_answered(engine):
    """As the platform's flow hands them over: what follows is known before a turn's last chunk is out."""
    dialogues = [dialogue("a", "one", "two"), None, dialogue("b", "three")]
    answered = converse(engine, iter(dialogues), GenerationOptions())
    assert {dialogue.key: [answer.text for answer in answers] for dialogue, answers in answered} == {
        "a": ["ONE", "TWO"],
        "b": ["THREE"],
    }


def test_what_only_the_server_knows_is_passed_on(engines: Engines, server: Server):
    engine = engines(extra_body={"guided_choice": ["a", "b"]})
    engine.generate([ask("hi", chat_template_kwargs={"enable_thinking": False}), plain("hi")])
    chat, text = sorted((request.body for request in server.asked), key=lambda body: "prompt" in body)
    assert (chat["guided_choice"], text["guided_choice"]) == (["a", "b"], ["a", "b"])
    assert chat["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in text


def test_what_is_an_option_is_no_further_parameter():
    with pytest.raises(ConfigurationError, match="'extra_body': max_tokens, messages cannot be given here"):
        split({"backend": "endpoint", "extra_body": {"messages": [], "max_tokens": 3}})


def test_tgis_own_routes_take_no_further_parameters(engines: Engines, server: Server):
    assert "take no extra_body" in failure(engines(api="tgi", extra_body={"a": 1}), plain("hi"))


def test_a_template_that_is_rendered_here_has_its_variables(engine: EndpointEngine, server: Server):
    template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}{% if think %}<think>{% endif %}"
    )
    for think in (True, False):
        engine.generate([ask("hi", chat_template=template, chat_template_kwargs={"think": think})])
    assert [request.body["prompt"] for request in server.asked] == ["hi<think>", "hi"]
    wrong = ask("hi", chat_template=template, chat_template_kwargs={"thin": 1})
    assert "no variable 'thin'" in failure(engine, wrong)


def test_a_thought_that_a_template_opens_here_is_apart_at_once(engine: EndpointEngine, server: Server):
    request = ask("hi", chat_template="{{ messages[0].content }}<think>")
    server.will(
        streaming(
            *({"choices": [{"text": text}]} for text in ("Hm", "</think>", "Yes")),
            {"choices": [{"text": "", "finish_reason": "stop"}]},
        )
    )
    pieces, answer = streamed(engine, request)
    assert ("".join(pieces), answer.text, answer.reasoning) == ("Yes", "Yes", "Hm")
