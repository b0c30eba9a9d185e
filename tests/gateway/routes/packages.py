"""Packages, the older way to publish code."""

from typing import Any

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.store import Record, Refusal, merge

routes = web.RouteTableDef()


@routes.get("/piper-misc/naming/packages/{name}")
async def check_name(request: web.Request) -> Record:
    name = request.match_info["name"]
    if name != name.lower() or " " in name:
        raise Refusal(400, f"A package name has no capitals and no spaces: {name!r}")
    return {}


@routes.post("/packages")
async def create(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    require(body, "name")
    store.get("projects", body.get("projectId"))
    if store.find("packages", projectId=body["projectId"], name=body["name"]):
        raise Refusal(409, f"The project already has a package named {body['name']!r}")
    return store.add("packages", {"version": "1.0.0"} | body, request[USER])


@routes.get("/packages/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("packages", request.match_info["id"])


@routes.patch("/packages/{id}")
async def update(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    package = store.get("packages", request.match_info["id"])
    merge(package, {key: value for key, value in body.items() if key not in ("id", "createdAt", "creator")})
    return store.touch(package, request[USER])


@routes.delete("/packages/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("packages", request.match_info["id"])
    return {}


@routes.post("/query/faas")
async def query(request: web.Request) -> Any:
    """Packages, services and executions share one query."""
    store, body = request.app[STORE], await request.json()
    resource = body.get("resource")
    if resource not in ("packages", "services", "executions"):
        raise Refusal(400, f"Cannot query {resource!r} here: packages, services or executions only")
    return page(select(store, store.find(resource), body), body)
