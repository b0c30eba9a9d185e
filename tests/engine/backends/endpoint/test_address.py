"""Where the endpoint engine's requests go, and who is told the token."""

import base64
import gc
import json
import logging
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference import _providers
from huggingface_hub.inference._providers import _common

from engine.backends.endpoint import EndpointEngine, address, wire
from engine.errors import ConfigurationError
from engine.options import EndpointOptions
from tests.gateway.auth import new_token, sdk_environment, write_cookie
from tests.helpers.endpoint_engines import (
    SECRET,
    Engines,
    engine,
    engines,
    environment,
    failure,
    plain,
    server,
    waits,
)
from tests.helpers.servers.misbehaving import Server, answering, dropping, of_app, refusing
from tests.helpers.talk import ask

__all__ = ["engine", "engines", "environment", "server", "waits"]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_server_is_named_in_any_way(engines: Engines, server: Server, path: str):
    engine = engines(base_url=server.url + path)
    assert engine.generate([ask("hi"), plain("hi")])[0].text == "HI"
    assert {request.path for request in server.asked} == {"/v1/chat/completions", "/v1/completions"}


def test_routes_may_lie_elsewhere(engines: Engines, server: Server):
    server.routes = {f"/openai{path.removeprefix('/v1')}": route for path, route in server.routes.items()}
    engine = engines(base_url=f"{server.url}/openai/chat/completions")
    assert [answer.text for answer in engine.generate([ask("hi"), plain("yo")])] == ["HI", "YO"]


def test_the_environment_may_name_the_server(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HUGGINGFACE_API_BASE", server.url)
    assert EndpointEngine(EndpointOptions()).generate([ask("hi")])[0].text == "HI"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no server is named"),
        ({"model_name": "m"}, "HF_HUB_OFFLINE is set"),
        ({"base_url": "http://h", "app_id": "a"}, "base_url and app_id name a server each"),
        ({"base_url": "http://h", "provider": "together"}, "base_url and provider name a server each"),
        ({"base_url": "localhost:8000"}, "http://"),
        ({"base_url": "ftp://host"}, "http://"),
        ({"base_url": "http://host/v1?key=secret"}, r"after a \?"),
        ({"base_url": "http://[::1"}, "no address has"),
        ({"base_url": "http://host:99999"}, "no address has"),
        ({"base_url": "http://host:secret/v1"}, "no address has"),
        ({"base_url": "http://"}, "http://"),
        ({"base_url": "http://secret.test\\@localhost/v1"}, "no address has"),
        ({"base_url": "http://local\nhost/v1"}, "no address has"),
        ({"base_url": "http://ｌocalhost/v1"}, "no address has"),
        ({"base_url": "https://huggingface。co/v1"}, "no address has"),
    ],
)
def test_a_server_that_is_not_named_rightly_is_an_error(options: dict, reason: str):
    with pytest.raises(ConfigurationError, match=reason) as raised:
        EndpointEngine(EndpointOptions(**options))
    assert "secret" not in str(raised.value)


def test_a_token_is_not_sent_where_it_can_be_read_on_the_way(
    engines: Engines, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(address, "_loopback", lambda host: False)
    engine = engines()
    assert "the token is not sent" in caplog.text
    assert engine.generate([ask("hi")])[0].text == "HI"
    assert "Authorization" not in server.asked[-1].headers
    server.will(refusing(401))
    assert "not sent over plain http: use https" in failure(engine, ask("hi"))


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://example.com/v1", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.9", True),
        ("http://[::1]:8000", True),
        ("http://vllm.internal:8000", False),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.1", False),
        ("http://LOCALHOST:8000", True),
        ("http://[0:0:0:0:0:0:0:1]", True),
        ("http://localhost@example.com", False),
        ("http://localhost.example.com", False),
        ("http://example.localhost", False),
        ("http://127.1.", False),
        ("http://2130706433", False),
        ("http://0x7f000001", False),
        ("http://0177.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://[::]", False),
        ("http://[::ffff:10.0.0.1]", False),
        ("http://%6cocalhost", False),
    ],
)
def test_who_is_told_the_token(url: str, sent: bool):
    found = address.find(EndpointOptions(base_url=url), SECRET)
    assert (found.token == SECRET, found.withheld) == (sent, not sent)
    assert SECRET not in repr(found)


def test_without_a_token_none_is_sent(engines: Engines, server: Server, monkeypatch: pytest.MonkeyPatch):
    # A login of the hub library, which that would send to any server.
    monkeypatch.setattr("huggingface_hub.inference._providers.hf_inference.get_token", lambda: SECRET)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: SECRET)
    monkeypatch.delenv("HUGGINGFACE_TOKEN")
    assert [a.text for a in engines().generate([ask("hi"), plain("hi")])] == ["HI", "HI"]
    assert all("Authorization" not in request.headers for request in server.asked)


