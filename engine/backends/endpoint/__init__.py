"""The engine that asks a server: OpenAI's routes, TGI's own, the hub's providers, a Dataloop app."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from functools import partial
from itertools import chain, repeat
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, TypeVar

import numpy as np

from engine.backends.endpoint import embedding, routes
from engine.backends.endpoint.refusals import Dropped, Refused
from engine.backends.endpoint.reply import Growth, Reply
from engine.backends.endpoint.wire import Client, Server
from engine.conversation import Follow, gathered
from engine.errors import AdapterError, GenerationError, Unsupported
from engine.options import EmbeddingOptions, EndpointOptions
from engine.progress import Progress
from engine.types import Answer, Chunk, Request

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Route = TypeVar("Route")
_END = object()
# Seconds after which a wait for answers looks for requests that have come meanwhile.
PATIENCE = 0.05


class EndpointEngine:
    """Answers requests with a server's model. May be asked from several threads at a time.

    Its requests run in one event loop, in a thread that begins with the first of them.
    """

    def __init__(self, options: EndpointOptions) -> None:
        """Looks up where the server is; asks nothing yet.

        Raises:
            ConfigurationError: no server is named, or in two ways, or by what is no address.
        """
        self.options = options
        self._server = Server(options)
        self._without: frozenset[str] = frozenset()
        # Whether plain prompts and texts go to TGI's own routes; None where that is still to be seen.
        self._native = {"tgi": True, "openai": False, "auto": None}[options.api]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        """An answer for each request, in their order; one that fails carries its error and costs no other.

        Args:
            follow: told each answer as it comes; what it returns is asked next. The answers to that go to
                `follow` alone.
        """
        return gathered(self._run(requests, follow, in_pieces=False), len(requests))

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, in_pieces: bool = True
    ) -> Iterator[Chunk]:
        """As `generate`, piece by piece as the server sends them, those of all requests mixed.

        Requests are taken as places get free; None among them says that the next one is not there yet. An
        answer that fails after its first piece is not asked for again: its last chunk has the error. Pieces
        hold what a model thinks where its template has begun the thought, for then nothing tells so before
        its end; the answer does not.

        Args:
            in_pieces: False gives each answer whole.
        """
        return self._run(requests, follow, in_pieces)

    def embed(
        self, texts: Sequence[str], options: EmbeddingOptions | None = None, kind: str | None = None
    ) -> np.ndarray:
        """A vector for each text, as the server makes it.

        Args:
            options: prefixes and `normalize`; pooling and windows are the server's own.
            kind: "query" or "document": which prefix a text gets; None: none.

        Returns:
            (texts, dim) in float32; (0, 0) of no texts.

        Raises:
            ConfigurationError: a `kind` that there is not, or an option that only the server can have.
            GenerationError: no vectors, and why.
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

    def score(self, *_: Any, **__: Any) -> NoReturn:
        """Not of a server."""
        raise _unsupported("score")

    def next_logits(self, *_: Any, **__: Any) -> NoReturn:
        """Not of a server."""
        raise _unsupported("next_logits")

    def hidden_states(self, *_: Any, **__: Any) -> NoReturn:
        """Not of a server."""
        raise _unsupported("hidden_states")

    def save(self, *_: Any, **__: Any) -> NoReturn:
        """Not of a server."""
        raise _unsupported("save")

    def _run(
        self, requests: Iterable[Request | None], follow: Follow | None, in_pieces: bool
    ) -> Iterator[Chunk]:
        chunks: SimpleQueue[Chunk] = SimpleQueue()
        coming = chain(requests, repeat(_END))
        live: dict[int, Future[None]] = {}
        asked = 0

        def ask(index: int, request: Request) -> None:
            live[index] = self._submit(self._serve(index, request, in_pieces, chunks.put))

        try:
            with Progress(len(requests) if isinstance(requests, Sized) else 0) as progress:
                while True:
                    request: object = _END
                    while len(live) < self.options.max_concurrent and isinstance(
                        request := next(coming), Request
                    ):
                        ask(asked, request)
                        asked += 1
                    if not live:
                        if request is _END:
                            return
                        continue
                    try:
                        chunk = chunks.get(timeout=PATIENCE if request is None else None)
                    except Empty:
                        continue
                    following = None
                    if chunk.answer is not None:
                        del live[chunk.index]
                        progress.answered(chunk.answer.usage.completion_tokens, len(live))
                        following = follow(chunk.index, chunk.answer) if follow else None
                    yield chunk
                    if following is not None:
                        ask(chunk.index, following)
        finally:
            for future in live.values():
                future.cancel()

    async def _serve(
        self, index: int, request: Request, in_pieces: bool, put: Callable[[Chunk], None]
    ) -> None:
        """Puts an answer's pieces, and in the end the answer, whatever happens."""
        options = request.options
        trim = request.prompt is None
        try:
            if trim and options.chat_template:
                request = routes.written(request)
                options = request.options
            growth = Growth(options.stop, trim)
            give = (lambda text: put(Chunk(index, text))) if in_pieces else None
            reply = await self._replied(request, trim, growth, give)
            answer = reply.answer(options)
            put(Chunk(index, growth.last(answer.text, reply.given), answer))
        except AdapterError as error:
            put(Chunk(index, "", Answer.failed(error)))
        except Exception as error:  # One request may not cost the others their answers.
            logger.debug("an answer was not understood: %s", self._server.redacted(repr(error)))
            reason = GenerationError(f"{self._server.name} was not understood ({type(error).__name__})")
            put(Chunk(index, "", Answer.failed(reason)))

    async def _replied(
        self, request: Request, chat: bool, growth: Growth, give: Callable[[str], None] | None
    ) -> Reply:
        given = False

        def repeatable() -> bool:
            return not given

        async def read(route: routes.Route, without: frozenset[str], client: Client) -> Reply:
            nonlocal given
            reply = Reply(self._server, chat)
            async for body in route(client, request, give is not None, without):
                reply.read(body)
                if give and (piece := growth.more(reply.text)):
                    given = True
                    give(piece)
            if give and reply.finish is None:
                raise Dropped(f"{self._server.name} cut its answer off: its log may say why")
            reply.end()
            return reply

        async def ask(route: routes.Route) -> Reply:
            return await self._with_extras(partial(read, route), repeatable)

        if request.prompt is None:
            return await ask(routes.chat)
        return await self._by_either(ask, routes.completion, routes.tgi)

    async def _vectors(self, texts: list[str], options: EmbeddingOptions) -> np.ndarray:
        async def ask(route: embedding.Route) -> np.ndarray:
            return await self._server.ask(lambda client: route(client, texts, options))

        return await self._by_either(ask, embedding.openai, embedding.native)

    async def _by_either(
        self, ask: Callable[[Route], Awaitable[Result]], openai: Route, native: Route
    ) -> Result:
        """What one of two routes answers: which of them a server has is seen once."""
        if self._native or self._server.address.hub:
            return await ask(native)
        try:
            result = await ask(openai)
        except Refused as refused:
            if self._native is False or refused.status not in (404, 405):
                raise
            try:
                result = await ask(native)
            except AdapterError:
                raise refused from None
            self._native = True
        else:
            self._native = False
        return result

    async def _with_extras(
        self, call: Callable[[frozenset[str], Client], Awaitable[Result]], repeatable: Callable[[], bool]
    ) -> Result:
        """What a server answers; one that refuses an extra by its name is asked without, from then on."""
        without = self._without
        while True:
            try:
                result = await self._server.ask(partial(call, without), repeatable)
            except Refused as refused:
                named = {extra for extra in routes.EXTRAS - without if extra in refused.said}
                if not 400 <= refused.status < 429 or not named:
                    raise
                without = without | named
            else:
                if "logprobs" in without - self._without:
                    logger.warning("%s gives no log-probabilities: confidence is unknown", self._server.name)
                self._without |= without
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
        await loop.shutdown_asyncgens()  # Else what was not read to its end is complained of.
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)


def _unsupported(what: str) -> Unsupported:
    return Unsupported(f"{what} needs the model itself, and a server has it: set backend to local")
