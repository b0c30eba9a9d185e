"""The servers of apps: a route that opens them by a cookie, and one that forwards requests to their port."""

import asyncio

import aiohttp
from aiohttp import web

from tests.gateway.api import PREFIX, SERVICES, STORE
from tests.gateway.auth import COOKIE
from tests.gateway.store import Refusal

routes = web.RouteTableDef()
# Headers that are of one connection.
_HOPS = {"connection", "content-length", "host", "transfer-encoding", "cookie", "authorization"}


@routes.get("/open/{id}/{path:.*}")
async def open_server(request: web.Request) -> web.Response:
    """Send the user on to the server, with the cookie that opens it."""
    service = request.app[STORE].get("services", request.match_info["id"])
    path = f"{service['panelNames'][0]}/{request.match_info['path']}"
    location = f"{PREFIX}/servers/{service['id']}/{path}"
    response = web.Response(status=302, headers={"Location": location})
    response.set_cookie(COOKIE, request.headers["Authorization"].partition(" ")[2])
    return response


@routes.route("*", "/servers/{id}/{path:.*}")
async def forward(request: web.Request) -> web.StreamResponse:
    """Hand a request to the service's port, as soon as it listens, and its answer back."""
    service = request.app[STORE].get("services", request.match_info["id"])
    path = request.match_info["path"].removeprefix(f"{service['panelNames'][0]}/")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOPS}
    url, body = f"http://127.0.0.1:{service['port']}/{path}", await request.read()
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                answer = await session.request(request.method, url, headers=headers, data=body)
                break
            except aiohttp.ClientConnectorError:
                if not request.app[SERVICES].runs(service["id"]):
                    log = request.app[SERVICES].log(service["id"])
                    raise Refusal(503, f"The service has ended:\n{log[-4000:]}") from None
                await asyncio.sleep(0.05)
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
        await response.prepare(request)
        async for part in answer.content.iter_any():
            await response.write(part)
        await response.write_eof()
        return response
