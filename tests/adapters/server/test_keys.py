"""Who is let in: the key, and the addresses that need one."""

import pytest

import models
from adapters.server import check_exposure, serve
from engine.errors import ConfigurationError
from tests.adapters.server.prompts import CAPITAL, PARIS
from tests.helpers.servers.ours import serving

CHAT = "/v1/chat/completions"


def test_only_who_has_the_key_is_answered():
    with serving(models.load("tiny_talk"), api_key="schlüssel") as server:
        key = "Bearer schlüssel".encode().decode("latin-1")
        for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": key[7:]}, {"x_api_key": key[7:]}):
            reply = server.post(CHAT, {"messages": CAPITAL}, **wrong)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert server.get("/v1/models", **wrong).status == server.get("/metrics", **wrong).status == 401
        # Who has no key does not get a body read, either.
        assert server.post(CHAT, b"{").status == 401
        reply = server.post(CHAT, {"messages": CAPITAL}, authorization=key)
        assert reply.body["choices"][0]["message"]["content"] == PARIS
        assert server.get("/metrics", authorization=key).status == 200
        assert server.get("/health").status == server.get("/docs").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_no_other_machine_is_served_without_a_key_unless_told(host: str):
    with pytest.raises(ConfigurationError, match="--api-key"):
        serve(models.find("tiny_talk")(), host=host)
    check_exposure(host, "key", False)
    check_exposure(host, None, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_key(host: str):
    check_exposure(host, None, False)
    with pytest.raises(ConfigurationError, match="the API key is empty"):
        check_exposure(host, "", False)
