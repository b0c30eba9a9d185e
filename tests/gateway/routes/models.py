"""Models: what can be changed of them, and what they can be asked to do."""

import copy
from typing import Any

from aiohttp import web

from tests.gateway.api import SERVICES, STORE, USER, allowed_metadata, require
from tests.gateway.query import page, select
from tests.gateway.routes import services
from tests.gateway.routes.executions import start_execution
from tests.gateway.store import Record, Refusal, Store, merge

routes = web.RouteTableDef()

# Also sent by the SDK, and ignored by the platform: id, url, creator, version, context, packageId, ...
_CHANGEABLE = {
    "name",
    "description",
    "datasetId",
    "artifacts",
    "scope",
    "status",
    "tags",
    "labels",
    "configuration",
    "inputType",
    "outputType",
    "metadata",
    "moduleName",
    "app",
}


def _get(request: web.Request) -> Record:
    return request.app[STORE].get("models", request.match_info["id"])


def _add(store: Store, model: Record, user: str) -> Record:
    require(model, "name")
    store.get("projects", model.get("projectId"))
    defaults = {"configuration": {}, "artifacts": [], "labels": [], "tags": [], "status": "created"}
    model = defaults | {key: value for key, value in model.items() if value is not None}
    model["metadata"] = {"system": {}} | (model.get("metadata") or {})
    model["context"] = {"project": model["projectId"], "creator": user}
    return store.add("models", model, user)


def remove_model(request: web.Request, model: Record) -> None:
    """Forget a model and end its services."""
    for service in request.app[STORE].find("services"):
        if service["metadata"].get("ml", {}).get("modelId") == model["id"]:
            services.remove(request, service["id"])
    request.app[STORE].remove("models", model["id"])


@routes.post("/ml/models")
async def create(request: web.Request) -> Record:
    return _add(request.app[STORE], await request.json(), request[USER])


@routes.get("/ml/models/{id}")
async def get(request: web.Request) -> Record:
    return _get(request)


@routes.delete("/ml/models/{id}")
async def delete(request: web.Request) -> Record:
    remove_model(request, _get(request))
    return {}


@routes.post("/ml/models/query")
async def query(request: web.Request) -> Any:
    store, body = request.app[STORE], await request.json()
    return page(select(store, store.find("models"), body), body)


@routes.patch("/ml/models/{id}")
async def update(request: web.Request) -> Record:
    model, body = _get(request), allowed_metadata(request, await request.json())
    merge(model["metadata"], body.pop("metadata", None) or {})
    model.update({key: value for key, value in body.items() if key in _CHANGEABLE})
    if request.query.get("reloadServices") == "true":
        for service_id in model["metadata"]["system"].get("deploy", {}).get("services", []):
            request.app[SERVICES].outdate(service_id)
    return request.app[STORE].touch(model, request[USER])


@routes.post("/ml/models/{id}/clone")
async def clone(request: web.Request) -> Record:
    copied, body = copy.deepcopy(_get(request)), await request.json()
    copied["metadata"]["system"].pop("deploy", None)
    merge(copied["metadata"], body.pop("metadata", None) or {})
    return _add(request.app[STORE], copied | {"status": "created"} | body, request[USER])


@routes.post("/ml/models/{id}/deploy")
async def deploy(request: web.Request) -> Record:
    model, body = _get(request), await request.json()
    if "deploy" in model["metadata"]["system"]:
        raise Refusal(400, f"Model {model['name']!r} is deployed already")
    service = services.create(request, model, "deploy", body.get("serviceConfig"))
    model["metadata"]["system"]["deploy"] = {"services": [service["id"]]}
    model["status"] = "deployed"
    return service


@routes.post("/ml/models/{id}/{operation:predict|embed}")
async def use(request: web.Request) -> Record:
    """Run `predict_items` or `predict_dataset` (`embed_...`) on the service of a deployed model."""
    store, model, body = request.app[STORE], _get(request), await request.json()
    wanted, operation = body.get("input") or {}, request.match_info["operation"]
    service_id = (body.get("config") or {}).get("serviceId")
    if service_id not in model["metadata"]["system"].get("deploy", {}).get("services", []):
        raise Refusal(400, f"Model {model['name']!r} has no service {service_id}: deploy it first")
    if wanted.get("itemIds") is not None:
        function, inputs = f"{operation}_items", {"items": [{"item_id": i} for i in wanted["itemIds"]]}
    elif wanted.get("datasetId") is not None:
        function, inputs = f"{operation}_dataset", _dataset_input(wanted)
    else:
        raise Refusal(400, "'input' must name itemIds or a datasetId")
    return start_execution(request, store.get("services", service_id), function, inputs)


@routes.post("/ml/models/{id}/train")
async def train(request: web.Request) -> Record:
    model, body = _get(request), await request.json()
    services.require_function(services.module_of(request.app[STORE], model)[1], "train_model")
    service = services.create(request, model, "train", body.get("serviceConfig"))
    return start_execution(request, service, "train_model", {"model": {"model_id": model["id"]}})


@routes.post("/ml/models/{id}/evaluate")
async def evaluate(request: web.Request) -> Record:
    model, body = _get(request), await request.json()
    services.require_function(services.module_of(request.app[STORE], model)[1], "evaluate_model")
    inputs = {"model": {"model_id": model["id"]}} | _dataset_input(body["input"])
    service = services.create(request, model, "evaluate", (body.get("config") or {}).get("serviceConfig"))
    return start_execution(request, service, "evaluate_model", inputs)


def _dataset_input(wanted: Record) -> Record:
    query = {"filters": wanted["datasetQuery"]} if wanted.get("datasetQuery") else {}
    return {"dataset": {"dataset_id": wanted["datasetId"]}} | query
