"""Finds the route of a Dataloop app, with the SDK's login but without the SDK."""

import base64
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.backends.endpoint.address import safe
from engine.errors import ConfigurationError


async def find(app_id: str, session: Any) -> tuple[str, str]:
    """The URL of an app's server, and the cookie that opens it.

    The platform forwards requests for the app's route to the server if they carry the cookie. A service of
    the platform gets its login from the agent; elsewhere `dlp login` writes it to the SDK's cookie file.

    Args:
        session: an `httpx.AsyncClient` that follows redirects.

    Raises:
        ConfigurationError: no login, no such app, or one without a server.
    """
    platform, token = await _login(session)
    login = {"authorization": f"Bearer {token}"}
    response = await session.get(f"{platform}/apps/{quote(app_id, safe='')}", headers=login)
    if not response.is_success:
        raise ConfigurationError(
            f"the platform does not give the app {app_id} (status {response.status_code}): check app_id, and "
            "that the login is of its organization and has not expired"
        )
    routes = response.json().get("routes") or {}
    if len(routes) != 1:
        raise ConfigurationError(
            f"the app {app_id} has {len(routes)} routes, and one is needed: install an app with one server"
        )
    [(panel, route)] = routes.items()
    if safe(platform) and not safe(route):
        raise ConfigurationError(f"the app {app_id} has no https route: the login is not sent there")
    path = f"/{panel}/v1/models"
    response = await session.get(f"{route.rstrip('/')}/v1/models", headers=login)
    hops = [*response.history, response]
    opened = [(hop.cookies["JWT-APP"], to.url.host) for hop, to in pairwise(hops) if "JWT-APP" in hop.cookies]
    url, found, _ = str(response.url).rpartition(path)
    # The cookie is for the host that the platform redirects to, not for further hosts.
    if not opened or opened[0][1] != response.url.host or not found or (safe(route) and not safe(url)):
        raise ConfigurationError(
            f"the platform does not open the app {app_id} (status {response.status_code}): check that its "
            "service runs"
        )
    return url, f"JWT-APP={opened[0][0]}"


async def _login(session: Any) -> tuple[str, str]:
    """The platform's address and the user's token."""
    custom = os.environ.get("DTLPY_CUSTOM_ENV")
    if custom and os.environ.get("DTLPY_REFRESH_TOKEN_METHOD") == "proxy":
        secret = os.environ.get("GET_JWT_ENDPOINT_SECRET")
        agent = await session.get(
            f"http://localhost:{os.environ.get('AGENT_PROXY_MAIN_PORT') or 1001}/get_jwt",
            headers={"X-Get-Jwt-Secret": secret} if secret else None,
        )
        return json.loads(base64.b64decode(custom))["url"], agent.json()["jwt"]
    file = Path(os.environ.get("DATALOOP_PATH") or Path.home() / ".dataloop") / "cookie.json"
    try:
        cookie = json.loads(file.read_text(encoding="utf-8"))
        return cookie["url"], cookie["login_parameters"][cookie["url"]]["token"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"app_id needs a login to the platform, and {file} has none: run dlp login, or set base_url"
        ) from None
