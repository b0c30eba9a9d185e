"""Installed apps. Installing or updating one creates the models of its manifest."""

from typing import Any

from aiohttp import web

from tests.gateway.api import PREFIX, SERVICES, STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.routes.dpks import revision
from tests.gateway.routes.models import remove_model
from tests.gateway.routes.services import remove, renew, serve
from tests.gateway.store import Record, Refusal, Store

routes = web.RouteTableDef()


def _with_dpk(store: Store, app: Record) -> Record:
    return app | {"dpk": revision(store, app["dpkName"], app["dpkVersion"])}


def _add_models(store: Store, app: Record, dpk: Record, user: str) -> None:
    """Move the models of the app to this version of its DPK, and add those that are new in it."""
    existing = {}
    for model in store.find("models"):
        if (model.get("app") or {}).get("id") == app["id"]:
            existing[model["app"]["componentName"]] = model
            model["packageId"] = dpk["id"]
            model["app"]["dpkVersion"] = dpk["version"]
    for component in dpk.get("components", {}).get("models") or []:
        if component["name"] in existing:
            continue
        origin = {"id": app["id"], "componentName": component["name"], "dpkId": dpk["baseId"]}
        origin |= {"dpkName": dpk["name"], "dpkVersion": dpk["version"]}
        model = {"status": "pre-trained", "configuration": {}, "artifacts": [], "labels": [], "tags": []}
        model |= {key: value for key, value in component.items() if value is not None}
        model |= {"app": origin, "packageId": dpk["id"], "projectId": app["projectId"]}
        model["context"] = {"project": app["projectId"], "creator": user}
        model["metadata"] = {"system": {}} | (component.get("metadata") or {})
        store.add("models", model, user)


def _serve(request: web.Request, app: Record, dpk: Record) -> None:
    """Start the services of the manifest, in place of those of an earlier version."""
    for service in request.app[STORE].find("services"):
        if service["app"]["id"] == app["id"] and "port" in service:
            remove(request, service["id"])
    app["routes"] = {}
    for component in dpk["components"].get("services") or []:
        service = serve(request, app, dpk, component)
        opened = f"http://{request.host}{PREFIX}/open/{service['id']}"
        app["routes"] |= dict.fromkeys(service["panelNames"], opened)


@routes.post("/apps")
async def install(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    require(body, "name", "dpkName")
    store.get("projects", body.get("projectId"))
    dpk = revision(store, body["dpkName"], body.get("dpkVersion"))
    if store.find("apps", projectId=body["projectId"], name=body["name"]):
        raise Refusal(409, f"The project already has an app named {body['name']!r}")
    given = {key: value for key, value in body.items() if value is not None}
    app = store.add("apps", given | {"dpkVersion": dpk["version"], "status": "Installed"}, request[USER])
    _add_models(store, app, dpk, request[USER])
    _serve(request, app, dpk)
    return _with_dpk(store, app)


@routes.get("/apps/{id}")
async def get(request: web.Request) -> Record:
    return _with_dpk(request.app[STORE], request.app[STORE].get("apps", request.match_info["id"]))


@routes.post("/apps/query")
async def query(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    return page([_with_dpk(store, app) for app in select(store, store.find("apps"), body)], body)


@routes.put("/apps/{id}")
async def update(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    app = store.get("apps", request.match_info["id"])
    dpk = revision(store, app["dpkName"], body.get("dpkVersion"))
    app["dpkVersion"] = dpk["version"]
    _add_models(store, app, dpk, request[USER])
    _serve(request, app, dpk)
    for service in store.find("services"):
        if service["app"]["id"] == app["id"]:
            renew(request.app[SERVICES], service, dpk)
    return _with_dpk(store, store.touch(app, request[USER]))


@routes.delete("/apps/{id}")
async def uninstall(request: web.Request) -> Record:
    store, app_id = request.app[STORE], request.match_info["id"]
    store.remove("apps", app_id)
    for model in store.find("models"):
        if (model.get("app") or {}).get("id") == app_id:
            remove_model(request, model)
    for service in store.find("services"):
        if service["app"]["id"] == app_id:
            remove(request, service["id"])
    return {}
