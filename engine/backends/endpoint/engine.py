"""`EndpointEngine`: sends requests to a server, chooses its routes, and puts the answers together."""

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.backends.endpoint import embedding, routes
from engine.backends.endpoint.rejections import Dropped, Rejected
from engine.backends.endpoint.reply import Reply
from engine.backends.endpoint.wire import Client, Server
from engine.backends.endpoint.worker import EndpointWorker
from engine.backends.workers import answered
from engine.confidence import Evidence
from engine.contract import Engine, Follow
from engine.errors import AdapterError, ConfigurationError, GenerationError, Unsupported
from engine.options import EmbeddingOptions, EndpointOptions, GenerationOptions
from engine.options.base import JSONObject
from engine.reasoning import Marks, opened_by
from engine.text import Deltas, before_stop, encodable
from engine.types import Answer, Chunk, Request

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Route = TypeVar("Route")
# The fields of `Evidence` that come from a server's reply, and what it has to give for them.
MISSING = {
    "logprobs": "log-probabilities",
    "first_top": "five most likely first tokens",
    "margins": "second most likely tokens",
    "entropies": "probabilities of the whole vocabulary",
}


class EndpointEngine(Engine):
    """Sends requests to a server. Its methods may be called from several threads at a time.

    HTTP requests run in one event loop, in a thread that starts with the first of them.
    """

    def __init__(self, options: EndpointOptions, server: Server | None = None) -> None:
        """Resolves the server's address; sends nothing yet.

        Args:
            server: what to ask, if its address is known.

        Raises:
            ConfigurationError: no server is named, more than one is, or the address is invalid.
        """
        self.options = options
        self._server = server or Server(options)
        # The marks of the reasoning that the server's chat template opens, by its arguments; answers show it.
        self._opened: dict[JSONObject | None, Marks] = {}
        self._rejected: frozenset[str] = frozenset()  # Optional parameters that the server does not know.
        self._missing: set[str] = set()  # Kinds of evidence; those that are logged already.
        # Whether plain prompts and texts go to TGI's own routes; None until the server has shown it.
        self._has_tgi = {"tgi": True, "openai": False, "auto": None}[options.api]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        """Says which model it is, and where it runs."""
        return f"{self.options.model_name or 'the model'} at {self._server.name}"

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        """Answers requests, up to `max_concurrent` at a time.

        An answer that fails after its first delta is not requested again: its last chunk has the error. If
        the chat template of the server's model opens the reasoning, the deltas of the first answers contain
        it, because nothing marks it before its end; the answers do not.

        Args:
            requests: taken whenever fewer than `max_concurrent` are running. None means that the next one
                is not there yet.
            follow: callback for each answer, called before its last chunk is given. The request that it
                returns is answered next, under the same index.
            deltas: whether answers come in deltas; if False, each comes as one chunk.
        """

        def send(index: int, request: Request, put: Callable[[Chunk], None]) -> Future[None]:
            return self._submit(self._answer(index, request, deltas, put))

        worker = EndpointWorker(send, self.options.max_concurrent)
        try:
            yield from answered(requests, follow, worker, self)
        finally:
            worker.cancel()

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions | None = None,
        kind: str | None = None,
    ) -> np.ndarray:
        """The server's embedding of each text.

        Args:
            options: prefixes and `normalize`; pooling and length are set on the server.
            kind: "query" or "document": the prefix of each text; None: no prefix.

        Returns:
            float32 (texts, dim); (0, 0) for no texts.

        Raises:
            ConfigurationError: an unknown `kind`, or an option that can only be set on the server.
            GenerationError: no embeddings; the text says why.
            Unsupported: token ids instead of texts.
        """
        options = options or EmbeddingOptions()
        batches = embedding.batches(texts, options, kind)
        running = [self._submit(self._vectors(batch, options)) for batch in batches]
        try:
            vectors = [future.result() for future in running]
        finally:
            for future in running:
                future.cancel()
        return embedding.joined(vectors, options)

    def cache_in(self, folder: str | Path) -> None:
        """Refuses: a server may change its weights, and nothing here would show it.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "option 'cache' needs the model itself, because a server may change its weights unseen: leave "
            "cache out, or set backend to local"
        )

    def prompt_text(self, request: Request) -> str:
        """The plain prompt of a request as text: its answer continues it.

        Raises:
            Unsupported: a prompt of token ids.
        """
        if not isinstance(request.prompt, str):
            raise self.unsupported("the text of token ids")
        return encodable(request.prompt)

    def unsupported(self, name: str) -> Unsupported:
        """The error of what only a backend with the model itself can do."""
        return Unsupported(f"{name} needs the model itself, and a server has it: set backend to local")

    async def _answer(self, index: int, request: Request, stream: bool, put: Callable[[Chunk], None]) -> None:
        """Puts an answer's deltas, and in the end always the answer."""
        options = request.options
        is_chat = request.prompt is None
        try:
            request = self._prepared(request)
            options = request.options
            give = (lambda text: put(Chunk(index, text))) if stream else None
            reply, deltas = await self._replied(request, is_chat, give)
            answer = reply.answer(options)
            self._name_missing(answer, options)
            text = answer.text
            if deltas.given:  # They may contain reasoning, which the answer does not.
                text = before_stop(reply.streamed, options.stop)
                text = text.strip() if is_chat else text
            put(Chunk(index, deltas.rest(text), answer))
        except AdapterError as error:
            put(Chunk(index, "", Answer.failed(error)))
        except Exception as error:  # It must not affect the other requests.
            logger.debug("an invalid response: %s", self._server.redacted(repr(error)))
            reason = GenerationError(f"{self._server.name} sent an invalid response ({type(error).__name__})")
            put(Chunk(index, "", Answer.failed(reason)))

    def _prepared(self, request: Request) -> Request:
        """What is sent for a request: a conversation as it is, or as a plain prompt by `chat_template`."""
        has_template = request.prompt is None and request.options.chat_template
        return routes.rendered(request) if has_template else request

    def _end_of(self, request: Request) -> str:
        """The text with which a prompt that was rendered here ends."""
        return str(request.prompt)

    def _completion(
        self, client: Client, request: Request, stream: bool, rejected: frozenset[str]
    ) -> AsyncIterator[Any]:
        """The route for plain prompts, of OpenAI's."""
        return routes.completion(client, request, stream, rejected)

    def _name_missing(self, answer: Answer, options: GenerationOptions) -> None:
        """Logs, once for each kind, what a confidence needs and the server does not give."""
        evidence = answer.evidence or Evidence()
        asked = options.evidence & MISSING.keys()
        kinds = asked if evidence.logprobs else asked and {"logprobs"}
        for kind in sorted(kinds - self._missing):
            if not getattr(evidence, kind):
                self._missing.add(kind)
                logger.warning("%s gives no %s: confidence is unknown", self._server.name, MISSING[kind])

    async def _replied(
        self, request: Request, chat: bool, give: Callable[[str], None] | None
    ) -> tuple[Reply, Deltas]:
        """A whole reply, and its deltas, of which all but the last were given."""
        given = False
        arguments = request.options.chat_template_kwargs
        rendered = chat and request.prompt is not None
        opened = None
        if chat:
            opened = opened_by(self._end_of(request)) if rendered else self._opened.get(arguments)

        def repeatable() -> bool:
            return not given

        async def read(route: routes.Route, rejected: frozenset[str], client: Client) -> tuple[Reply, Deltas]:
            nonlocal given
            reply = Reply(self._server, chat, opened, assumed=not rendered)
            deltas = Deltas(request.options.stop, chat)
            async for body in route(client, request, give is not None, rejected):
                text = reply.read(body)
                if give and (delta := deltas.add(text)):
                    given = True
                    give(delta)
            if give and reply.finish is None:
                raise Dropped(f"{self._server.name} ended its answer early: see its log")
            reply.end()
            if reply.unopened is not None and not rendered:
                self._opened[arguments] = reply.unopened
            return reply, deltas

        async def ask(route: routes.Route) -> tuple[Reply, Deltas]:
            return await self._with_optional_parameters(partial(read, route), repeatable)

        if request.prompt is None:
            return await ask(routes.chat)
        return await self._by_either(ask, self._completion, routes.tgi)

    async def _vectors(self, texts: list[str], options: EmbeddingOptions) -> np.ndarray:
        async def ask(route: embedding.Route) -> np.ndarray:
            return await self._server.ask(lambda client: route(client, texts, options))

        return await self._by_either(ask, embedding.openai, embedding.tgi)

    async def _by_either(
        self, ask: Callable[[Route], Awaitable[Result]], openai: Route, tgi: Route
    ) -> Result:
        """The answer of one of two routes; which of them the server has is found out once."""
        if self._has_tgi or self._server.address.hub:
            return await ask(tgi)
        try:
            result = await ask(openai)
        except Rejected as rejected:
            if self._has_tgi is False or rejected.status not in (404, 405):
                raise
            try:
                result = await ask(tgi)
            except AdapterError:
                raise rejected from None
            self._has_tgi = True
        else:
            self._has_tgi = False
        return result

    async def _with_optional_parameters(
        self, call: Callable[[frozenset[str], Client], Awaitable[Result]], repeatable: Callable[[], bool]
    ) -> Result:
        """A server's answer. An optional parameter that it rejects by name is left out from then on."""
        rejected = self._rejected
        while True:
            try:
                result = await self._server.ask(partial(call, rejected), repeatable)
            except Rejected as error:
                named = {name for name in routes.OPTIONAL_PARAMETERS - rejected if name in error.said}
                if not 400 <= error.status < 429 or not named:
                    raise
                rejected = rejected | named
            else:
                self._rejected |= rejected
                return result

    def _submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()
                weakref.finalize(self, _end, self._loop, self._server)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _end(loop: asyncio.AbstractEventLoop, server: Server) -> None:
    async def end() -> None:
        await server.close()
        await loop.shutdown_asyncgens()  # Else asyncio warns of unfinished generators.
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
