"""Users and projects."""

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.store import Record

routes = web.RouteTableDef()


@routes.get("/users/me")
async def who_am_i(request: web.Request) -> Record:
    return {"id": request[USER], "email": request[USER]}


@routes.post("/projects")
async def create(request: web.Request) -> Record:
    body = dict(await request.post())  # the SDK sends this one body as a form
    require(body, "name")
    store, user = request.app[STORE], request[USER]
    project = store.add("projects", {"name": body["name"], "role": "owner", "org": {"id": "org"}}, user)
    binaries = {"name": "Binaries", "projects": [project["id"]], "metadata": {"system": {"scope": "system"}}}
    store.add("datasets", binaries, user)
    return project


@routes.get("/projects")
async def list_all(request: web.Request) -> list[Record]:
    return request.app[STORE].find("projects")


@routes.get("/projects/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("projects", request.match_info["id"])


@routes.get("/projects/{name}/name")
async def get_by_name(request: web.Request) -> list[Record]:
    return request.app[STORE].find("projects", name=request.match_info["name"])


@routes.delete("/projects/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("projects", request.match_info["id"])
    return {}
