"""HTTP to a server: size limits, timeouts, retries, and errors that say what to do."""

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

import huggingface_hub
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.utils import build_hf_headers

from engine import redaction
from engine.backends.endpoint import address, app
from engine.backends.endpoint.events import events
from engine.backends.endpoint.rejections import Dropped, Rejected, hint
from engine.environment import hub_token
from engine.errors import AdapterError, ConfigurationError, GenerationError
from engine.options import EndpointOptions
from engine.retry import retry_after

try:
    import httpx2 as httpx
except ImportError:  # huggingface_hub < 2 depends on httpx.
    import httpx  # type: ignore[no-redef]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

if not hasattr(AsyncInferenceClient, "_inner_post"):  # Else requests would be sent without `Client`'s limits.
    raise ConfigurationError(
        f"huggingface_hub {huggingface_hub.__version__} sends requests by another method than the one that "
        "backend: endpoint overrides: install the version that constraints.txt names"
    )

LIMIT = 64 * 2**20  # Bytes of a response body: more than any answer has.
REDIRECTS = 3
_LONGEST_WAIT = 30  # Seconds between two tries, if the server sends no Retry-After.


class Client(AsyncInferenceClient):
    """The hub library's client for one request; `_inner_post` sends it with our limits and errors.

    Closing the client closes its response.

    Attributes:
        answers: the events of a streamed response.
    """

    def __init__(self, server: "Server", session: httpx.AsyncClient) -> None:
        address = server.address
        target: dict[str, Any] = {"base_url": f"{address.openai}/chat/completions"}
        if address.hub:
            target = {"model": server.options.model_name, "provider": server.options.provider or "auto"}
        super().__init__(token=address.token, headers=cast(Any, dict(address.headers)), **target)
        self.server = server
        self.session = session
        self.address = address
        self.sent = False
        self.answers: AsyncIterator[Any]

    async def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        parameters = request_parameters
        found = await self.send(parameters.url, parameters.json, parameters.headers, stream)
        if not stream and (b"NaN" in found or b"Infinity" in found):  # The hub library hangs on these.
            found = json.dumps(json.loads(found, parse_constant=_finite)).encode()
        return found

    async def post(self, route: str, body: dict[str, Any], stream: bool = False) -> Any:
        """Posts to an OpenAI route; returns the body as bytes. Events of a stream are in `answers`."""
        headers = build_hf_headers(token=False) | dict(self.headers)
        return await self.send(f"{self.address.openai}/{route}", body, headers, stream)

    async def send(self, url: str, body: Any, headers: dict[str, Any], stream: bool) -> Any:
        """Posts JSON.

        Raises:
            Rejected: a status that is not a success.
            Dropped: no connection, or one that ended early.
        """
        headers = {key: value for key, value in headers.items() if value is not None}
        try:
            request = self.session.build_request("POST", url, json=body, headers=headers)
            self.sent = True
            response = await self._response(request)
        except httpx.HTTPError as error:
            raise self.server.dropped(error) from None
        self.exit_stack.push_async_callback(response.aclose)
        if not response.is_success:
            raise self.server.rejected(response, await self._error_body(response))
        if stream:
            self.answers = events(self._body(response))
            return self.answers
        return b"".join([part async for part in self._body(response)])

    async def _response(self, request: httpx.Request) -> httpx.Response:
        """The response, after redirects within one host: the request must not go to another one."""
        for _ in range(REDIRECTS):
            response = await self.session.send(request, stream=True, follow_redirects=False)
            following = response.next_request
            if following is None or following.method != "POST" or not _same_server(request, following):
                return response
            await response.aclose()
            request = following
        return await self.session.send(request, stream=True, follow_redirects=False)

    async def _body(self, response: httpx.Response) -> AsyncIterator[bytes]:
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

    async def _error_body(self, response: httpx.Response) -> bytes:
        """The first 64 KiB of the body of an error response."""
        body = b""
        with suppress(httpx.HTTPError):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > 2**16:
                    break
        return body


