"""Datasets, and the query over the items and annotations of one."""

from typing import Any

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.store import Record, Refusal, Store, merge

routes = web.RouteTableDef()


@routes.post("/datasets")
async def create(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    require(body, "name")
    for project_id in body.get("projects") or [None]:
        store.get("projects", project_id)
    dataset = {"name": body["name"], "projects": body["projects"], "metadata": {"system": {}}}
    return store.add("datasets", dataset, request[USER])


@routes.get("/datasets/{id}")
async def get(request: web.Request) -> Record:
    store = request.app[STORE]
    dataset = store.get("datasets", request.match_info["id"])
    return dataset | {"itemsCount": len(store.find("items", datasetId=dataset["id"]))}


@routes.patch("/datasets/{id}")
async def update(request: web.Request) -> Record:
    store = request.app[STORE]
    dataset = store.get("datasets", request.match_info["id"])
    merge(dataset["metadata"], (await request.json()).get("metadata", {}))
    return store.touch(dataset, request[USER])


@routes.delete("/datasets/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("datasets", request.match_info["id"])
    return {}


@routes.post("/datasets/query")
async def query(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    projects = (body.get("context") or {}).get("projects")
    hidden = not body.get("systemSpace")
    datasets = [
        dataset
        for dataset in store.find("datasets")
        if (projects is None or set(projects) & set(dataset["projects"]))
        and not (hidden and dataset["metadata"]["system"].get("scope") == "system")
    ]
    return page(select(store, datasets, body), body)


@routes.post("/datasets/{id}/query")
async def query_contents(request: web.Request) -> Any:
    """List, update (`update: {metadata}`) or delete (`delete: true`) what the filter selects."""
    store, body = request.app[STORE], await request.json()
    dataset = store.get("datasets", request.match_info["id"])
    resource = body.get("resource", "items")
    if resource not in ("items", "annotations"):
        raise Refusal(400, f"A dataset holds items and annotations, not {resource!r}")
    chosen = select(store, _candidates(store, resource, dataset["id"], body), body)
    if body.get("delete"):
        for record in chosen:
            store.remove(resource, record["id"])
    elif "update" in body:
        for record in chosen:
            merge(store.touch(record, request[USER]), body["update"])
    else:
        return page(chosen, body)
    return {"count": len(chosen)}


def _candidates(store: Store, resource: str, dataset_id: str, body: Record) -> list[Record]:
    """Records of a dataset that a query can select: those of the items or ids that it names, or all."""
    for condition in (body.get("filter") or {}).get("$and", []):
        for field, wanted in condition.items():
            ids = wanted.get("$in") if isinstance(wanted, dict) else None
            if ids is not None and (resource, field) == ("annotations", "itemId"):
                return [one for i in ids for one in store.find(resource, datasetId=dataset_id, itemId=i)]
            if ids is not None and field == "id":
                named = [store.tables[resource][i] for i in ids if i in store.tables[resource]]
                return [one for one in named if one["datasetId"] == dataset_id]
    return store.find(resource, datasetId=dataset_id)
