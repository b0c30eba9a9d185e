"""A model that thinks: its thought is no part of the answer, its confidence, or what is asked next."""

import pytest

from engine.backends.local import LocalEngine
from engine.confidence import ONE_PASS, Evidence, measure
from engine.conversation import converse
from engine.errors import ConfigurationError, GenerationError
from engine.options import GenerationOptions
from engine.types import Answer, Request
from tests import tiny
from tests.helpers.talk import ask, dialogue
from tests.helpers.thinking_models import ASKING, OPENING, SCRIPT, thinker

pytestmark = pytest.mark.numeric

KINDS = {
    "marked in the text": {},
    "by special tokens": {"special": True},
    "of another family": {"script": ["[THINK]", *SCRIPT[1:3], "[/THINK]", *SCRIPT[4:]], "special": True},
    "opened by the template": {"template": OPENING},
    "opened by a special token": {"template": OPENING, "special": True},
}
THOUGHT = 5  # Tokens before the answer: the marks, the thought, and a blank line.


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    return thinker(**request.param)


@pytest.fixture(scope="module")
def plain_thinker() -> LocalEngine:
    return thinker()


def answer(engine: LocalEngine, **options: object) -> Answer:
    [found] = engine.generate([ask("Go on", **options)])
    return found


def test_the_thought_is_apart_from_the_answer(engine: LocalEngine):
    found = answer(engine, logprobs=True, top_logprobs=2)
    assert (found.text, found.reasoning, found.error) == ("Yes", "Hm", None)
    assert [token.text for token in found.tokens] == ["Y", "e", "s"]
    assert len(found.token_ids) == len(found.logprobs) == len(found.top_logprobs) == len("Yes") + 1
    usage = found.usage
    assert usage.completion_tokens == usage.reasoning_tokens + len(found.token_ids)


def test_no_piece_of_a_stream_shows_it(engine: LocalEngine):
    chunks = list(engine.stream([ask("Go on")]))
    assert [chunk.text for chunk in chunks if chunk.text] == ["Y", "e", "s"]
    assert chunks[-1].answer.reasoning == "Hm"


@pytest.mark.parametrize("method", ONE_PASS)
def test_each_confidence_is_that_of_the_answers_tokens_alone(plain_thinker: LocalEngine, method: str):
    found = answer(plain_thinker, confidence=method)
    ids = plain_thinker.prompter.encode(ask("Go on").messages, GenerationOptions())
    options = GenerationOptions(confidence=method, confidence_methods=tuple(ONE_PASS), top_logprobs=5)
    [whole] = plain_thinker.generate([Request((), options, tuple(ids))])
    evidence = whole.evidence
    alone = Evidence(
        evidence.logprobs[THOUGHT:],
        [logprob for _, logprob in whole.top_logprobs[THOUGHT]],
        evidence.margins[THOUGHT:],
        evidence.entropies[THOUGHT:],
    )
    assert found.confidence == pytest.approx(measure(method, alone), abs=1e-5)
    assert found.confidence > measure(method, evidence) or method == "top_k_mass"


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
def test_an_answer_that_is_cut_while_thinking_is_none(engine: LocalEngine, tokens: int):
    # The template has written the first token of some.
    written = answer(engine).usage.reasoning_tokens < THOUGHT
    found = answer(engine, max_new_tokens=max(tokens - written, 1))
    assert isinstance(found.error, GenerationError)
    assert "only reasoning: raise max_new_tokens" in str(found.error)
    assert "enable_thinking" in str(found.error)


def test_a_stop_string_ends_the_answer_and_no_thought(engine: LocalEngine):
    assert answer(engine, stop=["m", "s"]).text == "Ye"


def test_the_next_turn_is_asked_without_the_thought(
    plain_thinker: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    prompter, asked = plain_thinker.prompter, []

    def encode(messages, options, encoded=prompter.encode):
        asked.append([message.text for message in messages])
        return encoded(messages, options)

    monkeypatch.setattr(prompter, "encode", encode)
    [(_, answers)] = converse(plain_thinker, [dialogue("a", "One", "Two")], GenerationOptions())
    assert [found.text for found in answers] == ["Yes", "Yes"]
    assert asked == [["One"], ["One", "Yes", "Two"]]


def test_the_templates_variables_are_the_users(plain_thinker: LocalEngine):
    engine = thinker(template=ASKING)
    thinking, not_thinking = (
        answer(engine, chat_template_kwargs={"enable_thinking": value}) for value in (True, False)
    )
    assert (thinking.text, thinking.reasoning) == ("Yes", "Hm")
    assert (not_thinking.text, not_thinking.reasoning) == ("Yes", None)
    [refused] = plain_thinker.generate([ask("Go on", chat_template_kwargs={"enable_thinking": False})])
    assert isinstance(refused.error, ConfigurationError)
    assert "no variable 'enable_thinking'" in str(refused.error)


def test_a_candidate_is_scored_as_an_answer_not_as_a_thought():
    engine = thinker(template=OPENING)
    [scores] = engine.score([ask("Go on")], [["Yes"]])
    ids = engine.prompter.encode(ask("Go on").messages, GenerationOptions())
    ended = engine.tokenizer.decode(ids) + "\n\n</think>\n\n"
    [plain] = engine.score([ended], [["Yes"]])
    assert scores.candidates[0].logprobs == pytest.approx(plain.candidates[0].logprobs, abs=1e-5)


def test_a_plain_prompts_text_is_what_the_model_writes(plain_thinker: LocalEngine):
    [found] = plain_thinker.generate([Request((), GenerationOptions(), "a]")])
    assert (found.text, found.reasoning) == ("<think>Hm</think>\nYes", None)


def test_an_ordinary_answer_has_no_thought():
    engine = LocalEngine(tiny.loaded(tiny.spelling_model("grün")))
    found = answer(engine)
    assert (found.text, found.reasoning, found.usage.reasoning_tokens) == ("grün", None, 0)
