"""Annotations of items. They are listed by the query of their dataset."""

from aiohttp import web

from tests.gateway.api import STORE, USER, allowed_metadata, require
from tests.gateway.store import Record, merge

routes = web.RouteTableDef()


@routes.post("/items/{id}/annotations")
async def create(request: web.Request) -> list[Record]:
    store, body = request.app[STORE], await request.json()
    item = store.get("items", request.match_info["id"])
    sent = body if isinstance(body, list) else [body]
    for annotation in sent:  # all or none
        require(annotation, "type", "label")
    place = {"itemId": item["id"], "datasetId": item["datasetId"], "item": item["url"]}
    created = [store.add("annotations", {"metadata": {}} | a | place, request[USER]) for a in sent]
    store.count_annotations(item["id"])
    return created


@routes.get("/annotations/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("annotations", request.match_info["id"])


@routes.put("/annotations/{id}")
async def update(request: web.Request) -> Record:
    annotation = request.app[STORE].get("annotations", request.match_info["id"])
    merge(annotation, allowed_metadata(request, await request.json()))
    return request.app[STORE].touch(annotation, request[USER])


@routes.delete("/annotations/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("annotations", request.match_info["id"])
    return {}
