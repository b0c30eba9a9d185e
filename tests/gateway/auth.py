"""Who is asking: tokens, and the files and variables that log an unmodified SDK in."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from tests.gateway.store import Refusal

TESTER = "tester@example.com"
COOKIE = "JWT-APP"


def new_token(secret: str, user: str, expires_in: float) -> str:
    """A signed JWT for `user` that expires in so many seconds."""
    return jwt.encode({"email": user, "exp": int(time.time() + expires_in)}, secret, algorithm="HS256")


def user_of(secret: str, authorization: str) -> str:
    """The user an `Authorization: Bearer ...` header names; a 401 that says what is wrong otherwise."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(401, "Missing token: log in first")
    try:
        return jwt.decode(token, secret, algorithms=["HS256"])["email"]
    except jwt.ExpiredSignatureError:
        raise Refusal(401, "Expired token: log in again") from None
    except jwt.InvalidTokenError as error:
        raise Refusal(401, f"Invalid token: {error}") from None


def login_of(headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """The login of a request: its header, or the cookie that opens an app's server."""
    return headers.get("Authorization") or f"Bearer {cookies.get(COOKIE, '')}"


def sdk_environment(url: str, token: str) -> dict:
    """The SDK's own record of an environment, as `login_parameters` of its cookie holds it."""
    host = url.removesuffix("/api/v1")
    return {"alias": "gateway", "token": token, "gate_url": host, "url": host, "verify_ssl": True}


def write_cookie(folder: Path, url: str | None = None, token: str | None = None) -> dict[str, str]:
    """Make `folder` a quiet DATALOOP_PATH, logged in when a URL and a token are given.

    Returns the environment variables that point an SDK at it. Nothing is then written to the home folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cookie: dict = {
        "cache_configs": {"cache_path": str(folder / "obj_cache"), "cache_path_bin": str(folder)},
        "verbose": {"disable_progress_bar": True},
    }
    if url and token:
        cookie |= {"url": url, "login_parameters": {url: sdk_environment(url, token)}}
    (folder / "cookie.json").write_text(json.dumps(cookie))
    return {"DATALOOP_PATH": str(folder), "NO_PROXY": "127.0.0.1,localhost"}