def test_a_password_in_the_address_is_told_the_server_alone(
    engines: Engines, server: Server, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    login = base64.b64encode(b"me:pass word").decode()
    server.will(refusing(400, {"message": login, "code": login}))
    engine = engines(base_url=server.url.replace("//", "//me:pass%20word@"))
    text = failure(engine, ask("hi"))
    assert text.startswith(server.url)
    assert {"Basic " + login} == {asked.headers["Authorization"] for asked in server.asked}
    for told in (text, caplog.text, repr(engine._server.address)):
        assert not any(secret in told for secret in ("pass word", "pass%20word", login))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_to_another_host_is_told_nothing(
    engines: Engines, server: Server, waits: list[float], status: int, stream: bool
):
    with Server() as other:
        for there in (
            other.url,
            other.url.replace("127.0.0.1", "localhost"),
            "//elsewhere.test",
            "http:// [",
        ):
            server.will(refusing(status, Location=f"{there}/v1/chat/completions"))
            [answer] = (chunk.answer for chunk in engines(retries=0).stream([ask("hi")], deltas=stream))
            assert server.url in str(answer.error)
            if there == other.url:
                assert f"(status {status}): it redirects to another host" in str(answer.error)
        assert other.asked == []
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_a_server_is_followed(engine: EndpointEngine, server: Server, status: int):
    server.routes["/here"] = server.routes["/v1/chat/completions"]
    server.will(refusing(status, Location="/there"), refusing(status, Location=f"{server.url}/here"))
    assert engine.generate([ask("hi")])[0].text == "HI"
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {SECRET}"}
    assert server.asked[0].body == server.asked[-1].body
    server.will(*[refusing(status, Location="/round")] * 9)
    assert f"status {status}" in failure(engine, ask("hi"))
    assert len(server.asked) < 9


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h/v1", "https://h/v1/", True),
        ("https://h/v1", "https://h:443/v2", True),
        ("https://h/v1", "http://h/v1", False),
        ("http://h:80/v1", "https://h:8443/v1", False),
        ("http://h:8000/v1", "https://h:8000/v1", False),
        ("https://h/v1", "https://h:8443/v1", False),
        ("https://h/v1", "https://h.evil.test/v1", False),
        ("https://h/v1", "https://h@evil.test/v1", False),
    ],
)
def test_who_is_the_same(one: str, other: str, same: bool):
    request, following = (wire.httpx.Request("POST", url) for url in (one, other))
    assert wire._same_server(request, following) == same


def test_no_proxy_is_told_what_goes_to_this_machine(
    engines: Engines, server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NO_PROXY")
    with Server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert engines().generate([ask("hi")])[0].text == "HI"
        assert proxy.asked == []


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server as the hub's router, which knows the model "o/m" at one provider."""
    monkeypatch.setattr(address, "is_offline_mode", lambda: False)
    monkeypatch.setattr(_providers.CONVERSATIONAL_AUTO_ROUTER, "base_url", server.url)
    monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", f"{server.url}/{{provider}}")
    for task, kind in (("together", "conversational"), ("scaleway", "feature-extraction")):
        mapping = InferenceProviderMapping(
            provider=task, hf_model_id="o/m", providerId="their-m", status="live", task=kind
        )
        monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING, task, {"o/m": mapping})
    server.routes |= {
        "/together/v1/chat/completions": server.routes["/v1/chat/completions"],
        "/scaleway/v1/embeddings": server.routes["/v1/embeddings"],
    }


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("where", [{}, {"provider": "together"}])
def test_the_hubs_router_needs_a_token(where: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(address, "get_token", lambda: None)
    with pytest.raises(ConfigurationError, match="the hub's router needs a token: set HF_TOKEN"):
        address.find(EndpointOptions(model_name="o/m", **where), None)


@pytest.mark.usefixtures("hub")
def test_the_hubs_router_finds_a_provider(server: Server):
    engine = EndpointEngine(EndpointOptions(model_name="o/m"))
    answer = engine.generate([ask("hi")])[0]
    assert (answer.text, answer.confidence is None) == ("HI", False)
    assert server.asked[-1].body["model"] == "o/m"
    assert server.asked[-1].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.usefixtures("hub")
def test_a_provider_may_be_chosen(server: Server):
    engine = EndpointEngine(EndpointOptions(model_name="o/m", provider="together"))
    assert engine.generate([ask("hi")])[0].text == "HI"
    assert "".join(chunk.text for chunk in engine.stream([ask("so what")])) == "SO WHAT"
    assert {(asked.path, asked.body["model"]) for asked in server.asked} == {
        ("/together/v1/chat/completions", "their-m")
    }
    embedder = EndpointEngine(EndpointOptions(model_name="o/m", provider="scaleway"))
    assert embedder.embed(["ab"])[0, 0] == 2


@pytest.mark.usefixtures("hub")
def test_what_the_hub_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch):
    unknown = EndpointEngine(EndpointOptions(model_name="o/m", provider="nobody"))
    [answer] = unknown.generate([ask("hi")])
    assert isinstance(answer.error, ConfigurationError)
    assert "a request to the hub's router cannot be sent: Provider 'nobody' not supported" in str(
        answer.error
    )