class Server:
    """A server, with its connections. All of its coroutines run in one event loop.

    Attributes:
        name: its name in errors: the address without passwords, or the hub's router.
    """

    def __init__(self, options: EndpointOptions, token: str | None = None) -> None:
        """Resolves the server's address; sends nothing yet.

        Args:
            token: to send instead of the hub's.

        Raises:
            ConfigurationError: no server is named, more than one is, or the address is invalid.
        """
        self.options = options
        self.address = address.find(options, token or hub_token())
        self.name = self.address.name
        self._slots = asyncio.Semaphore(options.max_concurrent)
        self._session: httpx.AsyncClient | None = None
        self._connecting = asyncio.Lock()
        if self.address.withheld:
            logger.warning(
                "the token is not sent to %s: use https, because plain http can be intercepted", self.name
            )

    async def ask(
        self, call: Callable[[Client], Awaitable[Result]], repeatable: Callable[[], bool] = lambda: True
    ) -> Result:
        """Makes a call, with retries after dropped connections and the statuses 429 and 5xx.

        Args:
            repeatable: whether the call may be made again; False once a part of its answer has been given.

        Raises:
            GenerationError: no answer; the text says why.
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

    def rejected(self, response: httpx.Response, body: bytes) -> Rejected:
        """The error of a response whose status is not a success."""
        status, said = response.status_code, body.decode("utf-8", "replace").lower()
        codes = redaction.codes(body, self.address.secrets, status)
        why = f"status {status}, {codes}" if codes else f"status {status}"
        text = f"{self.name} rejected the request ({why}): {hint(status, said)}"
        if status in (401, 403) and self.address.withheld:
            text += " - it is not sent over plain http: use https"
        return Rejected(text, status, said, retry_after(response.headers.get("retry-after")))

    def broke_off(self, said: Any) -> GenerationError:
        """The error of an answer that contains an error."""
        codes = redaction.codes(said, self.address.secrets)
        return GenerationError(f"{self.name} reported an error{f' ({codes})' if codes else ''}: see its log")

    def dropped(self, error: Exception) -> Dropped:
        """The error of a connection that failed or ended early."""
        why = type(error).__name__
        if isinstance(error, httpx.ConnectError):  # Nothing was sent yet, so the text quotes no prompt.
            why = self.redacted(str(error)) or why
        return Dropped(
            f"{self.name} cannot be reached, or ended the connection ({why}): check base_url, and its log"
        )

    def redacted(self, text: str) -> str:
        """A text in one line, without secrets."""
        return " ".join(redaction.redacted(text, self.address.secrets).split())

    async def _once(self, call: Callable[[Client], Awaitable[Result]]) -> Result:
        try:
            async with (
                self._slots,
                asyncio.timeout(self.options.timeout),
                Client(self, await self._connected()) as client,
            ):
                try:
                    return await call(client)
                except AdapterError:
                    raise
                except Exception as error:  # The hub library does not validate answers.
                    raise self._unread(error, client.sent) from None
        except TimeoutError:
            raise GenerationError(
                f"{self.name} gave no answer within {self.options.timeout:g} seconds: raise timeout, or "
                "lower max_new_tokens or max_concurrent"
            ) from None

    def _unread(self, error: Exception, sent: bool) -> AdapterError:
        kind = type(error).__name__
        if not sent:
            return ConfigurationError(
                f"a request to {self.name} cannot be sent: {self.redacted(str(error)) or kind}"
            )
        logger.debug("an invalid response: %s", self.redacted(repr(error)))
        return GenerationError(f"{self.name} sent an invalid response ({kind}): check base_url and api")

    async def _connected(self) -> httpx.AsyncClient:
        """The HTTP session, after the server's address was found."""
        async with self._connecting:
            if self._session is None:
                # `_once` bounds it, by `max_concurrent` and `timeout`.
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
        """Seconds until the request is sent again; None if it must not be."""
        backoff = min(2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
        if isinstance(error, Dropped):
            return backoff
        if error.status in (401, 403) and self.address.app_id and attempt == 0:
            self.address = self.address.forgotten()  # Its cookie may have expired.
            return 0
        if error.status != 429 and error.status < 500:
            return None
        if error.retry_after is None:
            return backoff
        # Jitter: requests that were rejected together are not sent again together.
        wait = error.retry_after + backoff
        return wait if error.retry_after <= self.options.timeout else None


def _finite(number: str) -> float | None:
    return -sys.float_info.max if number == "-Infinity" else None


def _same_server(request: httpx.Request, following: httpx.Request) -> bool:
    """Whether a redirect stays on the same server; from http to https it does."""
    one, other = request.url, following.url
    ports = (one.port, other.port)
    upgraded = (one.scheme, other.scheme) == ("http", "https") and ports == (None, None)
    return one.host == other.host and (upgraded or (one.scheme == other.scheme and ports[0] == ports[1]))


def _drop_reason_phrase(record: logging.LogRecord) -> bool:
    """Removes the server's reason phrase from the HTTP library's log line."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        record.args = (*record.args[:4], "")
    return True


logging.getLogger(httpx.__name__).addFilter(_drop_reason_phrase)
