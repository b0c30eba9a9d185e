"""The gateway itself: an HTTP server in a thread, its dials, and the log of what was asked."""

import asyncio
import atexit
import contextlib
import json
import random
import re
import secrets
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.gateway import auth
from tests.gateway.api import LOOKS, PREFIX, SERVICES, STORE, USER
from tests.gateway.dials import Fault, Request
from tests.gateway.routes import ROUTES
from tests.gateway.services import Services
from tests.gateway.store import Refusal, Store


class Gateway:
    """A local Dataloop on a free loopback port, usable as a context manager.

    Args:
        port: The port to listen on; 0 takes a free one.
        latency: Seconds that every request waits before it is looked at.

    Attributes:
        latency: May be changed at any time.
        requests: Every `Request` so far, in the order in which they were answered.
        unknown: Those that no route knows; they were answered 501.
    """

    def __init__(self, port: int = 0, latency: float = 0.0):
        self.port = port
        self.latency = latency
        self.requests: list[Request] = []
        self.unknown: list[Request] = []
        self._faults: list[Fault] = []
        self._secret = secrets.token_hex(32)

    @property
    def url(self) -> str:
        """The environment URL, as the SDK calls it."""
        return f"http://127.0.0.1:{self.port}{PREFIX}"

    def start(self) -> Self:
        """Listen; raises OSError when the port is taken."""
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        try:
            started.result()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop listening, end the processes of all services and remove every file. May be called twice."""
        atexit.unregister(self.stop)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def token(self, user: str = auth.TESTER, expires_in: float = 24 * 3600) -> str:
        """A token that this gateway accepts, and no other gateway does."""
        return auth.new_token(self._secret, user, expires_in)

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment variables that log an SDK in to this gateway, its files kept in `folder`."""
        return auth.write_cookie(folder, self.url, self.token())

    def fail(
        self,
        method: str | None = None,
        path: str = "",
        nth: int = 1,
        status: int = 503,
        when: str = "before",
        drop: bool = False,
        times: float = 1,
        headers: Mapping[str, str] | None = None,
        body: str = "",
        share: float = 1.0,
        garble: Callable[[bytes], bytes] | None = None,
    ) -> Fault:
        """Make requests fail on purpose.

        Args:
            method: GET, POST, ... or any.
            path: A regular expression searched for in the path without `/api/v1`.
            nth: The first matching request that fails, counted from 1 from now on.
            status: What it is answered.
            when: "before" it took effect, or "after" (then it is done all the same).
            drop: Close the connection instead of answering.
            times: How many matching requests fail in a row; `math.inf` for all.
            headers: Of the answer, `Retry-After` for example.
            body: A regular expression searched for in the JSON of the request.
            share: How many of those fail, at random but the same in each run.
            garble: Makes another body of the one it would be answered, which else would be the failure's; it
                is answered 200 where `status` says so.
        """
        if when not in ("before", "after"):
            raise ValueError(f"when must be 'before' or 'after', not {when!r}")
        chance = random.Random(len(self._faults)) if share < 1 else None
        fault = Fault(
            method,
            re.compile(path),
            nth,
            times,
            status,
            when,
            drop,
            headers or {},
            re.compile(body),
            chance,
            share,
            garble,
        )
        self._faults.append(fault)
        return fault

    def sent(self, method: str | None = None, path: str = "") -> list[Request]:
        """The logged requests with this method whose path (without `/api/v1`) has a match."""
        return [r for r in self.requests if method in (None, r.method) and re.search(path, r.path)]

    def service_log(self, service_id: str) -> str:
        """All that the process of a service has printed so far."""
        return self._services.log(service_id)

    async def _serve(self, started: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 30)
        for route in ROUTES:
            app.router.add_route(route.method, PREFIX + route.path, route.handler)
        store = app[STORE] = Store(self._folder)
        self._services = app[SERVICES] = Services(store, self._folder, self._login)
        app[LOOKS] = set()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.port = runner.addresses[0][1]
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)
            await self._stopping.wait()
        self._services.stop()
        await runner.cleanup()

    def _login(self, folder: Path, user: str) -> dict[str, str]:
        return auth.write_cookie(folder, self.url, self.token(user))

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        await asyncio.sleep(self.latency)
        path = request.path.removeprefix(PREFIX)
        log = Request(request.method, path, dict(request.query), None, "")
        dropped = False
        try:
            log.user = request[USER] = auth.user_of(
                self._secret, auth.login_of(request.headers, request.cookies)
            )
            if request.content_type == "application/json" and request.can_read_body:
                log.json = await request.json()
            fault = next((f for f in self._faults if f.strikes(request.method, path, log.json)), None)
            if fault is None or fault.when == "after":
                response = await self._answer(request, handler, log)
            if fault is not None and fault.garble is not None:
                body = response.body if fault.when == "after" else b""
                response = web.Response(body=fault.garble(body), status=fault.status, headers=fault.headers)
            elif fault is not None:
                response = web.json_response(
                    {"message": f"Failed on purpose {fault.when} it took effect"},
                    status=fault.status,
                    headers=fault.headers,
                )
                dropped = fault.drop
        except Refusal as refusal:
            response = web.json_response({"message": refusal.message}, status=refusal.status)
        except json.JSONDecodeError as error:
            response = web.json_response({"message": f"The body is not JSON: {error}"}, status=400)
        except Exception:
            message = f"A fault in the gateway itself:\n{traceback.format_exc()}"
            response = web.json_response({"message": message}, status=500)
        if dropped and request.transport is not None:
            request.transport.close()
        log.status = 0 if dropped else response.status
        self.requests.append(log)
        return response

    async def _answer(self, request: web.Request, handler: Any, log: Request) -> web.StreamResponse:
        if request.match_info.http_exception is not None:
            self.unknown.append(log)
            # The SDK tries a 501 five times over; this keeps it from waiting 30 seconds for it.
            return web.json_response(
                {"message": f"The gateway has no route {request.method} {log.path}"},
                status=501,
                headers={"Retry-After": "1"},
            )
        answer = await handler(request)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)
