"""A server's address, and the token that it may be sent."""

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from huggingface_hub import get_token, is_offline_mode

from engine.errors import ConfigurationError
from engine.options import EndpointOptions

_HUB = (".huggingface.co", ".huggingface.cloud")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        name: its name in errors, without a password.
        openai: the prefix of its OpenAI routes, "…/v1"; None for the hub's router, and for an app whose
            route is not known yet.
        token: the token to send; None if there is none, or it is not safe to send it.
        headers: of every request; None removes a header that the hub library would send.
        app_id: the Dataloop app it belongs to.
        withheld: whether there is a token that is not sent.
        password: the password of its URL, which is sent as a header.
    """

    name: str
    openai: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    app_id: str | None = None
    withheld: bool = False
    password: str | None = field(default=None, repr=False)

    @property
    def loopback(self) -> str | None:
        """The HTTP library's pattern of an address on this machine, which bypasses proxies; else None."""
        parts = urlsplit(self.openai or "")
        bare = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}")
        return f"all://{bare}" if _loopback(parts.hostname or "") else None

    @property
    def secrets(self) -> list[str]:
        """Secrets that are sent to it and must not be logged."""
        logins = [value for value in self.headers.values() if value]
        return [secret for secret in (self.token, self.password, *logins, *map(_last, logins)) if secret]

    @property
    def hub(self) -> bool:
        """Whether it is the hub's router, which chooses a provider."""
        return self.openai is None and self.app_id is None

    @property
    def root(self) -> str | None:
        """The prefix of TGI's own routes."""
        return self.openai and self.openai.removesuffix("/v1")

    def of_app(self, url: str, cookie: str) -> "Address":
        """The address of this app's route; a cookie replaces the token."""
        return replace(self, openai=_openai(url), headers={"authorization": None, "cookie": cookie})

    def forgotten(self) -> "Address":
        """The address without an app's route, so that the route is found again."""
        return replace(self, openai=None) if self.app_id else self


def find(options: EndpointOptions, token: str | None) -> Address:
    """The server that the options name, else HUGGINGFACE_API_BASE, else the hub's router.

    A token is sent over https and to this machine, never over plain http to another one.

    Args:
        token: the hub's token from the environment.

    Raises:
        ConfigurationError: no server is named, more than one is, the address is invalid, or the hub's router
            has no token.
    """
    named = [key for key in ("base_url", "app_id", "provider") if getattr(options, key)]
    if len(named) > 1:
        raise ConfigurationError(f"{' and '.join(named)} name a server each: leave out all but one")
    if options.app_id:
        return Address(f"the app {options.app_id}", app_id=options.app_id)
    given = options.base_url or ("" if options.provider else os.environ.get("HUGGINGFACE_API_BASE", ""))
    if given.strip():
        return _at(given.strip(), token)
    if not options.model_name:
        raise ConfigurationError(
            "no server is named: set base_url or app_id, or model_name to ask the hub's router for a model"
        )
    if is_offline_mode():
        raise ConfigurationError(
            "HF_HUB_OFFLINE is set and no server is named: set base_url, or unset it for the hub's router"
        )
    if not (token := token or get_token()):
        raise ConfigurationError("the hub's router needs a token: set HF_TOKEN, or run `hf auth login`")
    return Address("the hub's router", token=token)


def safe(url: str) -> bool:
    """Whether what is sent to a URL cannot be intercepted: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _loopback(parts.hostname or "")


def _at(url: str, token: str | None) -> Address:
    parts = _parted(url)
    host = parts.hostname or ""
    if token is None and f".{host}".endswith(_HUB):
        token = get_token()
    sent = token if safe(url) else None
    login = f"Bearer {sent}" if sent else None
    if parts.username is not None:  # Not in the URL, which the HTTP library logs.
        named = ":".join(unquote(part or "") for part in (parts.username, parts.password))
        login = f"Basic {base64.b64encode(named.encode()).decode()}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return Address(
        name=bare.rstrip("/"),
        openai=_openai(bare),
        token=sent,
        headers={"authorization": login},
        withheld=token is not None and sent is None,
        password=unquote(parts.password or "") or None,
    )


def _parted(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    # URLs that parsers read differently are rejected.
    if wrong or parts.query or parts.fragment or not re.fullmatch(r"[!-\[\]-~]+", url):
        raise ConfigurationError(
            "base_url is the beginning of a server's routes, as http://localhost:8000/v1: this one has no "
            "http:// or https://, something after a ? or #, or characters that no address has"
        )
    return parts


def _last(login: str) -> str:
    return re.split("[ =]", login, maxsplit=1)[-1]


def _openai(url: str) -> str:
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):  # A server whose routes are not under /v1.
        return base.removesuffix("/chat/completions")
    return base if base.endswith("/v1") else f"{base}/v1"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # Its subdomains depend on the DNS server.
