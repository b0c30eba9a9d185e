"""How a server is reached: bounded bodies, a timeout, retries, and errors that say what to do."""

import asyncio
import itertools
import json
import logging
import random
import sys
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from huggingface_hub import AsyncInferenceClient
from huggingface_hub.utils import build_hf_headers

from engine import redaction
from engine.backends.endpoint import address, app
from engine.backends.endpoint.events import events
from engine.backends.endpoint.refusals import Dropped, Rejected, hint, seconds
from engine.environment import hub_token
from engine.errors import AdapterError, ConfigurationError, GenerationError
from engine.options import EndpointOptions

try:
    import httpx2 as httpx
except ImportError:  # What the hub library sent its requests with before its version 2.
    import httpx  # type: ignore[no-redef]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

LIMIT = 64 * 2**20  # Bytes of an answer's body: no server has more to say.
REDIRECTS = 3
_LONGEST_WAIT = 30  # Seconds between two tries, where the server names none.


class Client(AsyncInferenceClient):
    """The hub library's client for one request, sent by us: bounded, and refused in one way.

    What it opens is closed with it.

    Attributes:
        answers: what comes in pieces, where it does.
    """

    def __init__(self, server: "Server", session: httpx.AsyncClient) -> None:
        where = server.address
        place: dict[str, Any] = {"base_url": f"{where.openai}/chat/completions"}
        if where.hub:
            place = {"model": server.options.model_name, "provider": server.options.provider or "auto"}
        super().__init__(token=where.token, headers=cast(Any, dict(where.headers)), **place)
        self.server = server
        self.session = session
        self.where = where
        self.sent = False
        self.answers: AsyncIterator[Any]

    async def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        asked = request_parameters
        found = await self.send(asked.url, asked.json, asked.headers, stream)
        if not stream and (b"NaN" in found or b"Infinity" in found):  # On which the hub library never ends.
            found = json.dumps(json.loads(found, parse_constant=_finite)).encode()
        return found

    async def post(self, route: str, body: dict[str, Any], stream: bool = False) -> Any:
        """What an OpenAI route answers, as bytes; where it streams, in `answers`."""
        headers = build_hf_headers(token=False) | dict(self.headers)
        return await self.send(f"{self.where.openai}/{route}", body, headers, stream)

    async def send(self, url: str, body: Any, headers: dict[str, Any], stream: bool) -> Any:
        """Posts JSON.

        Raises:
            Rejected, Dropped: no answer; whether to ask again is for `Server.ask` to decide.
        """
        headers = {key: value for key, value in headers.items() if value is not None}
        try:
            request = self.session.build_request("POST", url, json=body, headers=headers)
            self.sent = True
            response = await self._answered(request)
        except httpx.HTTPError as error:
            raise self.server.dropped(error) from None
        self.exit_stack.push_async_callback(response.aclose)
        if not response.is_success:
            raise self.server.refused(response, await self._first(response))
        if stream:
            self.answers = events(self._parts(response))
            return self.answers
        return b"".join([part async for part in self._parts(response)])

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        """What answers, after redirects within one host: what is sent is for no other."""
        for _ in range(REDIRECTS):
            response = await self.session.send(request, stream=True, follow_redirects=False)
            following = response.next_request
            if following is None or following.method != "POST" or not _same(request.url, following.url):
                return response
            await response.aclose()
            request = following
        return await self.session.send(request, stream=True, follow_redirects=False)

    async def _parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in response.aiter_bytes():
                size += len(part)
                if size > LIMIT:
                    raise GenerationError(
                        f"{self.server.name} answered with more than {LIMIT // 2**20} MiB: check base_url"
                    )
                yield part
        except httpx.HTTPError as error:
            raise self.server.dropped(error) from None

    async def _first(self, response: httpx.Response) -> bytes:
        """The beginning of a body that says why there is no answer."""
        body = b""
        with suppress(httpx.HTTPError):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > 2**16:
                    break
        return body


