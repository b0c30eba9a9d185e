"""The routes of vLLM's server that the backend `vllm` asks, answered by a model of this process."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.backends.local import LocalEngine
from engine.options import EmbeddingOptions, GenerationOptions
from engine.scoring.batching import logprobs
from engine.scoring.logits_readers import ScoringInput
from engine.types import Answer, Request


class VLLMApi:
    """Answers as vLLM does with the same model.

    Attributes:
        asked: the path and the body of each request so far.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def completions(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The completion whole, or a chunk for each token."""
        if body.get("prompt_logprobs") is not None:
            yield {"choices": [{"text": "", "prompt_logprobs": self._of_prompt(body["prompt"])}]}
            return
        options = {key: body[key] for key in ("temperature", "seed", "top_k", "top_p") if key in body}
        [answer] = self.engine.generate(
            [
                Request(
                    (),
                    GenerationOptions(
                        max_new_tokens=body["max_tokens"],
                        stop=tuple(body.get("stop") or ()),
                        top_logprobs=body.get("logprobs") or 0,
                        logprobs=True,
                        eos_token_id=tuple(body["stop_token_ids"]),
                        min_new_tokens=body["min_tokens"],
                        **options,
                    ),
                    tuple(body["prompt"]),
                )
            ]
        )
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(answer.token_ids)}
        choices = list(_choices(answer))
        if body.get("stream"):
            yield from ({"choices": [choice]} for choice in choices)
            yield {"choices": [], "usage": usage}
            return
        lists = ("tokens", "token_logprobs", "top_logprobs")
        yield {
            "choices": [
                {
                    "text": "".join(choice["text"] for choice in choices),
                    "finish_reason": choices[-1]["finish_reason"],
                    "token_ids": [token for choice in choices for token in choice["token_ids"]],
                    "logprobs": {
                        key: [one for choice in choices for one in choice["logprobs"][key]] for key in lists
                    },
                }
            ],
            "usage": usage,
        }

    def embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """The mean of the last hidden states of each text."""
        rows = self.engine.embed(body["input"], EmbeddingOptions(pooling="mean", normalize=False))
        return {
            "data": [
                {"index": i, "embedding": base64.b64encode(row.tobytes()).decode()}
                for i, row in enumerate(rows)
            ]
        }

    def _of_prompt(self, ids: list[int]) -> list[dict[str, Any] | None]:
        [found] = logprobs(
            self.engine.loaded.model, [ScoringInput(tuple(ids[:-1]), tuple(ids[1:]), (0, len(ids)))]
        )
        assert isinstance(found, list)
        known = zip(ids[1:], found, strict=True)
        return [None, *({str(token): {"logprob": value}} for token, value in known)]


def _choices(answer: Answer) -> Iterator[dict[str, Any]]:
    """A choice for each token; the last one says why the answer ends."""
    assert answer.error is None
    assert answer.tokens is not None
    assert answer.logprobs is not None
    for i, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        known = answer.tokens[i] if i < len(answer.tokens) else None
        last = i == len(answer.token_ids) - 1
        yield {
            "text": known.text if known else "",
            "token_ids": [token],
            "finish_reason": answer.finish_reason if last else None,
            "logprobs": {
                "tokens": [known.text if known else ""],
                "token_logprobs": [logprob],
                "top_logprobs": [dict(known.top) if known else {}],
            },
        }


@contextmanager
def serving(api: VLLMApi) -> Iterator[int]:
    """The port of a server with these routes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = api.engine.context_length
            self._send(b"" if self.path == "/health" else _json({"data": [{"max_model_len": length}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api.asked.append((self.path, body))
            if self.path == "/v1/embeddings":
                return self._send(_json(api.embeddings(body)))
            answers = api.completions(body)
            if not body.get("stream"):
                return self._send(_json(next(answers)))
            self.send_response(200)
            self.send_header("connection", "close")
            self.end_headers()
            for answer in answers:
                self.wfile.write(b"data: " + _json(answer) + b"\n\n")
            return self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
