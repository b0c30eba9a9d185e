"""Parity, in float32: a batch of whole conversations equals the same run one question at a time.

The other side is transformers' own: its chat template, its `generate` for one row, its forward pass.
"""

import random
from dataclasses import dataclass
from itertools import chain

import pytest
import torch

from engine.dialogues import converse
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue
from tests import tiny
from tests.engine.talk import dialogue

CONVERSATIONS = 16
TURNS = 3
OPTIONS = GenerationOptions(max_new_tokens=12)


@dataclass(frozen=True)
class Alone:
    """A question asked by itself: the ids of its prompt, and those that `model.generate` answers."""

    prompt: list[int]
    tokens: list[int]


@dataclass(frozen=True)
class Run:
    """The same conversations, once as a batch and once one question at a time, in the same order."""

    model: torch.nn.Module
    batched: list[Answer]
    alone: list[Alone]
    rows: set[int]


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
        chat.append(
            {"role": "assistant", "content": tokenizer.decode(tokens, skip_special_tokens=True).strip()}
        )
        answers.append(Alone(ids.tolist(), tokens.tolist()))
    return answers


@torch.no_grad()
def teacher_forced(model, prompt: list[int], tokens: list[int]) -> list[float]:
    """The log-probability of each token, from one forward pass over what comes before it."""
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids).logits[0]
    else:
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(tokens)), tokens].tolist()


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def run(request: pytest.FixtureRequest) -> Run:
    engine = tiny.engine(request.param, eos_token_id=tiny.ENDS)
    model, rows = engine.loaded.model, set()
    count = model.register_forward_pre_hook(
        lambda _, args, inputs: rows.add(len(inputs.get("input_ids", inputs.get("decoder_input_ids")))),
        with_kwargs=True,
    )
    with count:
        batched = converse(engine, conversations(), OPTIONS)
    alone = [one_at_a_time(model, engine.tokenizer, conversation) for conversation in conversations()]
    return Run(model, list(chain(*batched)), list(chain(*alone)), rows)


def test_every_turn_is_answered_in_one_batch_with_its_neighbours(run: Run):
    assert len(run.batched) == CONVERSATIONS * TURNS
    assert run.rows == {CONVERSATIONS}


def test_the_tokens_are_those_of_generate_alone(run: Run):
    assert [list(answer.token_ids) for answer in run.batched] == [answer.tokens for answer in run.alone]


def test_the_prompts_are_as_long_as_the_chat_template_makes_them(run: Run):
    assert [answer.usage.prompt_tokens for answer in run.batched] == [len(one.prompt) for one in run.alone]


def test_the_log_probabilities_are_those_of_a_teacher_forced_forward(run: Run):
    for answer, one in zip(run.batched, run.alone, strict=True):
        assert answer.logprobs == pytest.approx(teacher_forced(run.model, one.prompt, one.tokens), abs=1e-4)


def test_answers_end_by_themselves_and_by_length_so_that_both_are_compared(run: Run):
    reasons = [answer.finish_reason for answer in run.batched]
    assert min(reasons.count("stop"), reasons.count("length")) >= CONVERSATIONS * TURNS / 10
    for answer in run.batched:
        ended = answer.token_ids[-1] in tiny.ENDS
        assert answer.finish_reason == ("stop" if ended else "length")
        assert ended or len(answer.token_ids) == OPTIONS.max_new_tokens
    assert len({answer.token_ids for answer in run.batched}) > CONVERSATIONS
    assert len({answer.usage.prompt_tokens for answer in run.batched}) > CONVERSATIONS
