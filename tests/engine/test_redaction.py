"""What of a peer's refusal may be told: words for programs, no sentences and no secrets."""

import json
import logging

import pytest

from engine import redaction

CODES = {
    "OpenAI": (
        {
            "error": {
                "message": "x y",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "too_long",
            }
        },
        "too_long, invalid_request_error, max_tokens",
    ),
    "vLLM": (
        {"object": "error", "message": "x y", "type": "BadRequestError", "code": 400},
        "BadRequestError",
    ),
    "TGI": ({"error": "x y", "error_type": "validation"}, "validation"),
    "FastAPI": (
        {
            "detail": [
                {"type": "missing", "loc": ["body", "messages", 0, "role"], "msg": "x", "input": {"a": 1}}
            ]
        },
        "missing, body.messages.0.role",
    ),
    "another status": ({"code": 1003}, "code 1003"),
    "the same word twice": ({"error": {"type": "x", "code": "x"}}, "x"),
    "a sentence as a code": ({"code": "a private matter", "type": "a\nb", "param": "«x»"}, ""),
    "a long word": ({"code": "x" * 65}, ""),
    "a secret as a code": ({"code": "hf_secret", "type": "xhf_secretx", "param": "hf_sec"}, ""),
    "other kinds": ({"code": True, "type": None, "param": 3.5, "loc": {}, "error": [[], 3]}, ""),
    "deep": (json.loads('{"error":' * 500 + '{"code": "x"}' + "}" * 500), ""),
}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(("said", "told"), CODES.values(), ids=CODES)
def test_a_word_for_programs_is_told(said: dict, told: str, as_bytes: bool):
    body = json.dumps(said).encode() if as_bytes else said
    assert redaction.codes(body, ["hf_secret", None, ""], 400) == told


@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"<html>", b"\xff", b"[" * 10**5, b"3", b'"code"', b"null"]
)
def test_what_has_none_is_told_without(body: bytes):
    assert redaction.codes(body, []) == ""


def test_its_sentences_are_in_the_log_at_debug_without_secrets(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "engine.redaction")
    redaction.codes(b"you sent hf_secret and a private matter", ["hf_secret"], 400)
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage() == "refused (status 400): you sent <secret> and a private matter"
