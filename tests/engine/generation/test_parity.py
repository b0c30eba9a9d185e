"""Parity, in float32: whole conversations together equal the same run one question at a time.

The other side is transformers' own: its chat template, its `generate` for one request, its forward pass.
"""

import logging
import random
from dataclasses import dataclass
from itertools import chain, pairwise

import pytest

from engine.backends.local import LocalEngine
from engine.batching import common_prefix
from engine.generation.prompt_lookup import PromptLookup
from engine.options import GenerationOptions
from engine.text import without_incomplete_end
from engine.types import Answer, Dialogue
from tests import tiny
from tests.helpers.sequences import own_logprobs, seen
from tests.helpers.talk import answered, ask, dialogue

pytestmark = pytest.mark.numeric

CONVERSATIONS = 16
TURNS = 3
OPTIONS = GenerationOptions(max_new_tokens=10)


@dataclass(frozen=True)
class Alone:
    """A question asked by itself: the ids of its prompt, and those that `model.generate` answers."""

    prompt: list[int]
    tokens: list[int]


@dataclass(frozen=True)
class Run:
    """The same conversations, once together and once one question at a time, in the same order.

    Attributes:
        passes: (requests, tokens) of what the model was handed each time.
        drafted: number of tokens that were drafted.
        logged: what was said above DEBUG.
    """

    architecture: str
    model: object
    together: list[Answer]
    alone: list[Alone]
    passes: list[tuple[int, int]]
    drafted: int
    logged: str


def conversations() -> list[Dialogue]:
    """Conversations of heavy-tailed lengths."""
    chance = random.Random(2)
    letters = "abcdefghijklmnopqrstuvwxyz      äß日"

    def question() -> str:
        return "".join(chance.choices(letters, k=min(60, round(chance.lognormvariate(2, 1)) + 1)))

    return [dialogue(str(i), *(question() + "?" for _ in range(TURNS))) for i in range(CONVERSATIONS)]


