"""Feature sets and the feature vectors in them."""

from typing import Any

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.store import Record, Refusal

routes = web.RouteTableDef()


def _in_projects(records: list[Record], query: Record) -> list[Record]:
    projects = (query.get("context") or {}).get("projects")
    return records if projects is None else [r for r in records if r["project"] in projects]


@routes.post("/features/sets")
async def create_set(request: web.Request) -> list[Record]:
    store, body = request.app[STORE], await request.json()
    require(body, "name", "entityType")
    store.get("projects", body.get("project"))
    if not isinstance(body.get("size"), int) or body["size"] < 1:
        raise Refusal(400, "'size' must be a positive integer")
    return [store.add("feature_sets", body, request[USER])]


@routes.get("/features/sets/{id}")
async def get_set(request: web.Request) -> Record:
    return request.app[STORE].get("feature_sets", request.match_info["id"])


@routes.delete("/features/sets/{id}")
async def delete_set(request: web.Request) -> Record:
    request.app[STORE].remove("feature_sets", request.match_info["id"])
    return {}


@routes.post("/features/sets/query")
async def query_sets(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    return page(select(store, _in_projects(store.find("feature_sets"), body), body), body)


@routes.post("/features/vectors")
async def create_vectors(request: web.Request) -> list[Record]:
    store, body = request.app[STORE], await request.json()
    for vector in body:  # all or none
        store.get("items", vector.get("entityId"))
        size = store.get("feature_sets", vector.get("featureSetId"))["size"]
        if len(vector.get("value") or []) != size:
            raise Refusal(400, f"A vector of this feature set has {size} numbers")
    return [store.add("features", vector, request[USER]) for vector in body]


@routes.delete("/features/vectors/{id}")
async def delete_vector(request: web.Request) -> Record:
    request.app[STORE].remove("features", request.match_info["id"])
    return {}


@routes.post("/features/vectors/query")
async def query_vectors(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    return page(select(store, _in_projects(store.find("features"), body), body), body)
