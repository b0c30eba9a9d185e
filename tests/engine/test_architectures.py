"""Every architecture there is: answers, scores and vectors are those of transformers' own run of one text.

A tiny random model each, whose windows are shorter than the longest texts; alone and beside others.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pytest

from engine.backends.local import LocalEngine
from engine.errors import AdapterError
from engine.options import GenerationOptions
from engine.types import Answer, Request
from tests.helpers import architecture_table, architectures
from tests.helpers.reference import NEAR, Reference
from tests.helpers.sequences import prompt

NAMES = [name for name in architectures.names() if name not in architectures.LEFT_OUT]
PROMPTS = [tuple(prompt(length, salt=length)) for length in (1, 2, 5, 17, 40, 80)]
OPTIONS = GenerationOptions(max_new_tokens=5)
TEXTS = ["Hi", "The capital of France is a city that lies on the Seine, and", "abc " * 12]
WRITTEN = architecture_table.written()


@dataclass(frozen=True)
class Tried:
    """An engine and, untouched, the model that it was given."""

    name: str
    engine: LocalEngine
    reference: Reference

    @property
    def row(self) -> architecture_table.Row:
        """What the documentation says of it."""
        return WRITTEN[self.name]

    def ids(self, text: str) -> list[int]:
        """A text as the model reads it."""
        return self.engine.tokenizer(text)["input_ids"]

    def faults(self, answers: list[Answer], prompts: list[tuple[int, ...]]) -> dict[int, str]:
        """What is wrong with the answers, by the lengths of their prompts."""
        faults = {}
        for answer, ids in zip(answers, prompts, strict=True):
            if answer.error:
                raise answer.error
            assert len(answer.token_ids) == OPTIONS.max_new_tokens
            if fault := self.reference.fault(ids, answer.token_ids, answer.logprobs):
                faults[len(ids)] = fault
        return faults


@pytest.fixture(scope="class")
def tried(request: pytest.FixtureRequest) -> Tried:
    model = architectures.tiny_model(request.param)
    reference = Reference(copy.deepcopy(model))
    return Tried(request.param, architecture_table.engine(model), reference)


def refused(written: str) -> AbstractContextManager:
    """Refused where the documentation says so, with its reason."""
    if not written.startswith(architecture_table.NO):
        return nullcontext()
    return pytest.raises(AdapterError)


def asked(ids: tuple[int, ...]) -> Request:
    return Request((), OPTIONS, ids)


def test_the_documentation_lists_every_architecture_of_this_transformers():
    assert list(WRITTEN) == architectures.names()
    for name, reason in architectures.LEFT_OUT.items():
        assert WRITTEN[name].answers == f"no tiny model: {reason}"


@pytest.mark.slow
@pytest.mark.architectures
class Promises:
    """What holds for each architecture, or is refused in words that stand in the documentation."""

    def test_an_answer_alone_is_that_of_transformers(self, tried: Tried):
        with refused(tried.row.answers):
            prompts = [PROMPTS[0], PROMPTS[-1]]
            assert not tried.faults(
                [tried.engine.generate([asked(prompt)])[0] for prompt in prompts], prompts
            )

    def test_answers_beside_others_are_those_of_transformers(self, tried: Tried):
        with refused(tried.row.answers):
            assert not tried.faults(tried.engine.generate([asked(ids) for ids in PROMPTS]), PROMPTS)

    def test_scores_are_those_of_transformers(self, tried: Tried):
        prompts, candidates = [TEXTS[1], "z"], [" on the Seine", " in Norway and not", " x"]
        with refused(tried.row.scores):
            for text, scores in zip(prompts, tried.engine.score(prompts, [candidates] * 2), strict=True):
                if scores.error:
                    raise scores.error
                for candidate, score in zip(candidates, scores.candidates, strict=True):
                    read, tokens = tried.ids(text), tried.ids(candidate)
                    logits = tried.reference.logits(read, tokens)
                    expected = logits.log_softmax(-1)[range(len(tokens)), tokens].sum().item()
                    assert score.total == pytest.approx(expected, abs=NEAR * len(tokens))

    def test_vectors_are_those_of_transformers(self, tried: Tried):
        with refused(tried.row.vectors):
            together = tried.engine.hidden_states(TEXTS, reduction=None)
            alone = tried.engine.hidden_states(TEXTS[1:2], reduction=None)
            for text, states in zip([*TEXTS, TEXTS[1]], [*together, *alone], strict=True):
                expected = tried.reference.states(tried.ids(text)).numpy()
                assert np.linalg.norm(states - expected) < NEAR * np.linalg.norm(expected)

    def test_the_documentation_says_how_it_is_run(self, tried: Tried):
        found = architecture_table.made(tried.name, tried.engine)
        assert found.how() == tried.row.how(), "python -m tests.helpers.architecture_table"


@pytest.mark.parametrize("tried", NAMES[::2], indirect=True, scope="class")
class TestOneHalf(Promises):
    """A class is one worker's."""


@pytest.mark.parametrize("tried", NAMES[1::2], indirect=True, scope="class")
class TestTheOtherHalf(Promises):
    """Another worker's."""