def one_at_a_time(model, tokenizer, conversation: Dialogue) -> list[Alone]:
    chat, answers = [], []
    for turn in conversation.turns:
        chat.append({"role": "user", "content": turn.messages[0].text})
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        output = model.generate(**prompt, max_new_tokens=OPTIONS.max_new_tokens, do_sample=False)[0]
        ids = prompt["input_ids"][0]
        tokens = output[1:] if model.config.is_encoder_decoder else output[len(ids) :]
        text = without_incomplete_end(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        chat.append({"role": "assistant", "content": text})
        answers.append(Alone(ids.tolist(), tokens.tolist()))
    return answers


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def run(request: pytest.FixtureRequest) -> Run:
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("engine")
    before, log.level = log.level, logging.INFO
    log.addHandler(handler)
    drafted: list[int] = []
    draft = PromptLookup.draft

    def counted(self: PromptLookup, most: int) -> list[int]:
        found = draft(self, most)
        drafted.append(len(found))
        return found

    try:
        engine = tiny.engine(request.param, eos_token_id=tiny.ENDS)
        assert (engine.batching.kv_token_bytes == 0) == (request.param in tiny.BATCHED)
        with seen(engine.loaded.model) as passes, pytest.MonkeyPatch.context() as patch:
            patch.setattr(PromptLookup, "draft", counted)
            together = answered(engine, conversations(), OPTIONS)
            answered(engine, conversations()[:1], OPTIONS)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    model = tiny.random_model(request.param, eos_token_id=tiny.ENDS)
    alone = [one_at_a_time(model, engine.tokenizer, conversation) for conversation in conversations()]
    return Run(
        request.param,
        model,
        list(chain(*together)),
        list(chain(*alone)),
        [tuple(ids.shape) for ids in passes],
        sum(drafted),
        "\n".join(lines),
    )


def test_the_tokens_are_those_of_generate_alone(run: Run):
    assert [list(answer.token_ids) for answer in run.together] == [answer.tokens for answer in run.alone]


def test_the_log_probabilities_are_those_of_a_teacher_forced_forward(run: Run):
    for answer, one in zip(run.together, run.alone, strict=True):
        assert answer.logprobs == pytest.approx(own_logprobs(run.model, one.prompt, one.tokens), abs=1e-4)


def test_the_prompts_are_as_long_as_the_chat_template_makes_them(run: Run):
    assert [answer.usage.prompt_tokens for answer in run.together] == [len(one.prompt) for one in run.alone]


def test_answers_end_by_themselves_and_by_length_so_that_both_are_compared(run: Run):
    reasons = [answer.finish_reason for answer in run.together]
    assert min(reasons.count("stop"), reasons.count("length")) >= CONVERSATIONS * TURNS / 10
    for answer in run.together:
        ended = answer.token_ids[-1] in tiny.ENDS
        assert answer.finish_reason == ("stop" if ended else "length")
        assert ended or len(answer.token_ids) == OPTIONS.max_new_tokens
    assert len({answer.token_ids for answer in run.together}) > CONVERSATIONS
    assert len({answer.usage.prompt_tokens for answer in run.together}) > CONVERSATIONS


@pytest.mark.parametrize("run", ["mistral"], indirect=True)
def test_every_conversation_is_longer_than_the_sliding_window(run: Run):
    assert run.model.config.sliding_window == 16
    assert all(len(one.prompt) > 16 for one in run.alone)


def test_batching_is_continuous_or_static_and_the_latter_is_logged_once(run: Run):
    continuous_batching = run.architecture in tiny.IN_FLIGHT
    requests = {requests for requests, _ in run.passes}
    assert (requests == {1}) if continuous_batching else (max(requests) == CONVERSATIONS)
    assert run.logged.count("generates in static batches (padded), not continuously") == (
        0 if continuous_batching else 1
    )
    assert "failed" not in run.logged


@pytest.mark.parametrize("run", tiny.IN_FLIGHT, indirect=True)
def test_no_token_of_a_conversation_is_computed_again(run: Run):
    turns = [run.alone[i : i + TURNS] for i in range(0, len(run.alone), TURNS)]
    # An answer's text may be spelled otherwise in the next prompt than it was made.
    expected = sum(
        len(one.prompt) - common_prefix(held.prompt + held.tokens[:-1], one.prompt) + len(one.tokens) - 1
        for conversation in [*turns, turns[0]]
        for held, one in pairwise([Alone([], [0]), *conversation])
    )
    assert sum(tokens for _, tokens in run.passes) <= expected + run.drafted


# Every option that does not sample


ASKED = [
    {"max_new_tokens": 3},
    {"max_new_tokens": 20},
    {"max_new_tokens": 1},
    {"stop": ("e", "é")},
    {"stop": (" ", "a", "b", "\x00")},
    {"repetition_penalty": 3.0},
    {"repetition_penalty": 0.7, "max_new_tokens": 20},
    {"system_prompt": "Be brief, and speak as the others do."},
    {"system_prompt": "Be brief, and speak as the others do.", "repetition_penalty": 1.5},
    {"chat_template": "plain"},
    {"chat_template": "{{ messages[-1].content }}"},
    {"temperature": 0, "seed": 3},
    {"do_sample": False, "top_p": 0.3, "top_k": 40},
    {"top_k": 1},
    {"top_logprobs": 20},
    {"confidence": "top_k_mass"},
    {"overflow": "error"},
    {},
]


def generated_alone(model, engine: LocalEngine, request) -> list[int]:
    """What `model.generate` makes of a request, cut where a stop string is complete."""
    options = request.options
    prompt = engine.prompter.encode(request.messages, options)
    output = model.generate(
        engine.tokenizer.pad({"input_ids": [prompt]}, return_tensors="pt")["input_ids"],
        do_sample=False,
        max_new_tokens=options.max_new_tokens,
        repetition_penalty=options.repetition_penalty or 1.0,
    )[0].tolist()
    tokens = output[1:] if model.config.is_encoder_decoder else output[len(prompt) :]
    stops = engine.prompter.stop_strings(options)
    for count in range(1, len(tokens)):
        if any(stop in engine.tokenizer.decode(tokens[:count]) for stop in stops):
            return tokens[:count]
    return tokens


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_options_may_differ_from_sequence_to_sequence(architecture: str):
    changes = {"eos_token_id": tiny.ENDS}
    engine, model = tiny.engine(architecture, **changes), tiny.random_model(architecture, **changes)
    requests = [
        ask("x" * (3 + 5 * i % 40) + "?", **{"max_new_tokens": 10} | options)
        for i, options in enumerate(ASKED)
    ]
    answers = engine.generate(requests)
    assert [list(answer.token_ids) for answer in answers] == [
        generated_alone(model, engine, request) for request in requests
    ]
    for request, answer in zip(requests, answers, strict=True):
        prompt = engine.prompter.encode(request.messages, request.options)
        assert answer.logprobs == pytest.approx(own_logprobs(model, prompt, answer.token_ids), abs=1e-4)
