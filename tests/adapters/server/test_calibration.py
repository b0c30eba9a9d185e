"""A calibrated model: its server states the calibrated confidence, and whether to accept an answer."""

import json

import pytest

from tests.adapters.server.prompts import CAPITAL
from tests.helpers.calibrated_models import calibrated_talk
from tests.helpers.servers.ours import Ours, serving

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def calibrated():
    with serving(calibrated_talk(max_error=0.1)) as server:
        yield server


def test_each_route_states_the_calibrated_confidence_and_accept(calibrated: Ours, talk: Ours):
    asked = {"messages": CAPITAL}
    [raw] = talk.post(CHAT, asked).body["choices"]
    [choice] = calibrated.post(CHAT, asked).body["choices"]
    assert choice["confidence"] == pytest.approx(raw["confidence"] / 2, rel=1e-4)
    assert choice["accept"] is True
    assert "accept" not in raw
    *_, last, _, _ = calibrated.post(CHAT, asked | {"stream": True}).text.split("\n\n")
    streamed = json.loads(last.removeprefix("data: "))["choices"][0]
    assert (streamed["confidence"], streamed["accept"]) == (pytest.approx(choice["confidence"]), True)
    reply = calibrated.post("/v1/responses", {"input": CAPITAL}).body
    assert reply["output"][0]["content"][0]["accept"] is True


def test_an_error_rate_that_was_not_fitted_is_refused(calibrated: Ours, talk: Ours):
    reply = calibrated.post(CHAT, {"messages": CAPITAL, "max_error": 0.2})
    assert (reply.status, "evaluate again" in reply.error["message"]) == (400, True)
    assert talk.post(CHAT, {"messages": CAPITAL, "max_error": 0.1}).status == 400


def test_an_unsure_answer_is_not_accepted(calibrated: Ours):
    unsure = {"prompt": "zq"}
    [choice] = calibrated.post("/v1/completions", unsure).body["choices"]
    assert choice["confidence"] < 0.45
    assert choice["accept"] is False
