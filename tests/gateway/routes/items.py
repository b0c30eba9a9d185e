"""Items and their bytes."""

import json
import mimetypes
import re

from aiohttp import BodyPartReader, web

from tests.gateway.api import PREFIX, STORE, USER, allowed_metadata
from tests.gateway.store import Record, Refusal, merge

routes = web.RouteTableDef()


async def _parts(request: web.Request) -> dict[str, bytes]:
    """The parts of a multipart body by name."""
    reader = await request.multipart()
    parts = {}
    while (part := await reader.next()) is not None:
        assert isinstance(part, BodyPartReader)
        parts[part.name or ""] = bytes(await part.read())
    if "file" not in parts:
        raise Refusal(400, "The upload has no part named 'file'")
    return parts


def _shebang(content: bytes) -> Record | None:
    """What a JSON file with `"shebang": "dataloop"` says about itself."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict) and document.get("shebang") == "dataloop":
        return document.get("metadata", {})
    return None


def _mimetype(item: Record) -> str:
    return mimetypes.guess_type(item["name"])[0] or "application/octet-stream"


def _write(request: web.Request, item: Record, content: bytes) -> None:
    """Make `content` the bytes of the item and let its system metadata say so."""
    request.app[STORE].blob(item).write_bytes(content)
    system = item["metadata"].setdefault("system", {})
    system.pop("shebang", None)
    mimetype = _mimetype(item)
    system.update(size=len(content), mimetype=mimetype, originalname=item["name"])
    if mimetype == "application/json" and (shebang := _shebang(content)) is not None:
        system["shebang"] = shebang


@routes.post("/datasets/{id}/items")
async def upload(request: web.Request) -> web.Response:
    store, user = request.app[STORE], request[USER]
    dataset = store.get("datasets", request.match_info["id"])
    parts = await _parts(request)
    filename = "/" + parts.get("path", b"").decode().lstrip("/")
    if filename.endswith("/"):
        raise Refusal(400, "'path' must end in a file name")
    existing = store.item_at(dataset["id"], filename)
    if existing and request.query.get("mode") != "overwrite":
        return web.json_response(existing, headers={"x-item-op": "skip"})
    if existing:
        item, done = store.touch(existing, user), "overwrite"
    else:
        item, done = store.add("items", {"type": "file", "hidden": False, "metadata": {}}, user), "created"
        location = f"{request.url.origin()}{PREFIX}/items/{item['id']}"
        item |= {"datasetId": dataset["id"], "annotated": False, "annotationsCount": 0}
        item |= {"url": location, "stream": f"{location}/stream", "annotations": f"{location}/annotations"}
        store.rename(item, filename)
    merge(item["metadata"], json.loads(parts.get("metadata", b"{}")))
    if "description" in parts:
        item["description"] = parts["description"].decode()
    _write(request, item, parts["file"])
    return web.json_response(item, headers={"x-item-op": done})


@routes.post("/items/{id}/revisions")
async def rewrite(request: web.Request) -> Record:
    item = request.app[STORE].get("items", request.match_info["id"])
    _write(request, item, (await _parts(request))["file"])
    return request.app[STORE].touch(item, request[USER])


@routes.get("/items/{id}")
async def get(request: web.Request) -> Record:
    return request.app[STORE].get("items", request.match_info["id"])


@routes.get("/items/{id}/stream")
async def stream(request: web.Request) -> web.Response:
    """The bytes, from the start that a `Range: bytes=N-` names."""
    item = request.app[STORE].get("items", request.match_info["id"])
    content = request.app[STORE].blob(item).read_bytes()
    start = re.match(r"bytes=(\d+)-$", request.headers.get("Range", ""))
    body = content[int(start[1]) :] if start else content
    return web.Response(body=body, content_type=_mimetype(item))  # Its metadata may say anything by now.


@routes.patch("/items/{id}")
async def update(request: web.Request) -> Record:
    item = request.app[STORE].get("items", request.match_info["id"])
    changes = allowed_metadata(request, await request.json())
    merge(item, changes)
    if "filename" in changes:
        request.app[STORE].rename(item, changes["filename"])
    return request.app[STORE].touch(item, request[USER])


@routes.delete("/items/{id}")
async def delete(request: web.Request) -> Record:
    request.app[STORE].remove("items", request.match_info["id"])
    return {}
