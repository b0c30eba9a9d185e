"""Metrics of models: samples of their figures."""

from typing import Any

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.store import Record

routes = web.RouteTableDef()


@routes.post("/ml/metrics/publish")
async def publish(request: web.Request) -> list[Record]:
    store, body = request.app[STORE], await request.json()
    for sample in body:  # all or none
        require(sample, "figure", "legend")
        store.get("models", sample.get("modelId"))
        store.get("datasets", sample.get("datasetId"))
    return [store.add("metrics", sample, request[USER]) for sample in body]


@routes.post("/ml/metrics/query")
async def query(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    return page(select(store, store.find("metrics"), body), body)