PLATFORM = new_token("secret" * 6, "me@example.com", 3600)
COOKIE = new_token("secret" * 6, "app", 3600)


@pytest.fixture
def platform(server: Server) -> str:
    """The address of a platform with one app."""
    server.routes |= of_app(server, PLATFORM, COOKIE)
    return f"{server.url}/api/v1"


def test_an_app_is_asked_through_its_route(
    platform: str, engines: Engines, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATALOOP_PATH", write_cookie(tmp_path, platform, PLATFORM)["DATALOOP_PATH"])
    engine = engines(app_id="app-1")
    assert [answer.text for answer in engine.generate([ask("hi")] * 3)] == ["HI"] * 3
    paths = [request.path for request in server.asked]
    assert paths.count("/api/v1/apps/app-1") == 1
    # A cookie that has run out is asked for anew, once.
    server.will(refusing(401))
    assert engine.generate([ask("hi")])[0].text == "HI"
    assert [request.path for request in server.asked].count("/api/v1/apps/app-1") == 2
    server.will(*[refusing(401)] * 9)
    assert "app-1" in failure(engine, ask("hi"))


def test_a_service_has_its_login_from_its_agent(
    platform: str, engines: Engines, server: Server, monkeypatch: pytest.MonkeyPatch
):
    custom = base64.b64encode(json.dumps({"url": platform, "alias": "lab"}).encode()).decode()
    monkeypatch.setenv("DTLPY_CUSTOM_ENV", custom)
    monkeypatch.setenv("DTLPY_REFRESH_TOKEN_METHOD", "proxy")
    monkeypatch.setenv("AGENT_PROXY_MAIN_PORT", str(server.port))
    assert engines(app_id="app-1").generate([ask("hi")])[0].text == "HI"


def test_an_app_is_reached_as_the_platforms_sdk_reaches_it(platform: str, server: Server):
    import dtlpy

    client = dtlpy.client_api
    client.environments = {platform: sdk_environment(platform, PLATFORM)}
    dtlpy.setenv(platform)
    app = dtlpy.App.from_json({"id": "app-1", "routes": {"chat": f"{server.url}/gateway/chat"}}, client, None)
    assert app.get_endpoint("/v1/models") == f"{server.url}/service"
    assert app.endpoint_cookie_header == f"JWT-APP={COOKIE}"


def test_an_apps_cookie_goes_where_the_platform_leads_and_no_further(
    platform: str, engines: Engines, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATALOOP_PATH", write_cookie(tmp_path, platform, PLATFORM)["DATALOOP_PATH"])
    on = refusing(302, Location=f"http://localhost:{server.port}/x/chat/v1/models")
    server.routes["/service/chat/v1/models"] = on
    assert "does not open the app app-1" in failure(engines(app_id="app-1"), ask("hi"))
    assert all(COOKIE not in str(asked.headers) for asked in server.asked if asked.path.startswith("/x/"))
    assert not any(asked.path.endswith("/completions") for asked in server.asked)


def test_the_login_is_sent_where_nobody_reads_it(
    platform: str, engines: Engines, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATALOOP_PATH", write_cookie(tmp_path, platform, PLATFORM)["DATALOOP_PATH"])
    server.will(answering({"id": "app-1", "routes": {"chat": "http://example.com/chat"}}))
    assert "no https route" in failure(engines(app_id="app-1"), ask("hi"))
    assert len(server.asked) == 1


def test_without_a_login_an_app_cannot_be_asked(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATALOOP_PATH", str(tmp_path))
    [answer] = engines(app_id="app-1").generate([ask("hi")])
    assert isinstance(answer.error, ConfigurationError)
    assert "run dlp login" in str(answer.error)


def test_an_app_that_there_is_not(
    platform: str, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATALOOP_PATH", write_cookie(tmp_path, platform, PLATFORM)["DATALOOP_PATH"])
    assert "does not give the app other (status 404)" in failure(engines(app_id="other"), ask("hi"))


def test_a_platform_that_goes_wrong_is_one_failure(
    platform: str,
    engines: Engines,
    server: Server,
    waits: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("DATALOOP_PATH", write_cookie(tmp_path, platform, PLATFORM)["DATALOOP_PATH"])
    for broken in (b"{", b"[]", b'{"routes": ["a"]}', b'{"routes": {}}'):
        server.will(answering(broken))
        assert "the app app-1" in failure(engines(app_id="app-1"), ask("hi"))
    server.will(dropping)
    assert engines(app_id="app-1").generate([ask("hi")])[0].text == "HI"


def test_its_thread_ends_with_an_engine(engines: Engines):
    before = set(threading.enumerate())
    engine = engines()
    assert set(threading.enumerate()) == before
    engine.generate([ask("hi")])
    [thread] = set(threading.enumerate()) - before
    del engine
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
