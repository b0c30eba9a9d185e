"""Confidences of a server's answers: from what it gives; what it cannot give is unknown, and said once."""

import logging
import math

import pytest

from engine.backends.endpoint import EndpointEngine
from engine.confidence import ONE_PASS
from engine.errors import ConfigurationError
from tests.helpers.endpoint_engines import engine, engines, environment, server, waits
from tests.helpers.servers.misbehaving import LOGPROB, Server
from tests.helpers.talk import ask

__all__ = ["engine", "engines", "environment", "server", "waits"]


def test_each_method_is_computed_from_what_the_server_gives(engine: EndpointEngine):
    [answer] = engine.generate([ask("a b", confidence_methods=tuple(ONE_PASS))])
    assert len(answer.logprobs) == 2
    known = {method: found for method, found in answer.confidences.items() if found is not None}
    assert set(ONE_PASS) - set(known) == {"mean_entropy", "max_entropy"}
    assert known["sequence"] == pytest.approx(math.exp(2 * LOGPROB))
    assert known["margin"] == pytest.approx(math.exp(LOGPROB) - math.exp(2 * LOGPROB))


def test_what_it_does_not_give_is_unknown_and_said_once(engine: EndpointEngine, server: Server, caplog):
    with caplog.at_level(logging.WARNING):
        entropies = engine.generate([ask("a", confidence="max_entropy") for _ in range(3)])
        server.logprobs = False
        silent = engine.generate([ask("a", confidence="margin") for _ in range(3)])
    assert [answer.confidence for answer in entropies + silent] == [None] * 6
    assert [record.message.partition(" gives ")[2] for record in caplog.records] == [
        "no probabilities of the whole vocabulary: confidence is unknown",
        "no log-probabilities: confidence is unknown",
    ]


def test_samples_of_a_server_need_no_log_probabilities(engine: EndpointEngine, server: Server):
    server.logprobs = False
    [answer] = engine.generate([ask("hi", confidence="self_consistency", confidence_samples=3)])
    assert (answer.text, answer.confidence) == ("HI", 1.0)


def test_a_server_cannot_score_labels_and_says_so(engine: EndpointEngine):
    [answer] = engine.generate([ask("How was it?", labels=("good", "bad"))])
    assert isinstance(answer.error, ConfigurationError)
    assert str(answer.error).startswith("labels needs a backend that scores texts: set backend to local")
