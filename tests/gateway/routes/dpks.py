"""The app registry: published manifests (DPKs) and their versions."""

import re
from typing import Any

from aiohttp import web

from tests.gateway.api import STORE, USER, require
from tests.gateway.query import page, select
from tests.gateway.store import Record, Refusal, Store

routes = web.RouteTableDef()


def _check(manifest: Record) -> None:
    """Refuse a manifest whose parts do not fit together, and name the part."""
    require(manifest, "name", "displayName", "version")
    if not re.fullmatch(r"\d+\.\d+\.\d+", manifest["version"]):
        raise Refusal(400, f"'version' must look like 1.2.3, not {manifest['version']!r}")
    components = manifest.get("components") or {}
    configs = {config.get("name") for config in components.get("computeConfigs") or []}
    modules = components.get("modules") or []
    for module in modules:
        functions = [function.get("name") for function in module.get("functions") or []]
        if len(functions) != len(set(functions)):
            raise Refusal(400, f"Module {module.get('name')!r} has two functions of the same name")
        for part in [module, *(module.get("functions") or [])]:
            if part.get("computeConfig") and part["computeConfig"] not in configs:
                name, config = part.get("name"), part["computeConfig"]
                raise Refusal(400, f"{name!r} names an unknown compute config: {config!r}")
    for model in components.get("models") or []:
        require(model, "name", "moduleName")
        if model["moduleName"] not in [module.get("name") for module in modules]:
            raise Refusal(400, f"Model {model['name']!r} names an unknown module: {model['moduleName']!r}")


def revision(store: Store, key: str, version: str | None = None) -> Record:
    """A version (else the latest) of the DPK with this name, base id or id."""
    dpks = [d for d in store.find("dpks") if key in (d["name"], d["baseId"], d["id"])]
    dpks = [d for d in store.find("dpks") if dpks and d["baseId"] == dpks[0]["baseId"]]
    if version is not None:
        dpks = [dpk for dpk in dpks if dpk["version"] == version]
    if not dpks:
        raise Refusal(404, f"Dpk not found: {key}" + (f", version {version}" if version else ""))
    return dpks[-1]


@routes.post("/app-registry")
async def publish(request: web.Request) -> Record:
    store, manifest = request.app[STORE], await request.json()
    _check(manifest)
    store.get("projects", (manifest.get("context") or {}).get("project"))
    if not manifest.get("codebase"):
        raise Refusal(400, "'codebase' is missing")
    earlier = store.find("dpks", name=manifest["name"])
    if manifest["version"] in [dpk["version"] for dpk in earlier]:
        raise Refusal(409, f"Dpk {manifest['name']} already has a version {manifest['version']}")
    dpk = store.add("dpks", manifest, request[USER])
    dpk["baseId"] = earlier[0]["baseId"] if earlier else dpk["id"]
    return dpk


@routes.get("/app-registry/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("dpks", request.match_info["id"])


@routes.delete("/app-registry/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("dpks", request.match_info["id"])
    return {}


@routes.post("/app-registry/query")
async def query(request: web.Request) -> Any:
    """Only the latest version of each DPK is listed."""
    store, body = request.app[STORE], await request.json()
    latest = {dpk["baseId"]: dpk for dpk in store.find("dpks")}
    return page(select(store, latest.values(), body), body)


@routes.post("/app-registry/{key}/revisions")
async def query_revisions(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    base = revision(store, request.match_info["key"])["baseId"]
    return page(select(store, store.find("dpks", baseId=base), body), body)


@routes.get("/app-registry/{key}/revisions/{version}")
async def get_revision(request: web.Request) -> Record:
    return revision(request.app[STORE], request.match_info["key"], request.match_info["version"])