class Server:
    """One server and what is known of it. All of it runs in one event loop.

    Attributes:
        name: how errors call it: its address without passwords, or the hub's router.
    """

    def __init__(self, options: EndpointOptions) -> None:
        """Looks up where the server is; asks nothing yet.

        Raises:
            ConfigurationError: no server is named, or in two ways, or by what is no address.
        """
        self.options = options
        self.address = address.find(options, hub_token())
        self.name = self.address.name
        self._places = asyncio.Semaphore(options.max_concurrent)
        self._session: httpx.AsyncClient | None = None
        self._finding = asyncio.Lock()
        if self.address.withheld:
            logger.warning("the token is not sent to %s: use https, for http can be read along", self.name)

    async def ask(
        self, call: Callable[[Client], Awaitable[Result]], repeatable: Callable[[], bool] = lambda: True
    ) -> Result:
        """What a call makes of a server's answer; asked again where it is put off or cut off.

        Args:
            repeatable: whether the call may still be made again; False once a part of its answer is out.

        Raises:
            GenerationError: no answer, and why.
            ConfigurationError: a request that cannot be sent.
        """
        for attempt in itertools.count():
            try:
                return await self._once(call)
            except (Rejected, Dropped) as error:
                wait = self._wait(error, attempt)
                if wait is None or not repeatable():
                    raise
                if attempt == self.options.retries:
                    again = f" (asked {attempt + 1} times)" if attempt else ""
                    raise GenerationError(f"{error}{again}") from None
            await sleep(wait)
        raise AssertionError

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.aclose()

    def refused(self, response: httpx.Response, body: bytes) -> Rejected:
        """The error for an answer that is no success."""
        status, said = response.status_code, body.decode("utf-8", "replace").lower()
        codes = redaction.codes(body, self.address.secrets, status)
        why = f"status {status}, {codes}" if codes else f"status {status}"
        text = f"{self.name} refused the request ({why}): {hint(status, said)}"
        if status in (401, 403) and self.address.withheld:
            text += " - it is not sent over plain http: use https"
        return Rejected(text, status, said, seconds(response.headers.get("retry-after")))

    def broke_off(self, said: Any) -> GenerationError:
        """The error for an answer that is one."""
        codes = redaction.codes(said, self.address.secrets)
        return GenerationError(f"{self.name} broke off{f' ({codes})' if codes else ''}: its log may say why")

    def dropped(self, error: Exception) -> Dropped:
        """The error for a connection that was not to be had, or ended early."""
        why = type(error).__name__
        if isinstance(error, httpx.ConnectError):  # Nothing was sent yet that could be quoted.
            why = self.redacted(str(error)) or why
        return Dropped(
            f"{self.name} cannot be reached, or ended the connection ({why}): check base_url, and its log"
        )

    def redacted(self, text: str) -> str:
        """A text for people, in one line, without what is secret."""
        return " ".join(redaction.redacted(text, self.address.secrets).split())

    async def _once(self, call: Callable[[Client], Awaitable[Result]]) -> Result:
        try:
            async with (
                self._places,
                asyncio.timeout(self.options.timeout),
                Client(self, await self._found()) as client,
            ):
                try:
                    return await call(client)
                except AdapterError:
                    raise
                except Exception as error:  # The hub library reads answers without checking them.
                    raise self._unread(error, client.sent) from None
        except TimeoutError:
            raise GenerationError(
                f"{self.name} gave no answer within {self.options.timeout:g} seconds: raise timeout, or "
                "lower max_new_tokens or max_concurrent"
            ) from None

    def _unread(self, error: Exception, sent: bool) -> AdapterError:
        kind = type(error).__name__
        if not sent:
            return ConfigurationError(f"{self.name} cannot be asked: {self.redacted(str(error)) or kind}")
        logger.debug("an answer that cannot be read: %s", self.redacted(repr(error)))
        return GenerationError(f"{self.name} answered what cannot be read ({kind}): check base_url and api")

    async def _found(self) -> httpx.AsyncClient:
        """What sends requests, once the server's address is known."""
        async with self._finding:
            if self._session is None:
                # `max_concurrent` and `timeout` bound it, above.
                limits = httpx.Limits(max_connections=None)
                direct = {self.address.loopback: None} if self.address.loopback else None
                self._session = httpx.AsyncClient(limits=limits, follow_redirects=True, mounts=direct)
                self._session.timeout = None
            if self.address.app_id and not self.address.openai:
                try:
                    self.address = self.address.of_app(*await app.find(self.address.app_id, self._session))
                except httpx.HTTPError as error:
                    raise self.dropped(error) from None
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise self._unread(error, sent=True) from None
        return self._session

    def _wait(self, error: Rejected | Dropped, attempt: int) -> float | None:
        """Seconds until the request may be sent again; None where it may not."""
        backoff = min(2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
        if isinstance(error, Dropped):
            return backoff
        if error.status in (401, 403) and self.address.app_id and attempt == 0:
            self.address = self.address.forgotten()  # Its cookie may have run out.
            return 0
        if error.status != 429 and error.status < 500:
            return None
        if error.retry_after is None:
            return backoff
        # All that were put off together should not come back together.
        wait = error.retry_after + backoff
        return wait if error.retry_after <= self.options.timeout else None


def _finite(number: str) -> float | None:
    return -sys.float_info.max if number == "-Infinity" else None


def _same(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether a redirect stays with whom it was asked; from http to https it does."""
    ports = (one.port, other.port)
    upgraded = (one.scheme, other.scheme) == ("http", "https") and ports == (None, None)
    return one.host == other.host and (upgraded or (one.scheme == other.scheme and ports[0] == ports[1]))


def _wordless(record: logging.LogRecord) -> bool:
    """The HTTP library's line for a request, without the server's words at its end."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        record.args = (*record.args[:4], "")
    return True


logging.getLogger(httpx.__name__).addFilter(_wordless)
