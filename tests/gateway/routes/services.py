"""Services: a published module that runs for one model."""

import socket

from aiohttp import web

from tests.gateway.api import SERVICES, STORE, USER
from tests.gateway.routes.dpks import revision
from tests.gateway.services import Services
from tests.gateway.store import Record, Refusal, Store

routes = web.RouteTableDef()


def module_of(store: Store, model: Record) -> tuple[Record, Record]:
    """The DPK of a model and the module in it that runs the model."""
    app = model.get("app")
    if not app:
        raise Refusal(400, f"Model {model['name']!r} belongs to no app, so there is no code to run it")
    dpk = revision(store, app["dpkId"], app["dpkVersion"])
    for module in dpk.get("components", {}).get("modules") or []:
        if module["name"] == model["moduleName"]:
            return dpk, module
    raise Refusal(400, f"The manifest has no module named {model['moduleName']!r}")


def require_function(module: Record, function: str) -> None:
    """Refuse a function that the manifest does not declare."""
    declared = [f["name"] for f in module.get("functions") or []]
    if function not in declared:
        known = ", ".join(declared) or "none"
        name = module["name"]
        raise Refusal(400, f"Function {function!r} is not declared by module {name!r} (it declares: {known})")


def create(request: web.Request, model: Record, operation: str, config: Record | None) -> Record:
    """Make a service that runs the module of a model and start its process."""
    store = request.app[STORE]
    dpk, module = module_of(store, model)
    compute = {c["name"]: c for c in dpk["components"].get("computeConfigs") or []}
    settings = compute.get(module.get("computeConfig") or "", {}) | (config or {})
    settings.pop("name", None)
    inputs = [i["name"] for i in module.get("initInputs") or [] if i["type"] == "Model"]
    service = settings | {
        "name": f"{model['name']}-{operation}".lower(),
        "projectId": model["projectId"],
        "packageId": dpk["id"],
        "packageRevision": dpk["version"],
        "moduleName": module["name"],
        "initParams": dict.fromkeys(inputs, model["id"]),
        "metadata": {"ml": {"modelId": model["id"], "modelOperation": operation}},
        "app": {"id": model["app"]["id"], "dpkName": dpk["name"], "dpkVersion": dpk["version"]},
        "active": True,
        "version": "1.0.0",
        "global": False,
    }
    service = store.add("services", service, request[USER])
    request.app[SERVICES].start(service)
    return service


def serve(request: web.Request, app: Record, dpk: Record, component: Record) -> Record:
    """Make a service of an app's manifest, which answers HTTP at a port of its own, and start its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    origin = {"id": app["id"], "dpkName": dpk["name"], "dpkVersion": dpk["version"]}
    service = component | {
        "projectId": app["projectId"],
        "packageId": dpk["id"],
        "packageRevision": dpk["version"],
        "metadata": {},
        "app": origin,
        "active": True,
        "port": port,
    }
    service = request.app[STORE].add("services", service, request[USER])
    request.app[SERVICES].start(service)
    return service


def renew(services: Services, service: Record, dpk: Record) -> None:
    """Let a service continue with another version of its code."""
    if service["packageId"] == dpk["id"]:
        return
    service.update(packageId=dpk["id"], packageRevision=dpk["version"])
    service["app"]["dpkVersion"] = dpk["version"]
    services.outdate(service["id"])


@routes.get("/services/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("services", request.match_info["id"])


@routes.delete("/services/{id}")
async def delete(request: web.Request) -> Record:
    remove(request, request.match_info["id"])
    return {}


def remove(request: web.Request, service_id: str) -> None:
    """End a service and take it off the model that it was deployed for."""
    store = request.app[STORE]
    for model in store.find("models"):
        if service_id in model["metadata"]["system"].get("deploy", {}).get("services", []):
            del model["metadata"]["system"]["deploy"]
            model["status"] = "pre-trained"
    store.remove("services", service_id)
    request.app[SERVICES].end(service_id)
