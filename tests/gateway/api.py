"""What the handlers of all routes share."""

from aiohttp import web

from tests.gateway.services import Services
from tests.gateway.store import Record, Refusal, Store

PREFIX = "/api/v1"
STORE = web.AppKey("store", Store)
USER = web.RequestKey("user", str)
SERVICES = web.AppKey("services", Services)
# Who has asked for which execution.
LOOKS = web.AppKey("looks", set[tuple[str, str]])


def require(body: Record, *names: str) -> None:
    """Refuse a body that lacks one of these texts (or has it empty)."""
    for name in names:
        if not isinstance(body.get(name), str) or not body[name].strip():
            raise Refusal(400, f"{name!r} must be a non-empty text")


def allowed_metadata(request: web.Request, changes: Record) -> Record:
    """The changes less `metadata.system`, unless the request says `system=true`."""
    metadata = changes.get("metadata")
    if request.query.get("system") != "true" and isinstance(metadata, dict) and "system" in metadata:
        metadata = {key: value for key, value in metadata.items() if key != "system"}
        return changes | {"metadata": metadata}
    return changes
