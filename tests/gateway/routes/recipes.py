"""Recipes and their ontologies, which hold the labels of datasets."""

from aiohttp import web

from tests.gateway.api import STORE, USER
from tests.gateway.store import Record

routes = web.RouteTableDef()


@routes.post("/{table:recipes|ontologies}")
async def create(request: web.Request) -> Record:
    body = await request.json()
    return request.app[STORE].add(request.match_info["table"], body, request[USER])


@routes.get("/{table:recipes|ontologies}/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get(request.match_info["table"], request.match_info["id"])
