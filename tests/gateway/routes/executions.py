"""Executions: calls of a function of a service, carried out by its process."""

import asyncio
import time

from aiohttp import web

from tests.gateway.api import LOOKS, SERVICES, STORE, USER, require
from tests.gateway.routes import services
from tests.gateway.services import FINAL
from tests.gateway.store import Record, Refusal, now

routes = web.RouteTableDef()

_STATUSES = {
    "inProgress": "in-progress",
    "in-progress": "in-progress",
    "completed": "success",
    "success": "success",
    "failed": "failed",
}
# Longer than most executions take, shorter than the SDK's timeout of 120 seconds.
_HOLD = 60.0


def start_execution(request: web.Request, service: Record, function: str, inputs: Record) -> Record:
    """Queue a call for the process of the service; refuses what the manifest does not declare."""
    store = request.app[STORE]
    dpk = store.get("dpks", service["packageId"])
    modules = {module["name"]: module for module in dpk["components"]["modules"]}
    services.require_function(modules[service["moduleName"]], function)
    status = {"status": "created", "percentComplete": 0, "message": "", "timestamp": now()}
    execution = {
        "functionName": function,
        "input": inputs,
        "output": None,
        "projectId": service["projectId"],
        "serviceId": service["id"],
        "serviceVersion": service["version"],
        "packageId": service["packageId"],
        "packageName": dpk["name"],
        "latestStatus": status,
        "status": [status],
        "model": service["metadata"]["ml"],
    }
    execution = store.add("executions", execution, request[USER])
    request.app[SERVICES].submit(service, execution)
    return execution


@routes.post("/executions/{service_id}")
async def create(request: web.Request) -> Record:
    body = await request.json()
    require(body, "functionName")
    service = request.app[STORE].get("services", request.match_info["service_id"])
    return start_execution(request, service, body["functionName"], body.get("input") or {})


@routes.get("/executions/{id}")
async def get(request: web.Request) -> Record:
    """The execution. A second request for it is answered when it has ended (or after `_HOLD` seconds).

    So `execution.wait()`, which sleeps 2, 4, 8, ... seconds between its looks, returns without delay.
    """
    execution = request.app[STORE].get("executions", request.match_info["id"])
    request.app[SERVICES].check(execution)
    look = (execution["id"], request[USER])
    deadline = time.monotonic() + (_HOLD if look in request.app[LOOKS] else 0)
    request.app[LOOKS].add(look)
    while execution["latestStatus"]["status"] not in FINAL and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        request.app[SERVICES].check(execution)
    return execution


@routes.post("/executions/{id}/progress")
async def progress(request: web.Request) -> Record:
    store, body = request.app[STORE], await request.json()
    execution = store.get("executions", request.match_info["id"])
    if body.get("status") not in _STATUSES:
        raise Refusal(400, f"Unknown execution status {body.get('status')!r}")
    last = execution["latestStatus"]
    status = {
        "status": _STATUSES[body["status"]],
        "percentComplete": body.get("percentComplete", last["percentComplete"]),
        "message": body.get("message", last["message"]),
        "timestamp": now(),
    }
    if status["status"] == "failed":
        status["error"] = status["message"]
    if "output" in body:
        execution["output"] = body["output"]
    execution["latestStatus"] = status
    execution["status"].append(status)
    store.touch(execution, request[USER])
    if status["status"] in FINAL and execution["model"]["modelOperation"] != "deploy":
        # Training and evaluation have a service of their own, which ends with them.
        asyncio.get_running_loop().call_later(1, request.app[SERVICES].end, execution["serviceId"])
    return execution
